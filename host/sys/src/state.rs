//! The state folder: where things are, and writing a file so that a reader finds the old one or the new one, whole.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use rustix::{fs::OFlags, io::Errno};
use tempfile::NamedTempFile;

use crate::{limits, trusted};

/// Where volumes are, in the state folder.
pub const VOLUMES: &str = "volumes";
/// A volume's disk, in its folder there.
pub const VOLUME: &str = "volume.raw";

/// The folder named by `--state-dir`.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// The folder's name cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the state folder {} cannot be used: {reason}", path.display())]
pub struct StateDirError {
    path: PathBuf,
    reason: String,
}

impl StateDir {
    /// An absolute path for the folder, which need not exist, but must be this user's alone to write to if it does. QEMU's options are text, so its name must be UTF-8.
    pub fn new(path: &Path) -> Result<Self, StateDirError> {
        let refused = |reason: String| StateDirError { path: path.into(), reason };
        let absolute = std::path::absolute(path).map_err(|error| refused(error.to_string()))?;
        if absolute.to_str().is_none() {
            return Err(refused("its name is not UTF-8".into()));
        }
        trusted::check_to_make(&absolute).map_err(|error| refused(error.to_string()))?;
        match fs::metadata(&absolute) {
            Ok(folder) => own(&folder).map_err(refused)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused(error.to_string())),
        }
        Ok(Self(absolute))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where VMs have their folders.
    pub fn vms(&self) -> PathBuf {
        self.0.join("vms")
    }

    /// Where overlays that outlive their VM are.
    pub fn overlays(&self) -> PathBuf {
        self.0.join("overlays")
    }

    /// Where volumes are.
    pub fn volumes(&self) -> PathBuf {
        self.0.join(VOLUMES)
    }

    /// Where locks of host ports are.
    pub fn ports(&self) -> PathBuf {
        self.0.join("ports")
    }

    /// Where compiled policies are.
    pub fn compiled(&self) -> PathBuf {
        self.0.join("compiled")
    }

    /// Where copies of the operator's tables are.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Where the log of decisions is.
    pub fn decisions(&self) -> PathBuf {
        self.0.join("decisions")
    }

    /// The drain of this host, while it is drained.
    pub fn drain(&self) -> PathBuf {
        self.0.join("drain.json")
    }

    /// Where the fingerprint is kept.
    pub fn fingerprint(&self) -> PathBuf {
        self.0.join("fingerprint.json")
    }
}

/// That others cannot write there was looked at before. Whose it is counts too: root's folder is not an ordinary user's to use.
fn own(folder: &Metadata) -> Result<(), String> {
    let user = rustix::process::geteuid().as_raw();
    if folder.uid() == user {
        Ok(())
    } else {
        Err(format!("it belongs to user {}, and this is user {user}", folder.uid()))
    }
}

/// Makes a folder and those above it, each readable by its owner only.
pub fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The kind of the error that [`open_plain`] gives for what is no plain file.
const NOT_PLAIN: io::ErrorKind = io::ErrorKind::InvalidData;

/// Opens a file of the state folder, which must be a plain one: a link that was left by its name is not followed, and a pipe is
/// not waited for.
pub fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = open_unlooked(options, path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_plain("a folder, a pipe or a device"))
    }
}

/// The same without a look at what was opened.
fn open_unlooked(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened = options.custom_flags(flags).open(path);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => not_plain("a symbolic link"),
        Some(Errno::NXIO) => not_plain("a pipe or a socket"),
        Some(Errno::ISDIR) => not_plain("a folder"),
        Some(_) | None => error,
    })
}

fn not_plain(what: &str) -> io::Error {
    io::Error::new(NOT_PLAIN, format!("it is {what}, and no plain file"))
}

/// The same, to add to it; it is made where it is not there.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    open_plain(File::options().create(true).append(true).mode(0o600), path)
}

/// Reads a record of the state folder whole. A list of a thousand VMs reads two of each, so that it takes no system call more than it
/// must.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // What is no plain file has no record in it: a pipe that has nothing, or a part of it, is not waited for.
    let mut file = open_unlooked(File::options().read(true), path)?;
    // Most records fit.
    let mut bytes = vec![0; 4096];
    let first = file.read(&mut bytes)?;
    bytes.truncate(first);
    // Of a plain file, what is less than was asked for is all that there is.
    if first < 4096 {
        return Ok(bytes);
    }
    file.take(limits::RECORD_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 <= limits::RECORD_BYTES {
        Ok(bytes)
    } else {
        Err(io::Error::other(format!(
            "it has more than {} bytes, the most that a record has",
            limits::RECORD_BYTES
        )))
    }
}

