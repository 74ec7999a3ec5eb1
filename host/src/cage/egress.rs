//! What QEMU's sockets reach where they are in the host's network: with egress `internet` public IPv4 addresses and no other,
//! without it nothing; and in both cases those that a datagram to a forwarded UDP port has come from, to be answered. Small
//! programs that the kernel runs before each connect(2), each datagram and each packet of a cgroup's processes (Linux 5.1).
//! They are in force for as long as the group is there, whatever is killed, and no firewall of the host's is changed.
//!
//! Not by a network namespace and passt: ports are forwarded by QEMU's own user-mode network, which has to be the host's for
//! that; passt would be a second process for each VM, and what it reaches is what the host reaches, loopback or not.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;

use super::{
    CageError,
    bpf::{self, Call, Hook, Instruction, Map, Register},
    cgroup,
};
use crate::{addresses, limits};

use Register::{Kept, R0, R1, R2, R3, R4, Stack};

const fn answer(answer: u32) -> [Instruction; 2] {
    Instruction::answer(answer)
}

/// Where the C library, and QEMU's user-mode network, look for who resolves names.
pub(super) const RESOLVERS: &str = "/etc/resolv.conf";

/// Where QEMU's sockets may connect to, and send to unasked.
enum Reach {
    Nowhere,
    /// Not these networks; but of the resolver its port for names.
    AllBut(Vec<Ipv4Net>, Option<Ipv4Addr>),
}

