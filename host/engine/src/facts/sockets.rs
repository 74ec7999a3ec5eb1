//! The ports of this host's sockets, by a query to the kernel (sock_diag(7)). The kernel's text tables, `/proc/net/tcp` and the like, take
//! milliseconds, since the kernel goes through every bucket of all connections for them.

use std::{collections::BTreeSet, io};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::limits;

/// Ports with a TCP listener or a UDP socket, whatever the address. A query that fails adds no ports: the ports that a launch gets are
/// bound in any case.
pub(super) fn bound_ports() -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for (protocol, states) in [(IPPROTO_TCP, StateFlags::LISTEN), (IPPROTO_UDP, StateFlags::all())]
    {
        for family in [AF_INET, AF_INET6] {
            if let Err(error) = add(family, protocol, states.clone(), &mut ports) {
                tracing::debug!(%error, family, protocol, "the kernel does not tell its sockets");
            }
        }
    }
    ports
}

fn add(family: u8, protocol: u8, states: StateFlags, ports: &mut BTreeSet<u16>) -> io::Result<()> {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let extensions = netlink_packet_sock_diag::inet::ExtensionFlags::empty();
    let request = InetRequest { family, protocol, extensions, states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(limits::NETLINK_BYTES);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            if let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) =
                &message.payload
            {
                ports.insert(found.header.socket_id.source_port);
            } else if let NetlinkPayload::Error(error) = &message.payload {
                return Err(error.to_io());
            } else if let NetlinkPayload::Done(done) = &message.payload {
                return match done.code {
                    0.. => Ok(()),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
            // Each message begins at a multiple of four bytes (netlink(7)).
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn what_listens_is_found_and_what_only_connects_is_not() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(four.local_addr().unwrap()).unwrap();
        let mut found = bound_ports();
        for listening in [four.local_addr(), six.local_addr(), datagrams.local_addr()] {
            assert!(found.contains(&listening.unwrap().port()));
        }
        found.clear();
        add(AF_INET, IPPROTO_TCP, StateFlags::LISTEN, &mut found).unwrap();
        assert!(!found.contains(&client.local_addr().unwrap().port()));
    }

    /// The sockets are more than fit into one answer.
    #[test]
    fn all_are_found() {
        let all: Vec<_> = (0..200).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let found = bound_ports();
        assert!(all.iter().all(|one| found.contains(&one.local_addr().unwrap().port())));
    }
}
