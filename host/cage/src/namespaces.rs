//! Namespaces (namespaces(7)): QEMU sees no other process, no other host name, no network but what its task is granted, and
//! of the host's files those that it cannot do without, read-only.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, mount_remount, unmount,
    },
    process::pivot_root,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{Cage, CageError, User};

/// Leaves those of the host. The process namespace begins with this process's next child.
#[expect(unsafe_code, reason = "rustix calls unshare(2) unsafe for what it does to other threads")]
pub(super) fn leave(cage: &Cage) -> Result<(), CageError> {
    if !cage.namespaces {
        return Ok(());
    }
    let mut flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if matches!(cage.user, User::Namespace(_)) {
        flags |= UnshareFlags::NEWUSER;
    }
    if cage.network.is_apart() {
        flags |= UnshareFlags::NEWNET;
    }
    // SAFETY: the step between supervisor and QEMU has one thread.
    unsafe { unshare_unsafe(flags) }.map_err(CageError::at("making namespaces"))?;
    super::user::map(cage.user)?;
    rustix::system::sethostname(b"guest").map_err(CageError::at("naming the host"))
}

/// Leaves the host's files behind, for a root that has only what the cage lists, where it was. To be done by the first process
/// of the new process namespace, in a folder that may be covered up.
pub(super) fn see_only(cage: &Cage) -> Result<(), CageError> {
    if !cage.namespaces {
        return Ok(());
    }
    let failed = CageError::at::<io::Error>("making a root of its own");
    let root = env::current_dir().map_err(&failed)?;
    let own = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_change("/", own)
        .and_then(|()| mount("tmpfs", &root, "tmpfs", flags, c"size=1m,mode=755"))
        .map_err(|error| failed(error.into()))?;
    env::set_current_dir(&root).map_err(&failed)?;
    let kvm = cage.kvm.then(|| PathBuf::from("/dev/kvm"));
    for path in cage.paths.iter().chain(&kvm) {
        show(&root, path, cage.user).map_err(CageError::at("showing QEMU its files"))?;
    }
    pivot_root(".", ".")
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .map_err(|error| failed(error.into()))?;
    env::set_current_dir("/").map_err(&failed)?;
    mount_remount("/", flags | MountFlags::RDONLY, "").map_err(|error| failed(error.into()))
}

/// Puts a file or folder of the host where it was, below another root.
fn show(root: &Path, path: &Path, user: User) -> io::Result<()> {
    let inside = root.join(path.strip_prefix("/").unwrap_or(path));
    if inside.exists() {
        // Below a folder that is shown already.
        return Ok(());
    }
    if let Some(parent) = inside.parent() {
        fs::create_dir_all(parent)?;
    }
    let found = fs::symlink_metadata(path)?;
    // A link to a file becomes that file: what is in between, in a long way of links, is not shown.
    if found.is_symlink() && path.is_dir() {
        return symlink(fs::read_link(path)?, inside);
    }
    if path.is_dir() {
        fs::create_dir(&inside)?
    } else {
        drop(File::create_new(&inside)?)
    }
    // What is mounted below it would stay writable; only in a user namespace it cannot be left out (mount_namespaces(7)).
    match user {
        User::Namespace(_) => mount_bind_recursive(path, &inside)?,
        User::Own(_) | User::Caller => mount_bind(path, &inside)?,
    }
    // What the mount forbids already must stay forbidden; more is.
    let now = statvfs(&inside)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID;
    for (is_set, flag) in [
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if now.contains(is_set) {
            flags |= flag;
        }
    }
    if !path.starts_with("/dev") {
        flags |= MountFlags::NODEV;
    }
    Ok(mount_remount(&inside, flags, "")?)
}
