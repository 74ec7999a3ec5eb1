//! Finds the hierarchies of control groups that this host has, and where in them a group is or would be.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Access, access};

use serde::{Deserialize, Serialize};

pub(super) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Where a group is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum At {
    /// One hierarchy with all controllers.
    V2 {
        /// The hierarchy's mount point.
        root: PathBuf,
        /// The group.
        group: PathBuf,
    },
    /// A hierarchy for each controller, in the order of [`CONTROLLERS`]: the group's folders.
    V1([PathBuf; 3]),
}

/// Where the group of this name is or would be in the hierarchy of version 2, which a host whose controllers are of version 1 can have too.
pub(super) fn unified(group: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let (root, _) = self::mounts(&mounts, "cgroup2").next()?;
    let folder = root.join(named(group)?);
    is_ours(&folder).then_some(folder)
}

/// A hierarchy that is mounted.
pub(super) struct Mount {
    pub(super) root: PathBuf,
    pub(super) is_v2: bool,
}

/// The hierarchy that a path is in.
pub(super) fn mounted(path: &Path) -> Option<Mount> {
    let all = fs::read_to_string("/proc/self/mounts").ok()?;
    let of = |kind, is_v2| {
        mounts(&all, kind).map(move |(root, _)| Mount { root: root.to_owned(), is_v2 })
    };
    let mut mounts = of("cgroup2", true).chain(of("cgroup", false));
    mounts.find(|mount| path.starts_with(&mount.root))
}

/// A group's name, if the name stays below the root of a hierarchy.
fn named(group: &Path) -> Option<&Path> {
    let group = group.strip_prefix("/").unwrap_or(group);
    group.components().all(|part| matches!(part, Component::Normal(_))).then_some(group)
}

/// The version and place that this host has for a group, if it can be used.
pub(super) fn find(group: &Path) -> Option<At> {
    let group = named(group)?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    v2(&mounts, group).or_else(|| v1(&mounts, group))
}

/// Each mount of a type, with its mount point and its options.
fn mounts<'a>(all: &'a str, kind: &'a str) -> impl Iterator<Item = (&'a Path, &'a str)> {
    all.lines().filter_map(move |line| {
        let mut words = line.split(' ').skip(1);
        let (at, found, options) = (words.next()?, words.next()?, words.next()?);
        (found == kind).then_some((Path::new(at), options))
    })
}

/// Whether a folder is there and can be written to, or can be made.
fn is_ours(folder: &Path) -> bool {
    let there = folder.ancestors().find(|folder| folder.exists());
    there.is_some_and(|folder| access(folder, Access::WRITE_OK).is_ok())
}

fn v2(all: &str, group: &Path) -> Option<At> {
    let (root, _) = mounts(all, "cgroup2").next()?;
    let there = root.join(group);
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = root.join(own);
    // Moving a process needs write access where both groups meet (cgroups(7), delegation).
    let meet = there.ancestors().find(|folder| own.starts_with(folder))?;
    let may_move = access(meet.join("cgroup.procs"), Access::WRITE_OK).is_ok();
    let way = there.ancestors().filter(|folder| folder.starts_with(root) && folder.exists());
    let usable = is_ours(&there) && may_move && way.into_iter().all(passes_on);
    usable.then(|| At::V2 { root: root.to_owned(), group: there.clone() })
}

/// Whether a group's controllers are enabled for the groups below it, or can be: only if no process is in the group, or it is the first of
/// all.
fn passes_on(folder: &Path) -> bool {
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let (enabled, present) = (read("cgroup.subtree_control"), read("cgroup.controllers"));
    if CONTROLLERS.iter().all(|one| has(&enabled, one)) {
        return true;
    }
    let writable = access(folder.join("cgroup.subtree_control"), Access::WRITE_OK).is_ok();
    let is_first = !folder.join("cgroup.type").exists();
    let is_free = is_first || read("cgroup.procs").trim().is_empty();
    writable && is_free && CONTROLLERS.iter().all(|one| has(&present, one))
}

fn v1(all: &str, group: &Path) -> Option<At> {
    let folder = |controller: &str| {
        let (at, _) = mounts(all, "cgroup").find(|(_, options)| has(options, controller))?;
        Some(at.join(group)).filter(|folder| is_ours(folder))
    };
    let [cpu, memory, pids] = CONTROLLERS.map(folder);
    Some(At::V1([cpu?, memory?, pids?]))
}

pub(super) fn has(words: &str, wanted: &str) -> bool {
    words.split([' ', ',', '\n']).any(|word| word == wanted)
}
