//! Host ports: reserved by binding them before anything long begins, given up just before QEMU binds them itself.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt},
};

use super::VmError;
use crate::{
    job::Protocol,
    policy::{Launch, PortMap, PortRange},
    qemu::Forward,
};

/// Ports that no other process can take while this exists.
#[derive(Debug)]
pub struct Reserved {
    forwards: Vec<Forward>,
    sockets: Vec<OwnedFd>,
}

impl Reserved {
    /// The ports with their host sides settled.
    pub fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// Gives the ports up, for QEMU to take.
    pub(super) fn release(self) {
        drop(self.sockets);
    }
}

/// Reserves every port of a launch; those without a host port get a free one of the allowed ranges.
pub fn reserve(launch: &Launch, allowed: &[PortRange]) -> Result<Reserved, VmError> {
    let mut reserved = Reserved { forwards: vec![], sockets: vec![] };
    // Those asked for by number first, so that none is picked for another label.
    let (named, any): (Vec<_>, Vec<_>) = launch.ports.iter().partition(|port| port.host.is_some());
    for port in named.into_iter().chain(any) {
        let (socket, host) = match port.host {
            Some(host) => (take(port, host)?, host),
            None => pick(port, allowed)?,
        };
        reserved.sockets.push(socket);
        reserved.forwards.push(Forward {
            label: port.label.clone(),
            bind: port.bind,
            host,
            guest: port.guest,
            protocol: port.protocol,
        });
    }
    Ok(reserved)
}

fn take(port: &PortMap, host: u16) -> Result<OwnedFd, VmError> {
    let (bind, protocol) = (port.bind, port.protocol.name());
    bound(bind, host, port.protocol, Reuse::AfterClose).map_err(|error| match error {
        Errno::ADDRINUSE => VmError::PortTaken { port: host, bind, protocol },
        error => VmError::Port { port: host, bind, protocol, source: error.into() },
    })
}

/// The kernel's choice where that is allowed, else the first free one of the ranges.
fn pick(port: &PortMap, allowed: &[PortRange]) -> Result<(OwnedFd, u16), VmError> {
    if let Ok(socket) = bound(port.bind, 0, port.protocol, Reuse::Never)
        && let Ok(host) = port_of(&socket)
        && allowed.iter().any(|range| range.contains(host))
    {
        return Ok((socket, host));
    }
    let all = allowed.iter().flat_map(|range| range.first()..=range.last());
    for host in all {
        if let Ok(socket) = bound(port.bind, host, port.protocol, Reuse::Never) {
            return Ok((socket, host));
        }
    }
    let ranges: Vec<_> = allowed.iter().map(PortRange::to_string).collect();
    Err(VmError::NoFreePort { label: port.label.clone(), ranges: ranges.join(", ") })
}

/// Whether a port counts as free while connections of a socket that was closed linger (TIME-WAIT).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// For a port that was asked for: its VM may have ended a moment ago. Two runs that ask for one port both get it
    /// here, and the second QEMU fails.
    AfterClose,
    /// For a port that is picked: it is nobody else's, of those picked by other runs at this moment too.
    Never,
}

/// Bound, not listening: a client is refused rather than left to wait.
fn bound(address: Ipv4Addr, port: u16, protocol: Protocol, reuse: Reuse) -> Result<OwnedFd, Errno> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    // As QEMU does. For UDP it would let two processes share a port.
    if protocol == Protocol::Tcp && reuse == Reuse::AfterClose {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddrV4::new(address, port))?;
    Ok(socket)
}

fn port_of(socket: &OwnedFd) -> io::Result<u16> {
    let address = SocketAddrV4::try_from(getsockname(socket)?)?;
    Ok(address.port())
}
