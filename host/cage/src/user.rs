//! The user that QEMU is: a user and a group of its own with no capabilities, or the user that started it, alone in a user namespace.

use std::{fmt, fs, fs::File, io, path::Path, str::FromStr};

use rustix::{
    fs::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_sys::state;

use super::{CageError, User};
use crate::limits;

/// The users that VMs may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct UserRange {
    first: u32,
    last: u32,
}

impl Default for UserRange {
    /// A range that systemd's UIDS-GIDS.md calls unused.
    fn default() -> Self {
        Self { first: limits::CAGE_FIRST_USER, last: limits::CAGE_LAST_USER }
    }
}

impl UserRange {
    /// The lowest user of the range.
    pub fn first(self) -> u32 {
        self.first
    }
}

impl FromStr for UserRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected =
            "expected FIRST-LAST, two user ids from 1 to 4294967293, the first not above the last";
        let number = |text: &str| {
            text.trim().parse::<u32>().ok().filter(|id| (1..u32::MAX - 1).contains(id))
        };
        let (first, last) = text.split_once('-').ok_or(expected)?;
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            (_, _) => Err(expected),
        }
    }
}

impl TryFrom<String> for UserRange {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<UserRange> for String {
    fn from(range: UserRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for UserRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The users of VMs: a folder with a lock file for each.
#[derive(Debug)]
pub struct Uids<'a>(pub &'a str);

/// The users of this host. All state folders share them, since a user has the same bounds and rights whatever state folder its VM is in.
pub const UIDS: Uids<'static> = Uids("/run/qhost/uids");

impl Uids<'_> {
    /// Gives the first user of a range that no VM has, with its lock, or nothing where all are taken.
    pub fn reserve(&self, range: UserRange) -> io::Result<Option<(u32, File)>> {
        state::create_private(Path::new(self.0))?;
        for uid in range.first..=range.last {
            if let Some(lock) = self.lock(uid)? {
                return Ok(Some((uid, lock)));
            }
        }
        Ok(None)
    }

    /// Takes one user's lock, unless a VM has it.
    pub fn lock(&self, uid: u32) -> io::Result<Option<File>> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(Path::new(self.0).join(uid.to_string()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Maps the one user of a new user namespace. The namespace's first process calls this.
pub(super) fn map(user: User) -> Result<(), CageError> {
    let User::Namespace(uid) = user else { return Ok(()) };
    let failed = CageError::at("mapping the user of a user namespace");
    let gid = rustix::process::getegid().as_raw();
    // Without this write, a group map needs a privilege (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").map_err(&failed)?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).map_err(&failed)?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).map_err(&failed)
}

/// Becomes the user for good, without capabilities. `kvm` is the group that may open /dev/kvm, where QEMU needs that.
pub(super) fn drop_privileges(user: User, kvm: Option<u32>) -> Result<(), CageError> {
    let failed = CageError::at::<io::Error>("dropping capabilities");
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel is older than the capability, or this process holds none that it could drop.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(rustix::io::Errno::PERM) if user == User::Caller => break,
            Err(error) => return Err(failed(error.into())),
        }
    }
    if let User::Own(id) = user {
        let failed = CageError::at::<io::Error>("becoming a user of its own");
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        let groups: Vec<_> = kvm.into_iter().map(Gid::from_raw).collect();
        set_thread_groups(&groups)
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .map_err(|error| failed(error.into()))?;
    }
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()
        .and_then(|()| {
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets)
        })
        .and_then(|()| set_no_new_privs(true))
        .map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!("7-9".parse(), Ok(UserRange { first: 7, last: 9 }));
        assert_eq!(UserRange::default().to_string().parse(), Ok(UserRange::default()));
        for bad in ["", "7", "9-7", "0-3", "1-4294967295", "a-b", "1-2-3"] {
            assert!(bad.parse::<UserRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_user_once() {
        let folder = tempfile::tempdir().unwrap();
        let users = Uids(folder.path().to_str().unwrap());
        let range = UserRange { first: 7, last: 8 };
        let (first, lock) = users.reserve(range).unwrap().unwrap();
        let (second, _lock) = users.reserve(range).unwrap().unwrap();
        assert_eq!((first, second), (7, 8));
        assert!(users.reserve(range).unwrap().is_none());
        drop(lock);
        assert_eq!(users.reserve(range).unwrap().unwrap().0, 7);
    }
}
