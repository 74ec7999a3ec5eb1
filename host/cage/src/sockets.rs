//! The sockets that QEMU listens with. They are bound outside of it, where the host's network is, and take the place of QEMU's own
//! when it asks to bind one of these addresses; any other bind(2) is refused, and listen(2) does nothing (seccomp_unotify(2)). So
//! whatever runs in QEMU's place accepts and receives on the forwarded addresses alone, and its network namespace may be empty.
//!
//! The step that becomes QEMU binds them, and installs a filter by which the kernel asks about each bind(2). The supervisor
//! takes the sockets and the filter's descriptor from that step (pidfd_getfd(2)), and answers. Landlock cannot do this: its
//! rules have ports and no addresses, and it does not see the port that listen(2) binds.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::FileExt as _,
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
    process::{PidfdGetfdFlags, pidfd_getfd},
};
use seccompiler::sock_filter;
use serde::{Deserialize, Serialize};

use qhost_model::launch::{Forward, Protocol};

use super::{CageError, seccomp::line};
use crate::limits;

/// Gives a socket that is bound to an address and a port, and does not listen yet.
pub fn bound(
    address: Ipv4Addr,
    port: u16,
    protocol: Protocol,
    reuse: bool,
) -> Result<OwnedFd, Errno> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    // For UDP this option would let two processes share a port.
    if protocol == Protocol::Tcp && reuse {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddrV4::new(address, port))?;
    Ok(socket)
}

/// Binds a socket for each forwarded port, in order. TCP sockets listen.
pub(super) fn open(forwards: &[Forward]) -> Result<Vec<OwnedFd>, CageError> {
    forwards
        .iter()
        .map(|forward| listening(forward).map_err(|error| refused(forward, error)))
        .collect()
}

fn listening(forward: &Forward) -> Result<OwnedFd, Errno> {
    let Forward { bind, host, protocol, .. } = *forward;
    let socket = bound(bind, host, protocol, true)?;
    if protocol == Protocol::Tcp {
        listen(&socket, limits::CAGE_BACKLOG)?;
    }
    Ok(socket)
}

fn refused(Forward { bind, host, protocol, .. }: &Forward, error: Errno) -> CageError {
    let step = format!("listening on host port {host} ({} on {bind})", protocol.name());
    CageError { step: step.into(), source: error.into() }
}

/// Numbers of the descriptors that the supervisor takes from the step that becomes QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedSockets {
    /// The filter's descriptor, through which the kernel asks about each bind(2).
    binds: RawFd,
    /// The sockets, in the order of the forwarded ports.
    sockets: Vec<RawFd>,
}

impl HandedSockets {
    pub(super) fn new(binds: &OwnedFd, sockets: &[OwnedFd]) -> Self {
        let sockets = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
        Self { binds: binds.as_raw_fd(), sockets }
    }
}

/// From here on the kernel asks about each bind(2) through the descriptor that this returns. Without sockets it refuses each
/// bind(2) instead.
pub(super) fn restrict(has_sockets: bool) -> io::Result<Option<OwnedFd>> {
    let errno = |error: i32| libc::SECCOMP_RET_ERRNO | error.unsigned_abs();
    let bind = if has_sockets { libc::SECCOMP_RET_USER_NOTIF } else { errno(libc::EPERM) };
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let filter = [
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number(libc::SYS_bind)),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, bind),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number(libc::SYS_listen)),
        // QEMU is told that this succeeded: the sockets that it was given listen already.
        line(libc::BPF_RET | libc::BPF_K, 0, 0, errno(0)),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let flags = if has_sockets { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    let answer = install(&filter, flags)?;
    Ok(answer.filter(|_| has_sockets))
}

/// A filter program as the kernel reads it: `struct sock_fprog`.
#[repr(C)]
struct Program {
    lines: u16,
    first: *const sock_filter,
}

