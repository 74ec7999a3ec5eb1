//! Host ports, which are reserved in two ways before any slow step begins. A lock file in the state folder, held until the VM has ended,
//! keeps other runs off; a bound socket, given up just before QEMU's own is bound, keeps other programs off.

use std::{
    fs::{self, File, TryLockError},
    io, iter,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
};

use rustix::{io::Errno, net::getsockname};

use qhost_cage::bound;
use qhost_model::launch::{Forward, Launch, PortMap, PortRange, Protocol};
use qhost_sys::state::{self, StateDir};
use qhost_vm::{VmError, error::io_error};

/// Ports that no other process can take while this exists.
#[derive(Debug)]
pub(crate) struct Reserved {
    forwards: Vec<Forward>,
    held: Vec<PortLease>,
}

/// One port's socket and locks.
#[derive(Debug)]
struct PortLease {
    _socket: OwnedFd,
    locks: Vec<File>,
}

impl Reserved {
    /// The forwarded ports, each with its host port.
    pub(crate) fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// Gives the sockets up, for QEMU to take. The locks that keep other runs off stay.
    pub(crate) fn release(self) -> Vec<File> {
        self.held.into_iter().flat_map(|PortLease { locks, _socket: _ }| locks).collect()
    }
}

/// Reserves the earlier ports of a VM that ran before.
pub(crate) fn reserve_again(state: &StateDir, forwards: &[Forward]) -> Result<Reserved, VmError> {
    let folder = state.ports();
    state::create_private(&folder).map_err(io_error("create", &folder))?;
    let held = forwards.iter().map(|forward| take(&folder, forward));
    Ok(Reserved { forwards: forwards.to_vec(), held: held.collect::<Result<_, _>>()? })
}

/// Takes the locks of the ports that a VM's QEMU has. Ports that another run has taken meanwhile are left out.
pub(crate) fn hold(state: &StateDir, forwards: &[Forward]) -> Result<Vec<File>, VmError> {
    let folder = state.ports();
    state::create_private(&folder).map_err(io_error("create", &folder))?;
    let locks = forwards.iter().map(|forward| lock(&folder, Port::of(forward)));
    Ok(locks.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().flatten().collect())
}

/// Reserves every port of a launch. A port without a host port gets a free one from the allowed ranges.
pub(crate) fn reserve(
    state: &StateDir,
    launch: &Launch,
    allowed: &[PortRange],
) -> Result<Reserved, VmError> {
    let folder = state.ports();
    state::create_private(&folder).map_err(io_error("create", &folder))?;
    let mut reserved = Reserved { forwards: vec![], held: vec![] };
    // Ports that are asked for by number come first, so that none of them is picked for another label.
    let (named, any): (Vec<_>, Vec<_>) = launch.ports.iter().partition(|port| port.host.is_some());
    for port in named.into_iter().chain(any) {
        let (held, host) = match port.host {
            Some(host) => (take(&folder, &Forward::of(port, host))?, host),
            None => pick(&folder, port, allowed)?,
        };
        reserved.held.push(held);
        reserved.forwards.push(Forward::of(port, host));
    }
    Ok(reserved)
}

/// Checks that the ports that a launch names are free, without taking any of them.
pub(crate) fn are_free(state: &StateDir, launch: &Launch) -> Result<(), VmError> {
    let folder = state.ports();
    for port in &launch.ports {
        let Some(host) = port.host else { continue };
        let forward = Forward::of(port, host);
        let Forward { bind, protocol, .. } = forward;
        let is_listened_on = || matches!(bound(bind, host, protocol, true), Err(Errno::ADDRINUSE));
        if Port::of(&forward).is_held(&folder) || is_listened_on() {
            return Err(VmError::PortTaken { port: host, bind, protocol: protocol.name() });
        }
    }
    Ok(())
}

/// The ports that other runs hold, whether or not their QEMU listens yet.
pub(crate) fn held(state: &StateDir) -> Vec<u16> {
    let files = fs::read_dir(state.ports()).into_iter().flatten().flatten();
    // A port that is held at one address has a lock file named with that address.
    let held = files.map(|file| file.path()).filter(|path| is_held(path));
    held.filter_map(|path| number_of(&path)).collect()
}