impl Reach {
    /// Public addresses, of which none is this host's, and its resolver.
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

/// The group below which each VM that needs it has one; why not, where that cannot be.
pub(super) fn groups(group: &Path) -> io::Result<PathBuf> {
    let none = || io::Error::other("no cgroups of version 2 that this user may write to");
    let groups = cgroup::unified(group).ok_or_else(none)?;
    // Loaded and let go: whether the kernel takes them, only the kernel can say.
    programs(&Reach::Nowhere, &[1])?;
    Ok(groups)
}

/// Moves this process, and so all that it starts, into a group that reaches only what it may. One of an earlier start of the same
/// VM makes room for it: this host's addresses may have changed.
pub(super) fn enter(
    groups: &Path,
    vm: &str,
    (udp, internet): (&[u16], bool),
) -> Result<(), CageError> {
    let group = groups.join(vm);
    let reach = if internet { Reach::internet()? } else { Reach::Nowhere };
    let made = CageError::at::<io::Error>("making a cgroup for what QEMU sends");
    cgroup::remove(&group).map_err(&made)?;
    fs::create_dir_all(&group).map_err(&made)?;
    let opened = File::open(&group).map_err(&made)?;
    let attached = CageError::at::<io::Error>(
        "attaching a filter of what QEMU sends, which one of a group above can forbid",
    );
    for (hook, program) in programs(&reach, udp).map_err(&attached)? {
        bpf::attach(&opened, &program, hook).map_err(&attached)?;
    }
    cgroup::join(&group).map_err(CageError::at("moving to the cgroup for what QEMU sends"))?;
    try_it().map_err(CageError::at("trying the filter of what QEMU sends"))
}

/// A datagram socket that is connected sends nothing by that. Where processes are in groups of version 1 for the network
/// (net_cls, net_prio), a kernel before 5.15 asks no program of version 2.
fn try_it() -> io::Result<()> {
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.connect((Ipv4Addr::LOCALHOST, 9)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Ok(()) | Err(_) => Err(io::Error::other("this host's loopback is reached all the same")),
    }
}

/// Who resolves names: the first IPv4 address of the file, the one that QEMU's user-mode network takes (libslirp,
/// `get_dns_addr`). It may be of a private network, or this host.
fn resolver() -> Option<Ipv4Addr> {
    first_of(&fs::read_to_string(RESOLVERS).ok()?)
}

fn first_of(resolvers: &str) -> Option<Ipv4Addr> {
    resolvers.lines().find_map(|line| {
        let rest = line.strip_prefix("nameserver")?.strip_prefix([' ', '\t'])?;
        rest.split_whitespace().next()?.parse().ok()
    })
}

/// What the kernel runs before what, loaded.
fn programs(reach: &Reach, udp: &[u16]) -> io::Result<Vec<(Hook, OwnedFd)>> {
    let connect = match reach {
        Reach::Nowhere => answer(0).to_vec(),
        Reach::AllBut(denied, resolver) => of_address(denied, *resolver),
    };
    let mut programs = vec![
        (Hook::Connect4, connect.clone()),
        // QEMU gets no socket of IPv6 (`seccomp`), and needs none.
        (Hook::Connect6, answer(0).to_vec()),
        (Hook::Send6, answer(0).to_vec()),
        (Hook::PacketOut, of_packet()),
    ];
    // Open until what goes by it is loaded.
    let peers = if udp.is_empty() { None } else { Some(Map::new(limits::CAGE_UDP_PEERS)?) };
    match &peers {
        None => programs.push((Hook::Send4, connect)),
        Some(peers) => {
            programs.push((Hook::Send4, [of_peer(peers), connect].concat()));
            programs.push((Hook::PacketIn, note_peer(peers, udp)));
        }
    }
    programs.into_iter().map(|(hook, program)| Ok((hook, bpf::load(&program, hook)?))).collect()
}

/// `user_ip4` and `user_port` of `struct bpf_sock_addr`, both in network order.
const ADDRESS: i16 = 4;
const PORT: i16 = 24;
const DNS: u32 = 53;

/// `data` and `data_end` of `struct __sk_buff`: a packet from its IP header on (RFC 791, 3.1; RFC 768).
const DATA: i16 = 76;
const DATA_END: i16 = 80;
const IP_BYTES: i32 = 20;
const UDP_BYTES: i32 = 8;
const VERSION_4_WITHOUT_OPTIONS: u32 = 0x45;
const PROTOCOL: i16 = 9;
const UDP: u32 = 17;
const SOURCE: i16 = 12;
const SOURCE_PORT: i16 = 20;
const DESTINATION_PORT: i16 = 22;

/// Where on the stack an address and its port are, as they are on the wire, which is a map's key; and a value.
const PEER: i16 = -8;
const PEER_PORT: i16 = -4;
const VALUE: i16 = -12;

/// Lets through what goes to the resolver's port for names, and else what goes to none of these networks.
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

/// Lets a datagram through that goes to where one has come from; else goes on.
fn of_peer(peers: &Map) -> Vec<Instruction> {
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

/// Notes where a datagram to one of these ports comes from; refuses nothing. To others, QEMU could have itself sent something by
/// whoever sends to all.
fn note_peer(peers: &Map, ports: &[u16]) -> Vec<Instruction> {
    let (data, end, some) = (R2, R3, R4);
    let update = [
        Instruction::map(R1, peers).to_vec(),
        vec![
            Instruction::copy(R2, Stack),
            Instruction::add(R2, PEER.into()),
            Instruction::copy(R3, Stack),
            Instruction::add(R3, VALUE.into()),
            Instruction::set(R4, 0),
            Instruction::call(Call::MapUpdate),
        ],
    ]
    .concat();
    let note = [
        vec![
            Instruction::load_word(some, data, SOURCE),
            Instruction::store_word(Stack, PEER, some),
            Instruction::load_half(some, data, SOURCE_PORT),
            Instruction::store_word(Stack, PEER_PORT, some),
            Instruction::store_number(Stack, VALUE, 1),
        ],
        // One that is there already is heard again by being looked up, which is cheaper.
        Instruction::map(R1, peers).to_vec(),
        vec![
            Instruction::copy(R2, Stack),
            Instruction::add(R2, PEER.into()),
            Instruction::call(Call::MapLookup),
            Instruction::skip_unless_null(R0, length(&update)),
        ],
        update,
    ]
    .concat();
    let mut by_port = vec![
        Instruction::load_half(some, data, DESTINATION_PORT),
        Instruction::from_network_order(some, 16),
    ];
    let left = (0..=length(ports)).rev();
    let ports = ports.iter().zip(left);
    by_port.extend(ports.map(|(port, left)| Instruction::skip_if(some, (*port).into(), left)));
    by_port.push(Instruction::skip(length(&note)));
    by_port.extend(note);
    let rest = length(&by_port);
    let mut program = vec![
        Instruction::load_word(data, R1, DATA),
        Instruction::load_word(end, R1, DATA_END),
        Instruction::copy(some, data),
        Instruction::add(some, IP_BYTES + UDP_BYTES),
        Instruction::skip_if_greater(some, end, rest + 4),
        Instruction::load_byte(some, data, 0),
        Instruction::skip_unless(some, VERSION_4_WITHOUT_OPTIONS, rest + 2),
        Instruction::load_byte(some, data, PROTOCOL),
        Instruction::skip_unless(some, UDP, rest),
    ];
    program.extend(by_port);
    program.extend(answer(1));
    program
}

/// To skip it; the kernel refuses a program of so many instructions that this is not right.
fn length<T>(instructions: &[T]) -> i16 {
    i16::try_from(instructions.len()).unwrap_or(i16::MAX)
}

/// Refuses packets with IP options: by source routing (RFC 791, 3.1) they go elsewhere than the socket's address says.
fn of_packet() -> Vec<Instruction> {
    let (data, end, most) = (R2, R3, R4);
    let mut program = vec![
        Instruction::load_word(data, R1, DATA),
        Instruction::load_word(end, R1, DATA_END),
        Instruction::copy(most, data),
        Instruction::add(most, IP_BYTES),
        Instruction::skip_if_greater(most, end, 4),
        Instruction::load_byte(data, data, 0),
        Instruction::skip_unless(data, VERSION_4_WITHOUT_OPTIONS, 2),
    ];
    program.extend(answer(1));
    program.extend(answer(0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers of an address and a port, as the kernel would have it run.
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
