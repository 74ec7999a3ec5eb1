//! What QEMU's sockets reach where they are in the host's network. With egress `internet` they connect and send to public IPv4 addresses
//! and no others, without egress to none; in both cases a forwarded UDP port answers the addresses that have sent it datagrams. Let in are
//! connections and datagrams to forwarded ports, and with egress answers. The kernel runs small BPF programs before each connect(2), each
//! datagram and each packet of a cgroup's processes (Linux 5.1). The programs are in force for as long as the group is there, whatever is
//! killed, and no firewall of the host's is changed.
//!
//! A network namespace with passt is not used: passt would be a second process for each VM, and reaches all that the host reaches, loopback
//! or not.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;

use qhost_sys::addresses;

use super::{
    CageError,
    bpf::{self, Call, Hook, Instruction, Map, Register},
    cgroup, hierarchy,
};
use crate::limits;

use Register::{Kept, R0, R1, R2, R3, R4, Stack};

const fn answer(answer: u32) -> [Instruction; 2] {
    Instruction::answer(answer)
}

/// The file in which the C library and QEMU's user-mode network look for the resolver.
pub(super) const RESOLVERS: &str = "/etc/resolv.conf";

/// The addresses that QEMU's sockets may connect to, and send to unasked.
enum Reach {
    Nowhere,
    /// All addresses but these networks, and the resolver's port for names.
    AllBut(Vec<Ipv4Net>, Option<Ipv4Addr>),
}

impl Reach {
    /// Public addresses but this host's own, and this host's resolver.
    fn internet() -> Result<Self, CageError> {
        let own = addresses::own().map_err(CageError::at("listing this host's addresses"))?;
        let own = own.into_iter().filter_map(|address| match address {
            IpAddr::V4(own) => Some(Ipv4Net::from(own)),
            IpAddr::V6(_) => None,
        });
        let denied = addresses::NOT_PUBLIC_V4.into_iter().chain(own).collect();
        Ok(Self::AllBut(denied, resolver()))
    }
}

/// The forwarded ports.
#[derive(Clone, Copy)]
pub(super) struct Ports<'a> {
    pub(super) tcp: &'a [u16],
    pub(super) udp: &'a [u16],
}

/// The group below which each VM that needs a filter has one, or the reason why there can be none.
pub(super) fn groups(group: &Path) -> io::Result<PathBuf> {
    let none = || io::Error::other("no cgroups of version 2 that this user may write to");
    let groups = hierarchy::unified(group).ok_or_else(none)?;
    // The programs are loaded and dropped, since only the kernel can say whether it takes them.
    programs(&Reach::Nowhere, Ports { tcp: &[], udp: &[1] })?;
    Ok(groups)
}

/// Moves this process, and so all that it starts, into a group with the filter. A group of an earlier start of the same VM is removed
/// first, since this host's addresses may have changed.
pub(super) fn enter(
    groups: &Path,
    vm: &str,
    ports: Ports<'_>,
    internet: bool,
) -> Result<(), CageError> {
    let group = groups.join(vm).join(cgroup::QEMU);
    let reach = if internet { Reach::internet()? } else { Reach::Nowhere };
    let made = CageError::at::<io::Error>("making a cgroup for what QEMU sends");
    cgroup::remove(&group).map_err(&made)?;
    fs::create_dir_all(&group).map_err(&made)?;
    let opened = File::open(&group).map_err(&made)?;
    let attached = CageError::at::<io::Error>(
        "attaching a filter of what QEMU sends, which one of a group above can forbid",
    );
    for (hook, program) in programs(&reach, ports).map_err(&attached)? {
        bpf::attach(&opened, &program, hook).map_err(&attached)?;
    }
    cgroup::join(&group).map_err(CageError::at("moving to the cgroup for what QEMU sends"))?;
    self_test().map_err(CageError::at("trying the filter of what QEMU sends"))
}

