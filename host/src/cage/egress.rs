//! What a guest with egress reaches: public IPv4 addresses, and no other. Small programs that the kernel runs before each
//! connect(2), each datagram and each packet of a cgroup's processes (bpf(2), `BPF_PROG_TYPE_CGROUP_SOCK_ADDR` and
//! `BPF_PROG_TYPE_CGROUP_SKB`; Linux 5.1). They are in force for as long as the group is there, whatever is killed, and no
//! firewall of the host's is changed.
//!
//! Not by a network namespace and passt: ports are forwarded by QEMU's own user-mode network, which has to be the host's for
//! that; passt would be a second process for each VM, and what it reaches is what the host reaches, loopback or not.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;

use super::{CageError, cgroup};
use crate::addresses;

/// Where the C library, and QEMU's user-mode network, look for who resolves names.
pub(super) const RESOLVERS: &str = "/etc/resolv.conf";

/// The group below which each VM with egress has one; why not, where that cannot be.
pub(super) fn groups(group: &Path) -> io::Result<PathBuf> {
    let none = || io::Error::other("no cgroups of version 2 that this user may write to");
    let groups = cgroup::unified(group).ok_or_else(none)?;
    // Loaded and let go: whether the kernel takes them, only the kernel can say.
    programs(&[], None)
        .into_iter()
        .try_for_each(|(hook, program)| load(&program, hook).map(drop))?;
    Ok(groups)
}

/// Moves this process, and so all that it starts, into a group that reaches only public addresses. One of an earlier start of
/// the same VM makes room for it: this host's addresses may have changed.
pub(super) fn enter(groups: &Path, vm: &str) -> Result<(), CageError> {
    let group = groups.join(vm);
    let own = addresses::own().map_err(CageError::at("listing this host's addresses"))?;
    let own = own.into_iter().filter_map(|address| match address {
        IpAddr::V4(own) => Some(Ipv4Net::from(own)),
        IpAddr::V6(_) => None,
    });
    let denied: Vec<_> = addresses::NOT_PUBLIC_V4.into_iter().chain(own).collect();
    let made = CageError::at::<io::Error>("making a cgroup for egress");
    cgroup::remove(&group).map_err(&made)?;
    fs::create_dir_all(&group).map_err(&made)?;
    let opened = File::open(&group).map_err(&made)?;
    for (hook, program) in programs(&denied, resolver()) {
        load(&program, hook).and_then(|program| attach(&opened, &program, hook)).map_err(
            CageError::at("attaching the filter of egress, which one of a group above can forbid"),
        )?;
    }
    cgroup::join(&group).map_err(CageError::at("moving to the cgroup for egress"))?;
    try_it().map_err(CageError::at("trying the filter of egress"))
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

/// Before what the kernel runs a program: `enum bpf_attach_type` of linux/bpf.h.
#[derive(Clone, Copy)]
enum Hook {
    Packet = 1,
    Connect4 = 10,
    Connect6 = 11,
    Send4 = 14,
    Send6 = 15,
}

impl Hook {
    /// `enum bpf_prog_type`.
    fn kind(self) -> u32 {
        match self {
            Self::Packet => 8,
            Self::Connect4 | Self::Connect6 | Self::Send4 | Self::Send6 => 18,
        }
    }
}

fn programs(denied: &[Ipv4Net], resolver: Option<Ipv4Addr>) -> [(Hook, Vec<Instruction>); 5] {
    let of_address = of_address(denied, resolver);
    [
        (Hook::Connect4, of_address.clone()),
        (Hook::Send4, of_address),
        // QEMU gets no socket of IPv6 (`seccomp`), and needs none.
        (Hook::Connect6, answer(0).to_vec()),
        (Hook::Send6, answer(0).to_vec()),
        (Hook::Packet, of_packet()),
    ]
}

/// `struct bpf_insn` of linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// The destination in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// One instruction; of the codes, those that are needed (RFC 9669).
const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: u32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate: immediate.cast_signed() }
}

const LOAD_WORD: u8 = 0x61;
const LOAD_BYTE: u8 = 0x71;
const MOVE: u8 = 0xbc;
const MOVE_LONG: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb4;
const ADD_IMMEDIATE_LONG: u8 = 0x07;
const AND_IMMEDIATE: u8 = 0x54;
const FROM_NETWORK_ORDER: u8 = 0xdc;
const SKIP_UNLESS_EQUAL: u8 = 0x56;
const SKIP_IF_GREATER: u8 = 0x2d;
const EXIT: u8 = 0x95;

/// Registers: what a program answers, what it is given, and three of its own.
const ANSWER: u8 = 0;
const GIVEN: u8 = 1;
const A: u8 = 2;
const B: u8 = 3;
const C: u8 = 4;

/// `user_ip4` and `user_port` of `struct bpf_sock_addr`, both in network order.
const ADDRESS: i16 = 4;
const PORT: i16 = 24;
const DNS: u32 = 53;

