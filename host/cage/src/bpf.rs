//! BPF programs on a cgroup (bpf(2)): instructions (RFC 9669), and the system calls by which the kernel loads and runs them.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// The event before which the kernel runs a program: `enum bpf_attach_type` of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    PacketIn = 0,
    PacketOut = 1,
    Connect4 = 10,
    Connect6 = 11,
    Send4 = 14,
    Send6 = 15,
}

impl Hook {
    /// `enum bpf_prog_type`: `BPF_PROG_TYPE_CGROUP_SKB`, `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
    fn kind(self) -> u32 {
        match self {
            Self::PacketIn | Self::PacketOut => 8,
            Self::Connect4 | Self::Connect6 | Self::Send4 | Self::Send6 => 18,
        }
    }
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// The destination in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. `R0` has the answer of a program or of the kernel, and `R1` to `R4` have the arguments, which a call of the kernel
/// overwrites. `Kept` outlives such a call, and `Stack` points to where the stack ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    Kept = 6,
    Stack = 10,
}

/// A function of the kernel's that a program calls: `enum bpf_func_id`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    MapLookup = 1,
    MapUpdate = 2,
}

use Register::{R0, R1};

impl Instruction {
    const fn new(code: u8, to: Register, from: Register, offset: i16, immediate: u32) -> Self {
        let registers = to as u8 | (from as u8) << 4;
        Self { code, registers, offset, immediate: immediate.cast_signed() }
    }

    pub(super) const fn load_word(to: Register, from: Register, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }

    pub(super) const fn load_half(to: Register, from: Register, offset: i16) -> Self {
        Self::new(0x69, to, from, offset, 0)
    }

    pub(super) const fn load_byte(to: Register, from: Register, offset: i16) -> Self {
        Self::new(0x71, to, from, offset, 0)
    }

    pub(super) const fn store_word(to: Register, offset: i16, from: Register) -> Self {
        Self::new(0x63, to, from, offset, 0)
    }

    pub(super) const fn store_number(to: Register, offset: i16, number: u32) -> Self {
        Self::new(0x62, to, R0, offset, number)
    }

    /// Copies all 64 bits.
    pub(super) const fn copy(to: Register, from: Register) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }

    /// Copies the low 32 bits.
    pub(super) const fn copy_word(to: Register, from: Register) -> Self {
        Self::new(0xbc, to, from, 0, 0)
    }

    pub(super) const fn set(to: Register, number: u32) -> Self {
        Self::new(0xb4, to, R0, 0, number)
    }

    pub(super) const fn add(to: Register, number: i32) -> Self {
        Self::new(0x07, to, R0, 0, number.cast_unsigned())
    }

    pub(super) const fn and_word(to: Register, mask: u32) -> Self {
        Self::new(0x54, to, R0, 0, mask)
    }

    /// Converts the low bits, so many, from network order.
    pub(super) const fn from_network_order(to: Register, bits: u32) -> Self {
        Self::new(0xdc, to, R0, 0, bits)
    }

    /// Skips so many instructions unless the low 32 bits are this number.
    pub(super) const fn skip_unless(register: Register, number: u32, skip: i16) -> Self {
        Self::new(0x56, register, R0, skip, number)
    }

    pub(super) const fn skip_if(register: Register, number: u32, skip: i16) -> Self {
        Self::new(0x16, register, R0, skip, number)
    }

    pub(super) const fn skip(skip: i16) -> Self {
        Self::new(0x05, R0, R0, skip, 0)
    }

    pub(super) const fn skip_if_null(register: Register, skip: i16) -> Self {
        Self::new(0x15, register, R0, skip, 0)
    }

    pub(super) const fn skip_unless_null(register: Register, skip: i16) -> Self {
        Self::new(0x55, register, R0, skip, 0)
    }

    pub(super) const fn skip_if_greater(one: Register, other: Register, skip: i16) -> Self {
        Self::new(0x2d, one, other, skip, 0)
    }

    pub(super) const fn call(call: Call) -> Self {
        Self::new(0x85, R0, R0, 0, call as u32)
    }

    /// A map is a number of 64 bits, in two instructions; `BPF_PSEUDO_MAP_FD`.
    pub(super) fn map(to: Register, map: &Map) -> [Self; 2] {
        let descriptor = map.0.as_raw_fd().cast_unsigned();
        [Self::new(0x18, to, R1, 0, descriptor), Self::new(0, R0, R0, 0, 0)]
    }

    /// Ends the program: 1 lets the packet or the call through, 0 refuses it.
    pub(super) const fn answer(answer: u32) -> [Self; 2] {
        [Self::set(R0, answer), Self::new(0x95, R0, R0, 0, 0)]
    }

    #[cfg(test)]
    pub(super) fn bytes(self) -> [u8; 8] {
        let [a, b] = self.offset.to_le_bytes();
        let [c, d, e, f] = self.immediate.to_le_bytes();
        [self.code, self.registers, a, b, c, d, e, f]
    }
}

/// A map of keys of eight bytes with a word each. Beyond so many entries, the kernel forgets those used least recently.
#[derive(Debug)]
pub(super) struct Map(OwnedFd);

impl Map {
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        const LRU_HASH: u32 = 9;
        let create = Create { kind: LRU_HASH, key_bytes: 8, value_bytes: 4, entries, flags: 0 };
        open(MAP_CREATE, &create).map(Self)
    }
}

/// `union bpf_attr` as `BPF_MAP_CREATE` reads it; the kernel takes the missing rest to be zero.
#[repr(C)]
struct Create {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it.
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

/// `union bpf_attr` as `BPF_PROG_ATTACH` reads it.
#[repr(C)]
struct Attach {
    group: i32,
    program: i32,
    hook: u32,
    flags: u32,
}

const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
/// The flag by which a program runs beside those that other processes have attached.
const ALLOW_MULTI: u32 = 2;

/// Makes the kernel check a program, and keep it for as long as it is open or attached.
pub(super) fn load(program: &[Instruction], hook: Hook) -> io::Result<OwnedFd> {
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
    open(PROG_LOAD, &load)
}

/// Makes the kernel run a program for the processes of a group and of the groups below it, for as long as the group is there.
pub(super) fn attach(group: &File, program: &OwnedFd, hook: Hook) -> io::Result<()> {
    let (group, program) = (group.as_raw_fd(), program.as_raw_fd());
    bpf(PROG_ATTACH, &Attach { group, program, hook: hook as u32, flags: ALLOW_MULTI }).map(drop)
}

#[expect(unsafe_code, reason = "the descriptor that the kernel has just opened")]
fn open<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let opened = bpf(command, attributes)?;
    // SAFETY: the descriptor is open, closed when another program begins, and owned here alone.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
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