#[expect(unsafe_code, reason = "a system call that neither std nor rustix has a function for")]
fn install(filter: &[sock_filter], flags: libc::c_ulong) -> io::Result<Option<OwnedFd>> {
    let lines = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = Program { lines, first: filter.as_ptr() };
    let at = std::ptr::from_ref(&program);
    // SAFETY: the kernel copies the program, which outlives the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, at) };
    match i32::try_from(answer) {
        Ok(0) => Ok(None),
        // SAFETY: with the flag for it, the kernel has just opened this descriptor, and it has no other owner.
        Ok(opened @ 1..) => Ok(Some(unsafe { OwnedFd::from_raw_fd(opened) })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether this host's kernel asks about binds, and lets a supervisor answer.
pub(super) fn is_possible(is_root: bool) -> bool {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    let asks = read("seccomp/actions_avail").is_ok_and(|known| known.contains("user_notif"));
    // A supervisor takes descriptors only if Yama lets it: with scope 2 only root may, with scope 3 no process may (Yama.rst).
    let scope = read("yama/ptrace_scope").ok().and_then(|scope| scope.trim().parse().ok());
    let most = if is_root { 2 } else { 1 };
    asks && scope.unwrap_or(0) <= most
}

/// The supervisor's side: the sockets that QEMU has not asked for yet.
#[derive(Debug)]
pub struct BindListener {
    asked: OwnedFd,
    qemu: OwnedFd,
    waiting: Vec<(Forward, OwnedFd)>,
    /// How many more requests are answered.
    left: usize,
}

impl AsRawFd for BindListener {
    fn as_raw_fd(&self) -> RawFd {
        self.asked.as_raw_fd()
    }
}

impl BindListener {
    /// Takes the sockets and the filter's descriptor from the process that becomes QEMU.
    pub fn take(
        qemu: BorrowedFd<'_>,
        handed: &HandedSockets,
        forwards: &[Forward],
    ) -> io::Result<Self> {
        let take = |number| Ok(pidfd_getfd(qemu, number, PidfdGetfdFlags::empty())?);
        let sockets = handed.sockets.iter().map(|socket| take(*socket));
        let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
        let waiting = forwards.iter().cloned().zip(sockets).collect::<Vec<_>>();
        let left = waiting.len() + limits::CAGE_BINDS;
        Ok(Self { asked: take(handed.binds)?, qemu: qemu.try_clone_to_owned()?, waiting, left })
    }

    /// Answers one request. Gives false once no more requests are to be answered, as every socket is handed over, or there were more
    /// requests than QEMU makes.
    pub fn answer(&mut self) -> io::Result<bool> {
        self.left = self.left.saturating_sub(1);
        let mut request = libc::seccomp_notif { id: 0, pid: 0, flags: 0, data: NO_DATA };
        match control(&self.asked, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut request) {
            // The thread that asked has ended, or was interrupted.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return self.resuming(),
            received => received?,
        };
        let error = self.bind(&request).map_or_else(|error| -error.raw_os_error(), |()| 0);
        let mut answer = libc::seccomp_notif_resp { id: request.id, val: 0, error, flags: 0 };
        match control(&self.asked, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        self.resuming()
    }

    /// Whether further requests are to be answered.
    fn resuming(&self) -> io::Result<bool> {
        let mut asked = [PollFd::new(&self.asked, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec::default()))?;
        // The last process with the filter has ended.
        let is_over = asked.iter().any(|asked| asked.revents().contains(PollFlags::HUP));
        Ok(!is_over && !self.waiting.is_empty() && self.left > 0)
    }

    /// Puts the socket that is bound to the requested address in the place of QEMU's own.
    fn bind(&mut self, request: &libc::seccomp_notif) -> Result<(), Errno> {
        let [socket, address, length, ..] = request.data.args;
        let number = RawFd::try_from(socket).map_err(|_| Errno::BADF)?;
        let wanted = self.address(request, address, length)?;
        let theirs = pidfd_getfd(&self.qemu, number, PidfdGetfdFlags::empty())?;
        let protocol = match sockopt::socket_type(&theirs)? {
            SocketType::STREAM => Protocol::Tcp,
            SocketType::DGRAM => Protocol::Udp,
            _ => return Err(Errno::PERM),
        };
        let is_wanted = |forward: &Forward| {
            (SocketAddrV4::new(forward.bind, forward.host), forward.protocol) == (wanted, protocol)
        };
        let index = self.waiting.iter().position(|(forward, _)| is_wanted(forward));
        let (_, ours) = self.waiting.swap_remove(index.ok_or(Errno::PERM)?);
        let mut replace = libc::seccomp_notif_addfd {
            id: request.id,
            flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SETFD).unwrap_or_default(),
            srcfd: ours.as_raw_fd().unsigned_abs(),
            newfd: number.unsigned_abs(),
            newfd_flags: libc::O_CLOEXEC.unsigned_abs(),
        };
        control(&self.asked, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut replace)
            .map(drop)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Reads the requested address from QEMU's memory: `struct sockaddr_in`.
    fn address(
        &self,
        request: &libc::seccomp_notif,
        address: u64,
        length: u64,
    ) -> Result<SocketAddrV4, Errno> {
        let unreadable = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::FAULT);
        let mut bytes = [0; size_of::<libc::sockaddr_in>()];
        if length < bytes.len() as u64 {
            return Err(Errno::INVAL);
        }
        let memory = File::open(format!("/proc/{}/mem", request.pid)).map_err(unreadable)?;
        memory.read_exact_at(&mut bytes, address).map_err(unreadable)?;
        // If the thread had ended, its id, and so the memory just read, could be another process's by now.
        let mut id = request.id;
        control(&self.asked, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id).map_err(unreadable)?;
        let [family_low, family_high, port_high, port_low, a, b, c, d, ..] = bytes;
        if u16::from_ne_bytes([family_low, family_high]) == AddressFamily::INET.as_raw() {
            let port = u16::from_be_bytes([port_high, port_low]);
            Ok(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
        } else {
            Err(Errno::PERM)
        }
    }
}

const NO_DATA: libc::seccomp_data =
    libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };

#[expect(unsafe_code, reason = "rustix has no functions for these requests")]
fn control<T>(asked: &OwnedFd, request: libc::Ioctl, with: &mut T) -> io::Result<i32> {
    // SAFETY: each request reads and writes the structure of libc that it is called with here, and nothing beyond it.
    let answer = unsafe { libc::ioctl(asked.as_raw_fd(), request, std::ptr::from_mut(with)) };
    match answer {
        0.. => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