/// Tries the filter by connecting a datagram socket, which sends nothing. Where processes are in groups of version 1 for the network
/// (net_cls, net_prio), a kernel before 5.15 asks no program of version 2.
fn self_test() -> io::Result<()> {
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.connect((Ipv4Addr::LOCALHOST, 9)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Ok(()) | Err(_) => Err(io::Error::other("this host's loopback is reached all the same")),
    }
}

/// The resolver: the first IPv4 address of the file, which QEMU's user-mode network takes too (libslirp, `get_dns_addr`). The address may
/// be in a private network, or this host's.
fn resolver() -> Option<Ipv4Addr> {
    first_of(&fs::read_to_string(RESOLVERS).ok()?)
}

fn first_of(resolvers: &str) -> Option<Ipv4Addr> {
    resolvers.lines().find_map(|line| {
        let rest = line.strip_prefix("nameserver")?.strip_prefix([' ', '\t'])?;
        rest.split_whitespace().next()?.parse().ok()
    })
}

/// Loads the programs, each with the event before which the kernel runs it.
fn programs(reach: &Reach, ports: Ports<'_>) -> io::Result<Vec<(Hook, OwnedFd)>> {
    let connect = match reach {
        Reach::Nowhere => answer(0).to_vec(),
        Reach::AllBut(denied, resolver) => of_address(denied, *resolver),
    };
    let mut programs = vec![
        (Hook::Connect4, connect.clone()),
        // QEMU gets no IPv6 socket (`seccomp`), and needs none.
        (Hook::Connect6, answer(0).to_vec()),
        (Hook::Send6, answer(0).to_vec()),
    ];
    // The maps stay open until the programs that use them are loaded.
    let askers = if ports.udp.is_empty() { None } else { Some(Map::new(limits::CAGE_UDP_PEERS)?) };
    let send = match &askers {
        None => connect,
        Some(askers) => [is_asker(askers), connect].concat(),
    };
    programs.push((Hook::Send4, send));
    let asked = match reach {
        Reach::Nowhere => None,
        Reach::AllBut(..) => Some(Map::new(limits::CAGE_UDP_ASKED)?),
    };
    match (&asked, &askers) {
        (Some(asked), askers) => {
            programs.push((Hook::PacketOut, outgoing(Some(asked))));
            programs.push((Hook::PacketIn, incoming(asked, askers.as_ref(), ports)));
        }
        (None, askers) => {
            programs.push((Hook::PacketOut, outgoing(None)));
            let note = askers.iter().map(|askers| (Hook::PacketIn, note_askers(askers, ports.udp)));
            programs.extend(note);
        }
    }
    programs.into_iter().map(|(hook, program)| Ok((hook, bpf::load(&program, hook)?))).collect()
}

/// `user_ip4` and `user_port` of `struct bpf_sock_addr`, both in network order.
const ADDRESS: i16 = 4;
const PORT: i16 = 24;
const DNS: u32 = 53;

/// `data` and `data_end` of `struct __sk_buff`: a packet from its IP header on (RFC 791, 3.1; RFC 768; RFC 9293, 3.1).
const DATA: i16 = 76;
const DATA_END: i16 = 80;
const IP_BYTES: i32 = 20;
const UDP_BYTES: i32 = 8;
const VERSION_4_WITHOUT_OPTIONS: u32 = 0x45;
const PROTOCOL: i16 = 9;
const TCP: u32 = 6;
const UDP: u32 = 17;
const SOURCE: i16 = 12;
const DESTINATION: i16 = 16;
const SOURCE_PORT: i16 = 20;
const DESTINATION_PORT: i16 = 22;
const TCP_FLAGS: i16 = 33;
const SYN: u32 = 0x02;
const SYN_OR_ACK: u32 = 0x12;

/// Offsets on the stack: an address and its port in network order, which are a map's key, and a map's value.
const PEER: i16 = -8;
const PEER_PORT: i16 = -4;
const VALUE: i16 = -12;