/// `data` and `data_end` of `struct __sk_buff`.
const DATA: i16 = 76;
const DATA_END: i16 = 80;

/// 1 lets it through, 0 refuses it.
fn answer(answer: u32) -> [Instruction; 2] {
    [instruction(MOVE_IMMEDIATE, ANSWER, 0, 0, answer), instruction(EXIT, 0, 0, 0, 0)]
}

/// Lets through what goes to the resolver's port for names, and else what goes to none of these networks.
fn of_address(denied: &[Ipv4Net], resolver: Option<Ipv4Addr>) -> Vec<Instruction> {
    let (address, port, masked) = (A, B, C);
    let mut program = vec![
        instruction(LOAD_WORD, address, GIVEN, ADDRESS, 0),
        instruction(FROM_NETWORK_ORDER, address, 0, 0, 32),
        instruction(LOAD_WORD, port, GIVEN, PORT, 0),
        instruction(FROM_NETWORK_ORDER, port, 0, 0, 16),
    ];
    if let Some(resolver) = resolver {
        program.push(instruction(SKIP_UNLESS_EQUAL, address, 0, 3, resolver.to_bits()));
        program.push(instruction(SKIP_UNLESS_EQUAL, port, 0, 2, DNS));
        program.extend(answer(1));
    }
    for net in denied {
        program.extend([
            instruction(MOVE, masked, address, 0, 0),
            instruction(AND_IMMEDIATE, masked, 0, 0, net.netmask().to_bits()),
            instruction(SKIP_UNLESS_EQUAL, masked, 0, 2, net.network().to_bits()),
        ]);
        program.extend(answer(0));
    }
    program.extend(answer(1));
    program
}

/// Refuses packets with IP options: by source routing (RFC 791, 3.1) they go elsewhere than the socket's address says.
fn of_packet() -> Vec<Instruction> {
    const HEADER_BYTES: u32 = 20;
    const VERSION_4_WITHOUT_OPTIONS: u32 = 0x45;
    let (data, end, most) = (A, B, C);
    let mut program = vec![
        instruction(LOAD_WORD, data, GIVEN, DATA, 0),
        instruction(LOAD_WORD, end, GIVEN, DATA_END, 0),
        instruction(MOVE_LONG, most, data, 0, 0),
        instruction(ADD_IMMEDIATE_LONG, most, 0, 0, HEADER_BYTES),
        instruction(SKIP_IF_GREATER, most, end, 4, 0),
        instruction(LOAD_BYTE, data, data, 0, 0),
        instruction(SKIP_UNLESS_EQUAL, data, 0, 2, VERSION_4_WITHOUT_OPTIONS),
    ];
    program.extend(answer(1));
    program.extend(answer(0));
    program
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it; the kernel takes what is not there to be zero.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    first: u64,
    licence: u64,
    log: [u32; 2],
    log_buffer: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    hook: u32,
}

/// The same for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    group: i32,
    program: i32,
    hook: u32,
    flags: u32,
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
/// Beside those that others have attached.
const ALLOW_MULTI: u32 = 2;

#[expect(unsafe_code, reason = "the descriptor that the kernel has just opened")]
fn load(program: &[Instruction], hook: Hook) -> io::Result<OwnedFd> {
    let load = Load {
        kind: hook.kind(),
        instructions: u32::try_from(program.len()).map_err(io::Error::other)?,
        first: program.as_ptr().expose_provenance() as u64,
        licence: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel: 0,
        flags: 0,
        name: *b"qhost_egress\0\0\0\0",
        interface: 0,
        hook: hook as u32,
    };
    let opened = bpf(PROG_LOAD, &load)?;
    // SAFETY: it is open, closed when the program begins, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

fn attach(group: &File, program: &OwnedFd, hook: Hook) -> io::Result<()> {
    let (group, program) = (group.as_raw_fd(), program.as_raw_fd());
    bpf(PROG_ATTACH, &Attach { group, program, hook: hook as u32, flags: ALLOW_MULTI }).map(drop)
}

#[expect(unsafe_code, reason = "a system call that neither std nor rustix has a function for")]
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    let at = std::ptr::from_ref(attributes);
    // SAFETY: the structures above are as the kernel's header has them, without padding, and what they point to lives longer
    // than the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, at, size_of::<T>()) };
    match i32::try_from(answer) {
        Ok(answer @ 0..) => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers of an address and a port, as the kernel would have it run.
    fn answer(program: &[Instruction], address: Ipv4Addr, port: u16) -> u64 {
        let bytes: Vec<u8> = program
            .iter()
            .flat_map(|one| {
                let mut bytes = vec![one.code, one.registers];
                bytes.extend(one.offset.to_le_bytes());
                bytes.extend(one.immediate.to_le_bytes());
                bytes
            })
            .collect();
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
