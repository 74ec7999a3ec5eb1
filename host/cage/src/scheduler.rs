//! What a scheduler on this host has set aside for a VM: bounds, and a control group that the scheduler makes and removes.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::hierarchy::{Mount, mounted};

/// What a scheduler has set aside for a VM, as Nomad's drivers are told of it.
///
/// # Example
/// ```
/// use qhost_cage::LinuxResources;
///
/// let half = LinuxResources { cpu_shares: Some(512), ..LinuxResources::default() };
/// assert!(half.cgroup.is_none());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// The VM's weight against other VMs where CPUs are short, as cgroups of version 1 count it: from 2 to 262144, where a group has 1024
    /// by default.
    pub cpu_shares: Option<u64>,
    /// Memory in bytes, which counts if it is more than the guest's with its head room, up to twice that sum.
    pub memory_bytes: Option<u64>,
    /// The CPUs that are the VM's own, as cpuset(7) lists them; empty where none are.
    pub cpus: String,
    /// The group that QEMU and its supervisor are to be in.
    pub cgroup: Option<SchedulerGroup>,
}

/// A group of a scheduler's, which is there before the VM. The scheduler removes the group after the VM's end, unless it shares the group
/// among its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerGroup {
    /// The mount point of the group's hierarchy.
    pub(super) root: PathBuf,
    /// The group's folder.
    pub(super) folder: PathBuf,
    /// Whether the group is of version 2.
    pub(super) is_v2: bool,
    /// The CPUs that the group is to have, if the scheduler leaves it to the driver to set them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) cpus: String,
}

impl SchedulerGroup {
    /// The group at a path.
    ///
    /// # Errors
    /// Fails where there is no folder at the path, or the folder is in no hierarchy of control groups.
    pub fn at(path: &Path) -> io::Result<Self> {
        let is_plain =
            |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || !path.components().all(is_plain) || !fs::metadata(path)?.is_dir()
        {
            return Err(io::Error::other("it is no folder named from the root"));
        }
        let Mount { root, is_v2 } =
            mounted(path).ok_or_else(|| io::Error::other("it is no control group"))?;
        if path == root {
            return Err(io::Error::other(
                "it is the first group of its hierarchy, not one for a VM",
            ));
        }
        Ok(Self { root, folder: path.to_owned(), is_v2, cpus: String::new() })
    }
}

/// Converts shares of version 1 to a weight of version 2, as runc and Nomad do.
pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_as_weights() {
        for (shares, expected) in
            [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn what_is_no_group() {
        for path in ["/tmp", "relative", "/sys/fs/cgroup/../../../tmp", "/no/such/folder"] {
            SchedulerGroup::at(Path::new(path)).unwrap_err();
        }
    }
}
