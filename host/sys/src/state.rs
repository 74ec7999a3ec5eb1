//! The state folder: the paths in it, and how a file is written so that a reader finds the old one or the new one, whole.

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

/// The folder of volumes, in the state folder.
pub const VOLUMES: &str = "volumes";
/// The name of a volume's disk, in the volume's folder.
pub const VOLUME: &str = "volume.raw";

/// The folder named by `--state-dir`.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the state folder {} cannot be used: {reason}", path.display())]
pub struct StateDirError {
    path: PathBuf,
    reason: String,
}

impl StateDir {
    /// Takes an absolute path for the folder, which need not exist; if it exists, only this user may be able to write to it. QEMU's options
    /// are text, so that the path must be UTF-8.
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

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of the VMs' folders.
    pub fn vms(&self) -> PathBuf {
        self.0.join("vms")
    }

    /// The folder of overlays that outlive their VM.
    pub fn overlays(&self) -> PathBuf {
        self.0.join("overlays")
    }

    /// The folder of volumes.
    pub fn volumes(&self) -> PathBuf {
        self.0.join(VOLUMES)
    }

    /// The folder of locks of host ports.
    pub fn ports(&self) -> PathBuf {
        self.0.join("ports")
    }

    /// The folder of compiled policies.
    pub fn compiled(&self) -> PathBuf {
        self.0.join("compiled")
    }

    /// The folder of copies of the operator's tables.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// The folder of the log of decisions.
    pub fn decisions(&self) -> PathBuf {
        self.0.join("decisions")
    }

    /// The file that says that this host is drained, while it is.
    pub fn drain(&self) -> PathBuf {
        self.0.join("drain.json")
    }

    /// The file of the kept fingerprint.
    pub fn fingerprint(&self) -> PathBuf {
        self.0.join("fingerprint.json")
    }
}

/// Checks that this user owns the folder: root's folder is not an ordinary user's to use. Whether others can write there was checked
/// before.
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

/// The kind of the error that [`open_plain`] gives for a path that is no plain file.
const NOT_PLAIN: io::ErrorKind = io::ErrorKind::InvalidData;

/// Opens a file of the state folder, which must be a plain one: a link that was left under its name is not followed, and a pipe is not
/// waited for.
pub fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = open_unlooked(options, path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_plain("a folder, a pipe or a device"))
    }
}

/// Opens a file of the state folder without checking that it is a plain one; a link is not followed, and a pipe is not waited for.
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

/// Opens a plain file of the state folder to append to it, and makes it where there is none.
pub fn open_to_append(path: &Path) -> io::Result<File> {
    open_plain(File::options().create(true).append(true).mode(0o600), path)
}

/// Opens a file of the state folder to lock it. On a disk that has become read-only, where it is there already, it is opened to be read: that is
/// enough for a lock, so that VMs on such a disk are still adopted and ended.
pub fn open_to_lock(path: &Path) -> io::Result<File> {
    match open_to_append(path) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            // What is not there cannot be made.
            open_plain(File::options().read(true), path).map_err(|_| error)
        }
        opened => opened,
    }
}

/// Reads a record of the state folder whole. A list of a thousand VMs reads two records of each, so that this makes no system call more
/// than it must.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // The kind of file is not checked: only a plain file has a record in it, and a pipe that is empty, or has a part, is not waited for.
    let mut file = open_unlooked(File::options().read(true), path)?;
    // Most records fit into this buffer.
    let mut bytes = vec![0; 4096];
    let first = file.read(&mut bytes)?;
    bytes.truncate(first);
    // A plain file that gives less than was asked for has no more.
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

/// Waits for a lock that is held for moments only. The lock is released when the file is dropped.
pub fn lock(path: &Path) -> io::Result<File> {
    let file = open_to_lock(path)?;
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

/// Takes the lock of a file, unless another process holds it. The file may be removed together with the lock: a process that waited then
/// has a lock on a removed file, and takes the lock of the file that is there now.
pub fn try_lock_named(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open_to_lock(path)?;
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

/// Takes the lock of a file, and waits a little for processes that hold it only to look whether it is held.
pub fn try_lock_looked_at(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..limits::LOCK_TRIES {
        if let Some(lock) = try_lock_named(path)? {
            return Ok(Some(lock));
        }
        thread::sleep(limits::LOCK_POLL);
    }
    Ok(None)
}

/// Whether a process holds the lock of a file; no process does where the path is absent, a link or a socket. Looking takes a shared lock,
/// so that processes that look at once do not see each other. The kind of file is not checked, since a list of a thousand VMs looks at
/// each, and no process of this program locks a file that is not plain.
pub fn is_held(path: &Path) -> bool {
    match open_unlooked(File::options().read(true), path) {
        Ok(file) => file.try_lock_shared().is_err(),
        Err(error) => ![io::ErrorKind::NotFound, NOT_PLAIN].contains(&error.kind()),
    }
}

/// Writes a file of the state folder through a temporary one beside it and a rename. Once this returns, the new file outlasts a loss of
/// power.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_replacing(path, bytes)?;
    File::open(folder_of(path)?)?.sync_all()
}

/// Writes a file of the state folder through a temporary one beside it and a rename, in half the time of [`write_whole`]. Should this host
/// lose its power before anything else in the folder is synced, the old file may be found, or none.
pub fn write_replacing(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_private(folder_of(path)?)?;
    write_renamed(path, bytes, 0o600)
}

/// Writes a file of the state folder through a temporary one and a rename, without waiting for the disk. If its writer is killed, the file
/// is the old one or the new one; should this host lose its power before the file is synced, it may be empty.
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path)?;
    create_private(folder)?;
    temporary_beside(path, bytes, 0o600)?.persist(path)?;
    Ok(())
}

/// Waits until a file or a folder outlasts a loss of power. Nothing is waited for where the path is gone meanwhile, or is no plain file.
pub fn sync(path: &Path) -> io::Result<()> {
    match open_unlooked(File::options().read(true), path) {
        Ok(file) => file.sync_all(),
        Err(error) if [io::ErrorKind::NotFound, NOT_PLAIN].contains(&error.kind()) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes a file of the state folder through a temporary one and a rename, where the caller's lock keeps other processes from writing it. A
/// killed process leaves a file of a known name: the file's own with `.tmp` behind it.
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

/// Removes a file, which need not exist.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a file outside of the state folder for others to read, whole or not at all: a configuration, a policy, its signatures.
pub fn write_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder_of(path)?)?;
    // The user's umask takes rights away from these, as with any program.
    write_renamed(path, bytes, 0o666)?;
    File::open(folder_of(path)?)?.sync_all()
}

/// Writes a file outside of the state folder that does not exist yet, whole or not at all. A file that exists stays as it is.
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