/// Lets through what goes to the resolver's port for names, or to an address in none of these networks.
fn of_address(denied: &[Ipv4Net], resolver: Option<Ipv4Addr>) -> Vec<Instruction> {
    let (given, address, port, masked) = (R1, R2, R3, R4);
    let mut program = vec![
        Instruction::load_word(address, given, ADDRESS),
        Instruction::from_network_order(address, 32),
        Instruction::load_word(port, given, PORT),
        Instruction::from_network_order(port, 16),
    ];
    if let Some(resolver) = resolver {
        program.push(Instruction::skip_unless(address, resolver.to_bits(), 3));
        program.push(Instruction::skip_unless(port, DNS, 2));
        program.extend(answer(1));
    }
    for net in denied {
        program.extend([
            Instruction::copy_word(masked, address),
            Instruction::and_word(masked, net.netmask().to_bits()),
            Instruction::skip_unless(masked, net.network().to_bits(), 2),
        ]);
        program.extend(answer(0));
    }
    program.extend(answer(1));
    program
}

/// Lets through a datagram to an address and port that have sent one; for others the program goes on.
fn is_asker(peers: &Map) -> Vec<Instruction> {
    let mut program = vec![
        Instruction::copy(Kept, R1),
        Instruction::load_word(R2, R1, ADDRESS),
        Instruction::store_word(Stack, PEER, R2),
        Instruction::load_word(R2, R1, PORT),
        Instruction::store_word(Stack, PEER_PORT, R2),
    ];
    program.extend(Instruction::map(R1, peers));
    program.extend([
        Instruction::copy(R2, Stack),
        Instruction::add(R2, PEER.into()),
        Instruction::call(Call::MapLookup),
        Instruction::skip_if_null(R0, 2),
    ]);
    program.extend(answer(1));
    program.push(Instruction::copy(R1, Kept));
    program
}

/// The registers that have a packet's beginning, its end, and the value that a program looks at next.
const PACKET: Register = R2;
const END: Register = R3;
const SOME: Register = R4;

/// Finds a packet that has so many bytes and no IP options; for others skips so many instructions.
fn packet(bytes: i32, otherwise: i16) -> Vec<Instruction> {
    vec![
        Instruction::load_word(PACKET, R1, DATA),
        Instruction::load_word(END, R1, DATA_END),
        Instruction::copy(SOME, PACKET),
        Instruction::add(SOME, bytes),
        Instruction::skip_if_greater(SOME, END, otherwise + 2),
        Instruction::load_byte(SOME, PACKET, 0),
        Instruction::skip_unless(SOME, VERSION_4_WITHOUT_OPTIONS, otherwise),
    ]
}

/// Puts a packet's address and port onto the stack, as a map's key.
fn key(address: i16, port: i16) -> [Instruction; 4] {
    [
        Instruction::load_word(SOME, PACKET, address),
        Instruction::store_word(Stack, PEER, SOME),
        Instruction::load_half(SOME, PACKET, port),
        Instruction::store_word(Stack, PEER_PORT, SOME),
    ]
}

/// Looks up the key on the stack: R0 points to the value, or is null.
fn look_up(peers: &Map) -> Vec<Instruction> {
    let mut program = Instruction::map(R1, peers).to_vec();
    program.extend([
        Instruction::copy(R2, Stack),
        Instruction::add(R2, PEER.into()),
        Instruction::call(Call::MapLookup),
    ]);
    program
}

/// Adds an address and a port of the packet to a map.
fn note(peers: &Map, address: i16, port: i16) -> Vec<Instruction> {
    let mut update = Instruction::map(R1, peers).to_vec();
    update.extend([
        Instruction::copy(R2, Stack),
        Instruction::add(R2, PEER.into()),
        Instruction::copy(R3, Stack),
        Instruction::add(R3, VALUE.into()),
        Instruction::set(R4, 0),
        Instruction::call(Call::MapUpdate),
    ]);
    let mut program = key(address, port).to_vec();
    program.push(Instruction::store_number(Stack, VALUE, 1));
    // Looking up an entry keeps it from being the next that the kernel forgets, and is cheaper than adding it again.
    program.extend(look_up(peers));
    program.push(Instruction::skip_unless_null(R0, length(&update)));
    program.extend(update);
    program
}

