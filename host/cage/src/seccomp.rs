//! Refuses system calls that QEMU does not need and that a guest which breaks out of QEMU would. All other calls are let through, and
//! QEMU's own `-sandbox`, which knows QEMU's needs better, narrows them further once QEMU has started.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter, sock_filter,
};

use super::{Cage, CageError, Network};

/// Calls that are refused whatever their arguments are.
const REFUSED: &[libc::c_long] = &[
    // Calls that make or start files which no rule for files covers.
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Changes that a file's owner can make through a descriptor. Where qhost runs as an ordinary user, QEMU owns the stored image, which
    // other tenants' VMs use too.
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_utimensat,
    libc::SYS_flock,
    FILE_SETATTR,
    SETXATTRAT,
    REMOVEXATTRAT,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_lchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    // The kernel's larger surfaces.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    // The host itself, and the disks of all VMs.
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_quotactl_fd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
];

/// The flags of memfd_create(2) for a file in memory of usual pages, which may be sealed too.
const MEMORY_FILE: libc::c_uint = libc::MFD_CLOEXEC;

/// The number of this call, and of the four below, which libc does not have yet.
const FCHMODAT2: libc::c_long = 452;
const OPEN_TREE_ATTR: libc::c_long = 467;
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
const FILE_SETATTR: libc::c_long = 469;

/// Commands of fcntl(2) by which an open file is locked, leased or watched: other VMs have the same image open.
const FILE_LOCKS: [libc::c_int; 6] = [
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
    libc::F_SETLEASE,
    libc::F_NOTIFY,
];

/// Requests of ioctl(2) by which a file's owner changes its flags and attributes, though it is open for reading only
/// (linux/fs.h, linux/fsverity.h, linux/fscrypt.h): `FS_IOC_SETFLAGS`, `FS_IOC_SETVERSION` and their 32-bit forms,
/// `FS_IOC_FSSETXATTR`, `FS_IOC_ENABLE_VERITY`, `FS_IOC_SET_ENCRYPTION_POLICY`, `FIDEDUPERANGE`.
const FILE_CHANGES: [u32; 8] = [
    0x4008_6602,
    0x4004_6602,
    0x4008_7602,
    0x4004_7602,
    0x401c_5820,
    0x4080_6685,
    0x800c_6613,
    0xc018_9436,
];

/// The bit that is set in the number of a call of x32's table (`__X32_SYSCALL_BIT`), which a kernel may have beside x86-64's own.
const X32_CALL: u32 = 0x4000_0000;

/// The flags with which clone(2) would make a namespace.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Types of sockets that QEMU has no use for: raw, reliable datagrams, sequences, DCCP's, packets.
const OTHER_SOCKETS: [libc::c_int; 5] =
    [libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET, SOCK_DCCP, SOCK_PACKET];
const SOCK_DCCP: libc::c_int = 6;
const SOCK_PACKET: libc::c_int = 10;

/// The bits of a socket's type without SOCK_CLOEXEC and SOCK_NONBLOCK.
const SOCKET_TYPE: u64 = 0xf;

pub(super) fn restrict(cage: &Cage) -> Result<(), CageError> {
    if !cage.seccomp {
        return Ok(());
    }
    let refuse = |rules, error: libc::c_int| -> Result<(), Error> {
        let error = u32::try_from(error).unwrap_or_default();
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(error),
            std::env::consts::ARCH.try_into()?,
        )?;
        let program: BpfProgram = filter.try_into()?;
        apply_filter(&program)
    };
    let failed = CageError::other("refusing system calls");
    // A call by its number in x32's table would pass every rule below.
    apply_filter(&without_x32()).map_err(&failed)?;
    // The arguments of clone3(2) are in memory, where a filter cannot look; this answer makes the C library use clone(2).
    let clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    refuse(clone3, libc::ENOSYS).map_err(&failed)?;
    refuse(rules(cage).map_err(Error::from).map_err(&failed)?, libc::EPERM).map_err(failed)
}