/// Waits for a lock that is held for moments only. It is let go when the file is dropped.
pub fn lock(path: &Path) -> io::Result<File> {
    let file = open_to_append(path)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < limits::STATE_LOCK => {
                thread::sleep(limits::STATE_LOCK_POLL);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The lock that a file of this name is, unless a process holds it. The file may be removed with the lock: a process that waited for
/// the one that was there before has a lock on nothing, and is given the one that is there now.
pub fn try_lock_named(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open_to_append(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let named = fs::metadata(path).map(|named| named.ino());
        if named.is_ok_and(|named| file.metadata().is_ok_and(|held| held.ino() == named)) {
            return Ok(Some(file));
        }
    }
}

/// The same, where other processes hold the lock for moments, to look whether it is held: they are waited for.
pub fn try_lock_looked_at(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..limits::LOCK_TRIES {
        if let Some(lock) = try_lock_named(path)? {
            return Ok(Some(lock));
        }
        thread::sleep(limits::LOCK_POLL);
    }
    Ok(None)
}

/// Whether a process holds the lock that a file is; no process does where the file is absent or no plain file. Looking takes a
/// shared lock, so that processes that look at once do not see each other.
pub fn is_held(path: &Path) -> bool {
    match open_plain(File::options().read(true), path) {
        Ok(file) => file.try_lock_shared().is_err(),
        Err(error) => ![io::ErrorKind::NotFound, NOT_PLAIN].contains(&error.kind()),
    }
}

/// Writes a file of the state folder through a temporary one beside it and a rename, and it is there whatever becomes of this host.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_replacing(path, bytes)?;
    File::open(folder_of(path)?)?.sync_all()
}

/// The same, but should this host lose its power before anything else of the folder is synced, the old file may be there, or none.
/// Half the time of the above.
pub fn write_replacing(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_private(folder_of(path)?)?;
    write_renamed(path, bytes, 0o600)
}

/// The same without waiting for the disk: a file whose writer is killed is the old one or the new one, but should this host lose its power
/// before the file is synced, it may be empty.
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path)?;
    create_private(folder)?;
    temporary_beside(path, bytes, 0o600)?.persist(path)?;
    Ok(())
}

/// Waits until a file or a folder outlasts a loss of power. A file that is gone meanwhile, or that is no plain one, has nothing to wait for.
pub fn sync(path: &Path) -> io::Result<()> {
    match open_unlooked(File::options().read(true), path) {
        Ok(file) => file.sync_all(),
        Err(error) if [io::ErrorKind::NotFound, NOT_PLAIN].contains(&error.kind()) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The same under a lock that keeps other processes from writing it. What a killed process leaves has a name that is
/// known: the file's own with `.tmp` behind it.
pub fn write_locked(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path)?;
    create_private(folder)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".tmp");
    let mut options = File::options();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// Removes a file that need not be there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The same of a file that is elsewhere, for others to read: a configuration's, a policy, its signatures.
pub fn write_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder_of(path)?)?;
    // Less what the user's umask takes away, as with any program.
    write_renamed(path, bytes, 0o666)?;
    File::open(folder_of(path)?)?.sync_all()
}

/// Writes a file that is elsewhere and not there yet: whole, or not at all. A file that is there stays as it is.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = synced_beside(path, bytes, mode)?;
    new.persist_noclobber(path).map(drop).map_err(|kept| kept.error)
}

fn folder_of(path: &Path) -> io::Result<&Path> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    // A bare name is in the current folder.
    Ok(if folder == Path::new("") { Path::new(".") } else { folder })
}

fn write_renamed(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    synced_beside(path, bytes, mode)?.persist(path)?;
    Ok(())
}

fn synced_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let file = temporary_beside(path, bytes, mode)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn temporary_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let folder = folder_of(path)?;
    let mut builder = tempfile::Builder::new();
    let mut file = builder.permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    Ok(file)
}