/// Skips so many instructions if the packet is for one of these ports.
fn skip_if_to(ports: &[u16], skip: i16) -> Vec<Instruction> {
    let mut program = vec![
        Instruction::load_half(SOME, PACKET, DESTINATION_PORT),
        Instruction::from_network_order(SOME, 16),
    ];
    let behind = (0..length(ports)).rev().map(|left| left + skip);
    let ports = ports.iter().zip(behind);
    program.extend(ports.map(|(port, skip)| Instruction::skip_if(SOME, (*port).into(), skip)));
    program
}

/// Adds the sender of each datagram to one of these ports to a map; refuses nothing. Datagrams to other ports add no sender: otherwise a
/// service that broadcasts would be added, and QEMU could then send to it.
fn note_askers(askers: &Map, ports: &[u16]) -> Vec<Instruction> {
    let note = note(askers, SOURCE, SOURCE_PORT);
    let mut to_port = skip_if_to(ports, 1);
    to_port.push(Instruction::skip(length(&note)));
    to_port.extend(note);
    let rest = length(&to_port);
    let mut program = packet(IP_BYTES + UDP_BYTES, rest + 2);
    program.push(Instruction::load_byte(SOME, PACKET, PROTOCOL));
    program.push(Instruction::skip_unless(SOME, UDP, rest));
    program.extend(to_port);
    program.extend(answer(1));
    program
}

/// Lets in new connections to forwarded ports, packets of connections that exist, datagrams to forwarded ports, and datagrams
/// from addresses and ports that QEMU sent one to. Without the last rule, any datagram would come in at the port that the
/// kernel gives a socket that sends.
fn incoming(asked: &Map, askers: Option<&Map>, ports: Ports<'_>) -> Vec<Instruction> {
    let (tcp, udp) = (to_tcp(ports.tcp), to_udp(asked, askers, ports.udp));
    let rest = length(&tcp) + length(&udp) + 3;
    let mut program = packet(IP_BYTES + UDP_BYTES, rest);
    program.push(Instruction::load_byte(SOME, PACKET, PROTOCOL));
    program.push(Instruction::skip_unless(SOME, TCP, length(&tcp)));
    program.extend(tcp);
    program.push(Instruction::skip_unless(SOME, UDP, length(&udp)));
    program.extend(udp);
    program.extend(answer(0));
    program
}

fn to_tcp(ports: &[u16]) -> Vec<Instruction> {
    let to_port = skip_if_to(ports, 2);
    let rest = length(&to_port) + 2;
    let mut program = vec![
        Instruction::copy(SOME, PACKET),
        Instruction::add(SOME, i32::from(TCP_FLAGS) + 1),
        // Skips to the refusal.
        Instruction::skip_if_greater(SOME, END, rest + 1),
        Instruction::load_byte(SOME, PACKET, TCP_FLAGS),
        Instruction::and_word(SOME, SYN_OR_ACK),
        Instruction::skip_unless(SOME, SYN, rest),
    ];
    program.extend(to_port);
    program.extend(answer(0));
    program.extend(answer(1));
    program
}

fn to_udp(asked: &Map, askers: Option<&Map>, ports: &[u16]) -> Vec<Instruction> {
    let mut is_answer = key(SOURCE, SOURCE_PORT).to_vec();
    is_answer.extend(look_up(asked));
    is_answer.push(Instruction::skip_if_null(R0, 2));
    is_answer.extend(answer(1));
    is_answer.extend(answer(0));
    if ports.is_empty() {
        return is_answer;
    }
    let mut program = skip_if_to(ports, length(&is_answer));
    program.extend(is_answer);
    program.extend(askers.map(|askers| note(askers, SOURCE, SOURCE_PORT)).unwrap_or_default());
    program.extend(answer(1));
    program
}