fn without_x32() -> BpfProgram {
    vec![
        // The call's number is the first word (`struct seccomp_data`).
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, X32_CALL),
        line(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs(),
        ),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// An instruction of a filter: its code, how many instructions to skip where its condition holds and where it does not, and its operand.
pub(super) fn line(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn rules(cage: &Cage) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, vec![])).collect();
    let word = SeccompCmpArgLen::Dword;
    let rule = |argument, operator, value: i32| {
        let value = u64::from(value.unsigned_abs());
        let length = SeccompCmpArgLen::Qword;
        SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
    };
    if cage.memory_files {
        let flags = |operator, value: libc::c_uint| {
            SeccompCondition::new(1, word.clone(), operator, u64::from(value))
        };
        let other = [MEMORY_FILE, MEMORY_FILE | libc::MFD_ALLOW_SEALING]
            .map(|allowed| flags(SeccompCmpOp::Ne, allowed));
        let other = other.into_iter().collect::<Result<Vec<_>, _>>()?;
        rules.insert(libc::SYS_memfd_create, vec![SeccompRule::new(other)?]);
    }
    let mut clone = vec![];
    for namespace in NAMESPACES {
        let bit = u64::from(namespace.unsigned_abs());
        clone.push(rule(0, SeccompCmpOp::MaskedEq(bit), namespace)?);
    }
    rules.insert(libc::SYS_clone, clone);
    let equal = |value: u64| {
        SeccompCondition::new(1, word.clone(), SeccompCmpOp::Eq, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let number = |value: i32| u64::from(value.unsigned_abs());
    let locks = FILE_LOCKS.iter().map(|command| equal(number(*command)));
    rules.insert(libc::SYS_fcntl, locks.collect::<Result<_, _>>()?);
    let changes = FILE_CHANGES.iter().map(|request| equal(u64::from(*request)));
    rules.insert(libc::SYS_ioctl, changes.collect::<Result<_, _>>()?);
    let masked = |argument, mask: u64, value: i32| {
        let operator = SeccompCmpOp::MaskedEq(mask);
        SeccompCondition::new(argument, word.clone(), operator, number(value))
    };
    let other = |argument, value: i32| {
        SeccompCondition::new(argument, word.clone(), SeccompCmpOp::Ne, number(value))
    };
    // Only QEMU's user-mode network needs sockets, and only TCP and UDP over IPv4. By default a kernel has several protocols that connect
    // without connect(2), or that no rule of Landlock covers.
    let (no_udp, no_connect) = match &cage.network {
        Network::None | Network::Listen { udp: false, .. } => (true, true),
        Network::Listen { udp: true, .. } | Network::Filtered { internet: false, .. } => {
            (false, true)
        }
        Network::Filtered { internet: true, .. } | Network::Host => (false, false),
    };
    let known = [other(2, 0)?, other(2, libc::IPPROTO_TCP)?, other(2, libc::IPPROTO_UDP)?];
    let mut socket =
        vec![SeccompRule::new(vec![other(0, libc::AF_INET)?])?, SeccompRule::new(known.to_vec())?];
    let datagrams = if no_udp { &[libc::SOCK_DGRAM][..] } else { &[] };
    for kind in datagrams.iter().chain(&OTHER_SOCKETS) {
        socket.push(SeccompRule::new(vec![masked(1, SOCKET_TYPE, *kind)?])?);
    }
    rules.insert(libc::SYS_socket, socket);
    // A socket of a datagram pair could send to another process's socket by name.
    let pairs = [libc::SOCK_DGRAM].iter().chain(&OTHER_SOCKETS);
    let pairs = pairs.map(|kind| SeccompRule::new(vec![masked(1, SOCKET_TYPE, *kind)?]));
    rules.insert(libc::SYS_socketpair, pairs.collect::<Result<_, _>>()?);
    if no_connect {
        rules.insert(libc::SYS_connect, vec![]);
        // A socket that sends with this flag connects.
        let bit = u64::from(libc::MSG_FASTOPEN.unsigned_abs());
        for (call, flags) in
            [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)]
        {
            let connects = SeccompRule::new(vec![masked(flags, bit, libc::MSG_FASTOPEN)?])?;
            rules.insert(call, vec![connects]);
        }
    }
    Ok(rules)
}
