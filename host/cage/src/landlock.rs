//! Landlock (landlock(7)): it bounds which files QEMU may open and start, and keeps QEMU from binding and connecting by TCP.

use std::{io, path::Path};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::{Cage, CageError};

const STEP: &str = "restricting files and TCP by Landlock";

/// The version of the kernel's interface. Asking for it makes no ruleset.
#[expect(unsafe_code, reason = "a system call that neither std nor rustix has a function for")]
pub fn version() -> io::Result<i64> {
    const VERSION: libc::c_ulong = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes no attributes, and returns a number.
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) } {
        version @ 1.. => Ok(version),
        _ => Err(io::Error::last_os_error()),
    }
}

/// From here on this process opens only the paths that the cage lists, of them only devices for writing, and starts only the first path, by
/// the system's loader. All access to files that the kernel's version of Landlock can restrict is restricted, or the launch fails. The
/// other mechanisms cover what an older version cannot restrict (truncation, devices' ioctl(2), signals and abstract sockets).
pub(super) fn restrict(cage: &Cage) -> Result<(), CageError> {
    if !cage.landlock {
        return Ok(());
    }
    let failed = CageError::other(STEP);
    let found = version().map_err(CageError::at("asking for Landlock's version"))?;
    let abi = match found {
        ..=1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6.. => ABI::V6,
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(&failed)?;
    // The sockets that QEMU listens with are bound already. Before version 4 Landlock cannot restrict TCP; `sockets` and `seccomp` then
    // restrict it alone.
    let ports = if cage.network.is_apart() {
        AccessNet::from_all(abi)
    } else {
        // `egress` restricts the addresses that QEMU connects to.
        AccessNet::BindTcp.into()
    };
    if found >= 4 {
        ruleset = ruleset.handle_access(ports).map_err(&failed)?;
    }
    if found >= 6 {
        let scopes = Scope::AbstractUnixSocket | Scope::Signal;
        ruleset = ruleset.scope(scopes).map_err(&failed)?;
    }
    let mut rules = ruleset.create().map_err(&failed)?;
    let failed = CageError::other("a path of the cage");
    let program = cage.paths.first();
    for path in &cage.paths {
        let opened = PathFd::new(path).map_err(&failed)?;
        let access = access(path, program == Some(path));
        rules = rules
            .add_rule(PathBeneath::new(opened, access))
            .map_err(CageError::other("a path of the cage"))?;
    }
    for loader in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"] {
        // The kernel starts this loader for every program that is not linked statically.
        if let Ok(opened) = PathFd::new(loader) {
            let access = AccessFs::Execute | AccessFs::ReadFile;
            rules = rules
                .add_rule(PathBeneath::new(opened, access))
                .map_err(CageError::other("the loader"))?;
        }
    }
    if cage.kvm {
        let opened = PathFd::new("/dev/kvm").map_err(&failed)?;
        let mut access = AccessFs::ReadFile | AccessFs::WriteFile;
        if found >= 5 {
            access |= AccessFs::IoctlDev;
        }
        rules = rules
            .add_rule(PathBeneath::new(opened, access))
            .map_err(CageError::other("/dev/kvm"))?;
    }
    let done = rules.restrict_self().map_err(CageError::other(STEP))?;
    match done.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced => {
            Err(CageError::at(STEP)(io::Error::other("not all of it is enforced")))
        }
    }
}

fn access(path: &Path, is_program: bool) -> BitFlags<AccessFs> {
    match (is_program, path.is_dir()) {
        (true, _) => AccessFs::Execute | AccessFs::ReadFile,
        (false, true) => AccessFs::ReadFile | AccessFs::ReadDir,
        (false, false) if path == Path::new("/dev/null") => {
            AccessFs::ReadFile | AccessFs::WriteFile
        }
        (false, false) => AccessFs::ReadFile.into(),
    }
}