/// Refuses packets with IP options: by source routing (RFC 791, 3.1) such a packet goes elsewhere than the socket's address says. Adds the
/// destination of each datagram to `asked`, so that answers from there are let in.
fn outgoing(asked: Option<&Map>) -> Vec<Instruction> {
    let note = asked.map(|asked| {
        let note = note(asked, DESTINATION, DESTINATION_PORT);
        let mut of_udp = vec![
            Instruction::load_byte(SOME, PACKET, PROTOCOL),
            Instruction::skip_unless(SOME, UDP, length(&note) + 3),
            Instruction::copy(SOME, PACKET),
            Instruction::add(SOME, IP_BYTES + UDP_BYTES),
            Instruction::skip_if_greater(SOME, END, length(&note) + 2),
        ];
        of_udp.extend(note);
        of_udp
    });
    let note = note.unwrap_or_default();
    let mut program = packet(IP_BYTES, length(&note) + 2);
    program.extend(note);
    program.extend(answer(1));
    program.extend(answer(0));
    program
}

/// The number of instructions to skip. Where the number does not fit, the kernel refuses the program as too long.
fn length<T>(instructions: &[T]) -> i16 {
    i16::try_from(instructions.len()).unwrap_or(i16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would, and gives its answer for an address and a port.
    fn answer(program: &[Instruction], address: Ipv4Addr, port: u16) -> u64 {
        let bytes: Vec<u8> = program.iter().flat_map(|one| one.bytes()).collect();
        let mut context = [0; 32];
        context[4..8].copy_from_slice(&address.octets());
        context[24..26].copy_from_slice(&port.to_be_bytes());
        rbpf::EbpfVmRaw::new(Some(&bytes)).unwrap().execute_program(&mut context).unwrap()
    }

    #[test]
    fn the_program_knows_the_first_and_the_last_address_of_each_network() {
        let program = of_address(&addresses::NOT_PUBLIC_V4, None);
        for net in addresses::NOT_PUBLIC_V4 {
            for inside in [net.network(), net.broadcast()] {
                assert_eq!(answer(&program, inside, 443), 0, "{inside}");
            }
            let before = net.network().to_bits().checked_sub(1);
            let after = net.broadcast().to_bits().checked_add(1);
            for beside in [before, after].into_iter().flatten().map(Ipv4Addr::from_bits) {
                let public = addresses::is_public(beside.into());
                assert_eq!(answer(&program, beside, 443), u64::from(public), "{beside}");
            }
        }
    }

    #[test]
    fn of_the_resolver_only_its_port_for_names() {
        let resolver = Ipv4Addr::new(127, 0, 0, 53);
        let program = of_address(&addresses::NOT_PUBLIC_V4, Some(resolver));
        for (address, port, expected) in [
            (resolver, 53, 1),
            (resolver, 54, 0),
            (Ipv4Addr::new(127, 0, 0, 54), 53, 0),
            (Ipv4Addr::new(1, 1, 1, 1), 54, 1),
        ] {
            assert_eq!(answer(&program, address, port), expected, "{address}:{port}");
        }
    }

    #[test]
    fn the_resolver_is_the_one_that_libslirp_takes() {
        for (text, expected) in [
            ("nameserver 10.0.0.1\nnameserver 10.0.0.2\n", Some([10, 0, 0, 1])),
            ("# none\nnameserver fe80::1\nnameserver\t10.0.0.2 # its name\n", Some([10, 0, 0, 2])),
            (" nameserver 10.0.0.1\nnameservers 10.0.0.2\n", None),
            ("", None),
        ] {
            assert_eq!(first_of(text), expected.map(Ipv4Addr::from), "{text}");
        }
    }
}
