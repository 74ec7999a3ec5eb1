//! Checks whether a file or folder can be relied upon, which means that only this user and root can change it, directly or by way
//! of a folder on its path. Otherwise others could change a configuration, a policy or a key, or put another in its place.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::lgetxattr,
    process::{getegid, geteuid},
};

/// Why a file or folder cannot be relied upon.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// The file or folder belongs to another user, who can change it and everything below it.
    #[error("{} belongs to user {owner}, expected user {user} or root; use: chown {user} {}", path.display(), quoted(path))]
    Owner {
        /// The first such file or folder on the path.
        path: PathBuf,
        /// The user who owns it.
        owner: u32,
        /// The user that this process runs as.
        user: u32,
    },
    /// Users other than the owner may write to the file or folder.
    #[error("others may write to {} (mode {mode:o}); use: chmod go-w {}", path.display(), quoted(path))]
    Writable {
        /// The first such file or folder on the path.
        path: PathBuf,
        /// The permissions of that file or folder.
        mode: u32,
    },
    /// A link leads to nothing, so that the file which was meant to be there is not.
    #[error("{} is a link to {}, and nothing is there; put the file there, or remove the link", link.display(), to.display())]
    Dangling {
        /// The link.
        link: PathBuf,
        /// The path that the link leads to.
        to: PathBuf,
    },
    /// The path cannot be looked at, so that it may or may not exist.
    #[error("cannot look for {}: {reason}", path.display())]
    Unseen {
        /// The path that cannot be looked at.
        path: PathBuf,
        /// Why the path cannot be looked at.
        reason: io::Error,
    },
}

fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}

/// Whether a path exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The path exists, and can be relied upon.
    Present,
    /// The path does not exist.
    Absent,
}

/// Looks for a file or folder, and checks it and all folders on the path to it, through links. Absent means that its folder was
/// looked into and has no entry of that name, or that its folder is absent too. A folder that exists must be one to rely upon.
pub fn look(path: &Path) -> Result<Presence, Untrusted> {
    let walk = Walk::along(path)?;
    match (walk.end, walk.problem) {
        // The file's folder is absent too, so that others cannot have removed the file from it.
        (End::FolderAbsent, _) => Ok(Presence::Absent),
        (_, Some(problem)) => Err(problem),
        (End::Absent, None) => Ok(Presence::Absent),
        (End::Present, None) => Ok(Presence::Present),
    }
}

/// Checks a file or folder, which must exist, and all folders on the path to it.
pub fn check(path: &Path) -> Result<(), Untrusted> {
    match look(path)? {
        Presence::Present => Ok(()),
        Presence::Absent => Err(unseen(path)(io::ErrorKind::NotFound.into())),
    }
}

/// Checks a file in a folder that was checked already: unless the file is a link, no folder on the path is checked again.
pub fn check_in(checked: &Path, name: &OsStr) -> Result<(), Untrusted> {
    let path = checked.join(name);
    let found = fs::symlink_metadata(&path).map_err(unseen(&path))?;
    if found.is_symlink() {
        return check(&path);
    }
    let mut walk = Walk { end: End::Present, problem: None, links: vec![] };
    walk.judge(&path, &found, true);
    walk.problem.map_or(Ok(()), Err)
}

/// Checks a folder that is going to be made where it does not exist: others may not change any folder on the path.
pub fn check_to_make(path: &Path) -> Result<(), Untrusted> {
    Walk::along(path)?.problem.map_or(Ok(()), Err)
}

fn unseen(path: &Path) -> impl Fn(io::Error) -> Untrusted {
    move |reason| Untrusted::Unseen { path: path.into(), reason }
}

/// The most links that are followed on one path: the kernel's own bound (path_resolution(7)).
const LINKS: usize = 40;

/// A path, followed step by step as the kernel does.
struct Walk {
    /// What the path came to.
    end: End,
    /// The first file or folder on the path that cannot be relied upon.
    problem: Option<Untrusted>,
    /// The links that were followed.
    links: Vec<Link>,
}

#[derive(Clone, Copy)]
enum End {
    Present,
    Absent,
    FolderAbsent,
}

struct Link {
    path: PathBuf,
    to: PathBuf,
    /// How many steps of the path come after the link's own.
    after: usize,
}

