//! Host ports: reserved before anything long begins, in two ways. A lock file in the state folder, held until the VM has
//! ended, keeps other runs off; a bound socket, given up just before QEMU binds the port itself, keeps others off.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::SocketAddrV4,
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

/// One port's socket and lock.
#[derive(Debug)]
struct PortLease {
    _socket: OwnedFd,
    lock: File,
}

impl Reserved {
    /// The ports with their host sides settled.
    pub(crate) fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// Gives the sockets up, for QEMU to take; what keeps other runs off stays.
    pub(crate) fn release(self) -> Vec<File> {
        self.held.into_iter().map(|PortLease { lock, _socket: _ }| lock).collect()
    }
}

/// The same ports once more, for a VM that ran before.
pub(crate) fn reserve_again(state: &StateDir, forwards: &[Forward]) -> Result<Reserved, VmError> {
    let folder = state.ports();
    state::create_private(&folder).map_err(io_error("create", &folder))?;
    let held = forwards.iter().map(|forward| take(&folder, forward));
    Ok(Reserved { forwards: forwards.to_vec(), held: held.collect::<Result<_, _>>()? })
}

/// The locks of ports that a VM's QEMU has; those that another run got hold of meanwhile are left out.
pub(crate) fn hold(state: &StateDir, forwards: &[Forward]) -> Result<Vec<File>, VmError> {
    let folder = state.ports();
    state::create_private(&folder).map_err(io_error("create", &folder))?;
    let locks = forwards.iter().map(|forward| lock(&folder, forward.protocol, forward.host));
    Ok(locks.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Reserves every port of a launch; those without a host port get a free one of the allowed ranges.
pub(crate) fn reserve(
    state: &StateDir,
    launch: &Launch,
    allowed: &[PortRange],
) -> Result<Reserved, VmError> {
    let folder = state.ports();
    state::create_private(&folder).map_err(io_error("create", &folder))?;
    let mut reserved = Reserved { forwards: vec![], held: vec![] };
    // Those asked for by number first, so that none is picked for another label.
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

/// Whether the ports that a launch names are free, by a look that takes none of them.
pub(crate) fn are_free(state: &StateDir, launch: &Launch) -> Result<(), VmError> {
    let folder = state.ports();
    for port in &launch.ports {
        let Some(host) = port.host else { continue };
        let Forward { bind, protocol, .. } = Forward::of(port, host);
        let is_listened_on = || matches!(bound(bind, host, protocol, true), Err(Errno::ADDRINUSE));
        if is_held(&lock_of(&folder, protocol, host)) || is_listened_on() {
            return Err(VmError::PortTaken { port: host, bind, protocol: protocol.name() });
        }
    }
    Ok(())
}

fn is_held(lock: &Path) -> bool {
    let file = state::open_plain(File::options().read(true), lock);
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The ports that other runs hold, whether or not their QEMU listens yet.
pub(crate) fn held(state: &StateDir) -> Vec<u16> {
    let files = fs::read_dir(state.ports()).into_iter().flatten().flatten();
    let port = |path: PathBuf| path.extension()?.to_str()?.parse().ok();
    files.map(|file| file.path()).filter(|path| is_held(path)).filter_map(port).collect()
}

fn take(folder: &Path, forward: &Forward) -> Result<PortLease, VmError> {
    let Forward { bind, host, protocol, .. } = *forward;
    let (port, protocol) = (protocol, protocol.name());
    let taken = || VmError::PortTaken { port: host, bind, protocol };
    let lock = lock(folder, port, host)?.ok_or_else(taken)?;
    // Its VM may have ended a moment ago, and connections of a socket that was closed linger (TIME-WAIT).
    match bound(bind, host, port, true) {
        Ok(socket) => Ok(PortLease { _socket: socket, lock }),
        Err(Errno::ADDRINUSE) => Err(taken()),
        Err(error) => Err(VmError::Port { port: host, bind, protocol, source: error.into() }),
    }
}

/// The kernel's choice where that is allowed, else the first free one of the ranges.
fn pick(folder: &Path, port: &PortMap, allowed: &[PortRange]) -> Result<(PortLease, u16), VmError> {
    if let Ok(socket) = bound(port.bind, 0, port.protocol, false)
        && let Ok(host) = port_of(&socket)
        && allowed.iter().any(|range| range.contains(host))
        && let Some(lock) = lock(folder, port.protocol, host)?
    {
        return Ok((PortLease { _socket: socket, lock }, host));
    }
    let all = allowed.iter().flat_map(|range| range.first()..=range.last());
    for host in all {
        if let Ok(socket) = bound(port.bind, host, port.protocol, false)
            && let Some(lock) = lock(folder, port.protocol, host)?
        {
            return Ok((PortLease { _socket: socket, lock }, host));
        }
    }
    let ranges: Vec<_> = allowed.iter().map(PortRange::to_string).collect();
    Err(VmError::NoFreePort { label: port.label.clone(), ranges: ranges.join(", ") })
}

/// A port's lock, unless another run holds it. The file is empty and stays: there are no more of them than ports.
fn lock(folder: &Path, protocol: Protocol, port: u16) -> Result<Option<File>, VmError> {
    let path = lock_of(folder, protocol, port);
    let file = state::open_to_append(&path).map_err(io_error("open", &path))?;
    // A run that looks which ports are held holds each lock for a moment itself; only a longer hold is a run's own.
    for _ in 0..qhost_sys::limits::LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => thread::sleep(qhost_sys::limits::LOCK_POLL),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
    }
    Ok(None)
}

fn lock_of(folder: &Path, protocol: Protocol, port: u16) -> PathBuf {
    folder.join(format!("{}.{port}", protocol.name()))
}

fn port_of(socket: &OwnedFd) -> io::Result<u16> {
    let address = SocketAddrV4::try_from(getsockname(socket)?)?;
    Ok(address.port())
}