/// Whether a run holds a lock exclusively. Looking takes a shared lock, so that looks at the same time do not see each other.
fn is_held(lock: &Path) -> bool {
    let file = state::open_plain(File::options().read(true), lock);
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The port's number in the name of a lock, `tcp.8080` or `tcp.8080@127.0.0.2`.
fn number_of(lock: &Path) -> Option<u16> {
    let (_, number) = lock.file_name()?.to_str()?.split_once('.')?;
    number.split('@').next()?.parse().ok()
}

fn take(folder: &Path, forward: &Forward) -> Result<PortLease, VmError> {
    let Forward { bind, host, protocol, .. } = *forward;
    let (transport, protocol) = (protocol, protocol.name());
    let taken = || VmError::PortTaken { port: host, bind, protocol };
    let locks = lock(folder, Port::of(forward))?.ok_or_else(taken)?;
    // The address is reused, since an earlier VM may have ended a moment ago, and connections of a closed socket linger (TIME-WAIT).
    match bound(bind, host, transport, true) {
        Ok(socket) => Ok(PortLease { _socket: socket, locks }),
        Err(Errno::ADDRINUSE) => Err(taken()),
        Err(error) => Err(VmError::Port { port: host, bind, protocol, source: error.into() }),
    }
}

/// Picks the port that the kernel chooses, if it is allowed, and else the first free port in the ranges.
fn pick(folder: &Path, port: &PortMap, allowed: &[PortRange]) -> Result<(PortLease, u16), VmError> {
    if let Ok(socket) = bound(port.bind, 0, port.protocol, false)
        && let Ok(host) = port_of(&socket)
        && allowed.iter().any(|range| range.contains(host))
        && let Some(locks) = lock(folder, Port::of(&Forward::of(port, host)))?
    {
        return Ok((PortLease { _socket: socket, locks }, host));
    }
    let all = allowed.iter().flat_map(|range| range.first()..=range.last());
    for host in all {
        if let Ok(socket) = bound(port.bind, host, port.protocol, false)
            && let Some(locks) = lock(folder, Port::of(&Forward::of(port, host)))?
        {
            return Ok((PortLease { _socket: socket, locks }, host));
        }
    }
    let ranges: Vec<_> = allowed.iter().map(PortRange::to_string).collect();
    Err(VmError::NoFreePort { label: port.label.clone(), ranges: ranges.join(", ") })
}

/// Takes a port's locks, unless another run holds one of them.
fn lock(folder: &Path, port: Port) -> Result<Option<Vec<File>>, VmError> {
    let mut held = vec![];
    for lock in port.locks(folder) {
        let Some(lock) = lock.take()? else { return Ok(None) };
        held.push(lock);
    }
    Ok(Some(held))
}

/// A port of the host at one of its addresses, or at all of them.
struct Port {
    bind: Ipv4Addr,
    number: u16,
    protocol: Protocol,
}

impl Port {
    fn of(forward: &Forward) -> Self {
        Self { bind: forward.bind, number: forward.host, protocol: forward.protocol }
    }

    /// Whether another run holds the port, by a look that keeps no lock.
    fn is_held(&self, folder: &Path) -> bool {
        let number = format!("{}.{}", self.protocol.name(), self.number);
        if is_held(&folder.join(&number)) {
            return true;
        }
        if !self.bind.is_unspecified() {
            return is_held(&folder.join(format!("{number}@{}", self.bind)));
        }
        let at_any = format!("{number}@");
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let is_of_it =
            |file: &fs::DirEntry| file.file_name().to_string_lossy().starts_with(&at_any);
        files.filter(is_of_it).any(|file| is_held(&file.path()))
    }

    /// The locks of the port: that of its number, which a VM at all addresses holds exclusively, and that of the number at its address.
    fn locks(&self, folder: &Path) -> Vec<PortLock> {
        let number = format!("{}.{}", self.protocol.name(), self.number);
        let at = format!("{number}@{}", self.bind);
        let is_at_all = self.bind.is_unspecified();
        let of_number = PortLock { path: folder.join(number), shared: !is_at_all };
        let of_address = (!is_at_all).then(|| PortLock { path: folder.join(at), shared: false });
        iter::once(of_number).chain(of_address).collect()
    }
}

/// A file that keeps other runs off a port. Such files are empty and stay: there are no more of them than ports at addresses.
struct PortLock {
    path: PathBuf,
    /// Whether other runs may hold the lock too.
    shared: bool,
}

impl PortLock {
    /// Takes the lock, unless another run holds it.
    fn take(&self) -> Result<Option<File>, VmError> {
        let file = state::open_to_lock(&self.path).map_err(io_error("open", &self.path))?;
        // A run that looks at which ports are held holds each lock for a moment; only a longer hold means that the port is taken.
        for _ in 0..qhost_sys::limits::LOCK_TRIES {
            let locked = if self.shared { file.try_lock_shared() } else { file.try_lock() };
            match locked {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => thread::sleep(qhost_sys::limits::LOCK_POLL),
                Err(TryLockError::Error(error)) => return Err(io_error("lock", &self.path)(error)),
            }
        }
        Ok(None)
    }
}

fn port_of(socket: &OwnedFd) -> io::Result<u16> {
    let address = SocketAddrV4::try_from(getsockname(socket)?)?;
    Ok(address.port())
}