impl Walk {
    fn along(path: &Path) -> Result<Self, Untrusted> {
        let whole = std::path::absolute(path).map_err(unseen(path))?;
        let mut walk = Self { end: End::Present, problem: None, links: vec![] };
        let mut at = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = steps(&whole).collect();
        let root = fs::symlink_metadata(&at).map_err(unseen(&at))?;
        walk.judge(&at, &root, rest.is_empty());
        while let Some(step) = rest.pop_front() {
            if step == ".." {
                at.pop();
                continue;
            }
            let entry = at.join(&step);
            let found = match fs::symlink_metadata(&entry) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    walk.end = walk.nothing(rest.len())?;
                    return Ok(walk);
                }
                Err(error) => return Err(unseen(&entry)(error)),
            };
            if !found.is_symlink() {
                walk.judge(&entry, &found, rest.is_empty());
                at = entry;
            } else if at.starts_with("/proc") && rest.is_empty() {
                // The entry stands for a file that a process has open, and its link's text is no path.
                let open = fs::metadata(&entry).map_err(unseen(&entry))?;
                walk.judge(&entry, &open, true);
            } else {
                let to = walk.follow(&entry, &found, rest.len())?;
                if to.is_absolute() {
                    at = PathBuf::from("/");
                }
                let steps: Vec<_> = steps(&to).collect();
                steps.into_iter().rev().for_each(|step| rest.push_front(step));
            }
        }
        Ok(walk)
    }

    /// Reads where a link leads. The link's owner is checked too: in a sticky folder, the owner can have it lead elsewhere.
    fn follow(
        &mut self,
        link: &Path,
        found: &Metadata,
        after: usize,
    ) -> Result<PathBuf, Untrusted> {
        self.note(owned(link, found));
        if self.links.len() == LINKS {
            return Err(unseen(link)(io::Error::other("too many links on the way")));
        }
        let to = fs::read_link(link).map_err(unseen(link))?;
        self.links.push(Link { path: link.into(), to: to.clone(), after });
        Ok(to)
    }

    /// Ends a path that does not exist, with so many steps still to go. Inside of where a link leads, this is an error.
    fn nothing(&self, left: usize) -> Result<End, Untrusted> {
        let dangling = self.links.iter().rev().find(|link| link.after <= left);
        match (dangling, left) {
            (Some(Link { path, to, .. }), _) => {
                Err(Untrusted::Dangling { link: path.clone(), to: to.clone() })
            }
            (None, 0) => Ok(End::Absent),
            (None, _) => Ok(End::FolderAbsent),
        }
    }

    fn judge(&mut self, path: &Path, found: &Metadata, is_last: bool) {
        self.note(owned(path, found));
        // In a sticky folder, only its owner and an entry's owner can take the entry away (unlink(2)), and the entry is judged
        // next.
        let is_sticky = found.is_dir() && found.mode() & 0o1000 != 0 && !is_last;
        if !is_sticky && others_may_write(path, found) {
            let mode = found.permissions().mode() & 0o7777;
            self.note(Err(Untrusted::Writable { path: path.into(), mode }));
        }
    }

    fn note(&mut self, judged: Result<(), Untrusted>) {
        self.problem = self.problem.take().or(judged.err());
    }
}

fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

fn owned(path: &Path, found: &Metadata) -> Result<(), Untrusted> {
    let (owner, user) = (found.uid(), geteuid().as_raw());
    if owner == 0 || owner == user {
        Ok(())
    } else {
        Err(Untrusted::Owner { path: path.into(), owner, user })
    }
}

fn others_may_write(path: &Path, found: &Metadata) -> bool {
    let mode = found.mode();
    let user = geteuid().as_raw();
    // Many systems give each user a group of the same number, with no other member, and let that group write to all of the user's
    // files.
    let private = found.gid() == user && getegid().as_raw() == user;
    // With an access control list, the group's bits are those of all users and groups that the list names (acl(5)).
    mode & 0o002 != 0 || (mode & 0o020 != 0 && (!private || has_access_list(path)))
}

