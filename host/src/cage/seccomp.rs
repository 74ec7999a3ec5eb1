//! System calls that QEMU does not need and a guest that breaks out of it would: refused. Everything else is let through, and
//! QEMU's own `-sandbox`, which knows its own needs better, narrows that further once QEMU has started.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter,
};

use super::{Cage, CageError, Network};

/// Refused whatever their arguments are.
const REFUSED: &[libc::c_long] = &[
    // Files that no rule for files is about, and could be started.
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
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
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
    // The host itself.
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

/// What clone(2) would make a namespace with.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Its type without SOCK_CLOEXEC and SOCK_NONBLOCK.
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
    // Its arguments are in memory, where a filter cannot look; this answer makes the C library use clone(2).
    let clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    refuse(clone3, libc::ENOSYS).map_err(&failed)?;
    refuse(rules(&cage.network).map_err(Error::from).map_err(&failed)?, libc::EPERM).map_err(failed)
}

fn rules(network: &Network) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, vec![])).collect();
    let word = SeccompCmpArgLen::Dword;
    let rule = |argument, operator, value: i32| {
        let value = u64::from(value.unsigned_abs());
        let length = SeccompCmpArgLen::Qword;
        SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
    };
    let mut clone = vec![];
    for namespace in NAMESPACES {
        let bit = u64::from(namespace.unsigned_abs());
        clone.push(rule(0, SeccompCmpOp::MaskedEq(bit), namespace)?);
    }
    rules.insert(libc::SYS_clone, clone);
    let family = |operator, family: i32| {
        SeccompCondition::new(0, word.clone(), operator, u64::from(family.unsigned_abs()))
    };
    let kind = |kind: i32| {
        let operator = SeccompCmpOp::MaskedEq(SOCKET_TYPE);
        SeccompCondition::new(1, word.clone(), operator, u64::from(kind.unsigned_abs()))
    };
    // Only QEMU's user-mode network needs sockets, and only of IPv4.
    let mut socket = vec![SeccompRule::new(vec![family(SeccompCmpOp::Ne, libc::AF_INET)?])?];
    let (no_udp, no_connect) = match network {
        Network::None | Network::Listen { udp: false, .. } => (true, true),
        Network::Listen { udp: true, .. } => (false, true),
        Network::Host => (false, false),
    };
    if no_udp {
        socket.push(SeccompRule::new(vec![kind(libc::SOCK_DGRAM)?])?);
    }
    socket.push(SeccompRule::new(vec![kind(libc::SOCK_RAW)?])?);
    rules.insert(libc::SYS_socket, socket);
    if no_connect {
        rules.insert(libc::SYS_connect, vec![]);
    }
    Ok(rules)
}
