//! Namespaces (namespaces(7)): QEMU sees no other process, not the host's name, no network but what its task is granted, and only those of
//! the host's files that QEMU cannot do without, read-only.

use std::{
    env,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, StatVfsMountFlags, statvfs},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
        mount_bind, mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree,
        unmount,
    },
    process::pivot_root,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{Cage, CageError, User};

/// Leaves the host's namespaces. The new process namespace begins with this process's next child.
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

/// Leaves the host's files behind, for a root that has only the paths that the cage lists, at the same places. The first process of the new
/// process namespace calls this, in a folder that may be covered up.
pub(super) fn see_only(cage: &Cage) -> Result<(), CageError> {
    if !cage.namespaces {
        return Ok(());
    }
    let failed = CageError::at::<io::Error>("making a root of its own");
    let root = env::current_dir().map_err(&failed)?;
    let own = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let detached = detached_mounts(cage, &root).map_err(CageError::at("showing QEMU its files"))?;
    mount_change("/", own)
        .and_then(|()| mount("tmpfs", &root, "tmpfs", flags, c"size=1m,mode=755"))
        .map_err(|error| failed(error.into()))?;
    env::set_current_dir(&root).map_err(&failed)?;
    let kvm = cage.kvm.then(|| PathBuf::from("/dev/kvm"));
    for path in cage.paths.iter().chain(&kvm) {
        let shown = match detached.iter().find(|one| one.path == path) {
            Some(mount) => mount.show(&root),
            None => show(&root, path, cage.user),
        };
        shown.map_err(CageError::at("showing QEMU its files"))?;
    }
    pivot_root(".", ".")
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .map_err(|error| failed(error.into()))?;
    env::set_current_dir("/").map_err(&failed)?;
    mount_remount("/", flags | MountFlags::RDONLY, "").map_err(|error| failed(error.into()))
}

/// A file of the cage in the folder that the new root is mounted over. Once the root is mounted, the file's path does not lead to the file.
struct DetachedMount<'a> {
    path: &'a Path,
    /// A mount of the file, made while its path leads to it, and not attached anywhere yet (open_tree(2)).
    mount: OwnedFd,
}

/// Makes mounts of the cage's files that are in a folder, before the new root is mounted over that folder.
fn detached_mounts<'a>(cage: &'a Cage, folder: &Path) -> io::Result<Vec<DetachedMount<'a>>> {
    let is_in = |path: &&'a PathBuf| {
        let parent = path.parent().and_then(|parent| fs::canonicalize(parent).ok());
        parent.is_some_and(|parent| parent == folder)
    };
    let clone = |path: &'a PathBuf| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, path, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(DetachedMount { path, mount })
    };
    cage.paths.iter().filter(is_in).map(clone).collect()
}

impl DetachedMount<'_> {
    fn show(&self, root: &Path) -> io::Result<()> {
        let inside = root.join(self.path.strip_prefix("/").unwrap_or(self.path));
        if let Some(parent) = inside.parent() {
            fs::create_dir_all(parent)?;
        }
        drop(File::create_new(&inside)?);
        move_mount(&self.mount, "", CWD, &inside, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        remount(&inside, MountFlags::NODEV)
    }
}

/// Shows a file or folder of the host at the same place below another root.
fn show(root: &Path, path: &Path, user: User) -> io::Result<()> {
    let inside = root.join(path.strip_prefix("/").unwrap_or(path));
    if inside.exists() {
        // The path is in a folder that is shown already.
        return Ok(());
    }
    if let Some(parent) = inside.parent() {
        fs::create_dir_all(parent)?;
    }
    let found = fs::symlink_metadata(path)?;
    // A link to a file becomes that file, so that the links between are not shown.
    if found.is_symlink() && path.is_dir() {
        return symlink(fs::read_link(path)?, inside);
    }
    if path.is_dir() {
        fs::create_dir(&inside)?
    } else {
        drop(File::create_new(&inside)?)
    }
    // Mounts below the folder would stay writable, so they are left out, except in a user namespace, where they cannot be
    // (mount_namespaces(7)).
    match user {
        User::Namespace(_) => mount_bind_recursive(path, &inside)?,
        User::Own(_) | User::Caller => mount_bind(path, &inside)?,
    }
    let is_device = path.starts_with("/dev");
    remount(&inside, if is_device { MountFlags::empty() } else { MountFlags::NODEV })
}

/// Makes a mount read-only, without set-user-ID programs, and with the flags of `more`. Flags that the mount has already are kept: in a
/// user namespace the kernel refuses to clear them (mount_namespaces(7)).
fn remount(inside: &Path, more: MountFlags) -> io::Result<()> {
    let now = statvfs(inside)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | more;
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
    Ok(mount_remount(inside, flags, "")?)
}