fn has_access_list(path: &Path) -> bool {
    // This asks for the attribute's size, and reads nothing of it.
    lgetxattr(path, "system.posix_acl_access", &mut [0_u8; 0]).is_ok_and(|size| size > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder that only this user can change. Tests describe what was found below it by a word, and the path that an error names.
    struct Place(tempfile::TempDir);

    #[test]
    fn a_file_in_a_folder_that_was_checked() {
        let place = Place::new();
        let folder = place.at("etc/qhost");
        check(&folder).unwrap();
        assert!(check_in(&folder, OsStr::new("qhost.toml")).is_ok());
        assert!(check_in(&folder, OsStr::new("none")).is_err());
        place.mode("etc/qhost/qhost.toml", 0o666);
        assert!(check_in(&folder, OsStr::new("qhost.toml")).is_err());
        symlink(place.at("open/file"), folder.join("link")).unwrap();
        assert!(
            check_in(&folder, OsStr::new("link")).is_err(),
            "its way leads through a folder of others"
        );
    }

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for folder in ["etc", "etc/qhost", "open", "sticky"] {
                fs::create_dir(place.at(folder)).unwrap();
            }
            place.mode("open", 0o777);
            place.mode("sticky", 0o1777);
            for file in ["etc/qhost/qhost.toml", "open/file", "sticky/file"] {
                fs::write(place.at(file), "").unwrap();
            }
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        #[track_caller]
        fn check(&self, name: &str, expected: &str) {
            let name_of = |path: &Path| {
                path.strip_prefix(self.0.path()).unwrap_or(path).display().to_string()
            };
            let found = match look(&self.at(name)) {
                Ok(Presence::Present) => "there".into(),
                Ok(Presence::Absent) => "absent".into(),
                Err(Untrusted::Writable { path, .. }) => format!("writable {}", name_of(&path)),
                Err(Untrusted::Owner { path, .. }) => format!("another's {}", name_of(&path)),
                Err(Untrusted::Dangling { link, .. }) => format!("dangling {}", name_of(&link)),
                Err(Untrusted::Unseen { path, .. }) => format!("unseen {}", name_of(&path)),
            };
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn what_only_its_owner_can_change_is_relied_upon() {
        let place = Place::new();
        place.check("etc/qhost/qhost.toml", "there");
        place.check("etc/../etc/./qhost/qhost.toml", "there");
        place.check("etc/qhost/qhost.lock", "absent");
        place.check("etc/other/qhost.toml", "absent");
        place.check("sticky/file", "there");
        place.check("sticky/none", "absent");
        place.check("open/none/file", "absent");
        place.check("etc/qhost/qhost.toml/file", "unseen etc/qhost/qhost.toml/file");
    }

    #[test]
    fn what_others_can_change_is_not() {
        let place = Place::new();
        place.check("open/file", "writable open");
        place.check("open/none", "writable open");
        place.check("sticky", "writable sticky");
        place.mode("etc/qhost/qhost.toml", 0o646);
        place.check("etc/qhost/qhost.toml", "writable etc/qhost/qhost.toml");
        place.mode("etc", 0o757);
        place.check("etc/qhost/qhost.toml", "writable etc");
    }

    #[test]
    fn links_are_followed_as_the_kernel_does() {
        let place = Place::new();
        let link = |name: &str, to: &str| symlink(to, place.at(name)).unwrap();
        link("conf", "etc/qhost");
        place.check("conf/qhost.toml", "there");
        place.check("conf/none", "absent");
        place.check("conf/none/none", "absent");
        link("etc/file", "../open/file");
        place.check("etc/file", "writable open");
        link("open/conf", "../etc/qhost");
        place.check("open/conf/qhost.toml", "writable open");
        link("gone", "etc/gone/qhost.toml");
        place.check("gone", "dangling gone");
        link("gone-too", "etc/gone");
        place.check("gone-too/qhost.toml", "dangling gone-too");
        link("twice", "conf/../gone");
        place.check("twice", "dangling twice");
        link("circle", "circle");
        place.check("circle", "unseen circle");
    }

    #[test]
    fn what_a_process_has_open_is_looked_at() {
        assert!(matches!(look(Path::new("/proc/self/fd/0")), Ok(Presence::Present) | Err(_)));
        let (reader, _writer) = io::pipe().unwrap();
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert!(
            matches!(look(Path::new(&path)), Ok(Presence::Present)),
            "{:?}",
            look(Path::new(&path))
        );
    }
}
