//! Volumes: disks that outlive their VMs. `volumes/<name>-<key>/` holds the disk (a raw file whose unwritten parts take no space), its
//! record, and a lock that its one user holds. The key is made of tenant and name, so that no name leads to another tenant's volume.
//!
//! A volume is created in a folder `.new-…`, which is renamed once complete; to remove it, its folder is renamed `.gone-…` and then deleted.
//! Folders that a killed process left are deleted by the next command that creates, copies or removes a volume.

mod error;
mod name;
mod source;

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::digest::Sha256;
use qhost_sys::{
    failpoint,
    state::{self, StateDir, VOLUME},
};

pub use error::VolumeError;
pub use name::VolumeName;
pub use source::VolumeSource;

use crate::sparse;

use error::{at, missing_or};

const RECORD: &str = "volume.json";
const LOCK: &str = "lock";
/// Prefix of the folder of a volume that is still being created.
const NEW: &str = ".new-";
/// Prefix of the folder of a volume that is being removed.
const GONE: &str = ".gone-";

/// A volume's record on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    of: VolumeName,
    bytes: u64,
    created_at: Timestamp,
}

/// A volume, for its operator.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// Whose it is, and its name.
    #[serde(flatten)]
    pub of: VolumeName,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it takes of the host's disk, in bytes.
    pub disk_usage: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last written to.
    pub written_at: Timestamp,
    /// Whether a VM or a command has it.
    pub in_use: bool,
}

/// The volumes of a state folder.
#[derive(Debug, Clone)]
pub struct Volumes {
    folder: PathBuf,
}

/// A volume under its lock: until this is dropped, no VM and no other command has the volume.
#[derive(Debug)]
pub struct LockedVolume {
    of: VolumeName,
    folder: PathBuf,
    lock: File,
}

/// A locked volume whose record was read, and whose disk has the recorded size.
#[derive(Debug)]
pub struct HeldVolume {
    folder: PathBuf,
    record: Record,
    lock: File,
}

/// A volume that is being created. If this is dropped before `commit`, the volume's folder is removed.
#[derive(Debug)]
pub struct NewVolume {
    volumes: Volumes,
    made: PathBuf,
    record: Record,
    /// The lock tells a sweep that the volume is being created.
    _lock: File,
}

impl Volumes {
    /// The volumes of a state folder.
    pub fn of(state: &StateDir) -> Self {
        Self { folder: state.volumes() }
    }

    fn folder_of(&self, of: &VolumeName) -> PathBuf {
        let key = [&of.tenant, &of.name].map(|part| format!("{}:{part}", part.len()));
        let key = Sha256::of(key.concat().as_bytes()).to_string();
        self.folder.join(format!("{}-{}", of.name, key.get(..16).unwrap_or_default()))
    }

    /// The path of a volume's disk, whether or not the volume exists.
    pub fn path(&self, of: &VolumeName) -> PathBuf {
        self.folder_of(of).join(VOLUME)
    }

    /// Locks the folder of all volumes: one process at a time adds, renames or sweeps folders.
    fn lock(&self) -> Result<File, VolumeError> {
        state::create_private(&self.folder).map_err(at("create", &self.folder))?;
        let path = self.folder.join(LOCK);
        state::lock(&path).map_err(at("lock", &path))
    }

    /// Lists all volumes, sorted by their tenants and names.
    ///
    /// # Errors
    /// The folder cannot be read. A volume without a readable record is logged and left out.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let folders = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            folders => folders.map_err(at("read", &self.folder))?,
        };
        let is_volume = |folder: &Path| {
            folder.is_dir() && folder.file_name().is_some_and(|name| !is_hidden(name))
        };
        let folders = folders.flatten().map(|entry| entry.path()).filter(|path| is_volume(path));
        let one = |folder: PathBuf| match volume(&folder) {
            Ok(volume) => Some(volume),
            Err(error) => {
                tracing::warn!(path = %folder.display(), %error, "a volume cannot be read");
                None
            }
        };
        let mut volumes: Vec<_> = folders.filter_map(one).collect();
        volumes.sort_by(|a, b| (&a.of.tenant, &a.of.name).cmp(&(&b.of.tenant, &b.of.name)));
        Ok(volumes)
    }

    /// Looks a volume up.
    ///
    /// # Errors
    /// There is no such volume, or it cannot be read.
    pub fn get(&self, of: &VolumeName) -> Result<Volume, VolumeError> {
        let folder = self.folder_of(of);
        volume(&folder).map_err(missing_or("read", of, &folder))
    }

    /// Locks a volume, whatever state its disk and its record are in.
    ///
    /// # Errors
    /// There is no volume of that name, or the volume is in use.
    pub fn lock_one(&self, of: &VolumeName) -> Result<LockedVolume, VolumeError> {
        let folder = self.folder_of(of);
        let lock = lock(&folder).map_err(missing_or("lock", of, &folder))?;
        let lock = lock.ok_or_else(|| VolumeError::Held { of: of.clone(), by: String::new() })?;
        Ok(LockedVolume { of: of.clone(), folder, lock })
    }

    /// Makes an empty volume.
    ///
    /// # Errors
    /// A volume of that name exists, or the new one cannot be written.
    pub fn make(&self, of: VolumeName, bytes: u64) -> Result<NewVolume, VolumeError> {
        let new = self.begin(of, bytes)?;
        let disk = new.create_disk()?;
        disk.set_len(bytes).and_then(|()| disk.sync_all()).map_err(at("write", &new.made))?;
        failpoint::reach("volume.create.written");
        Ok(new)
    }

    /// Opens a volume to copy it while a VM has it. The VM's guest must write nothing to it meanwhile.
    ///
    /// # Errors
    /// There is no volume of that name, or it cannot be read.
    pub fn source_in_use(&self, of: &VolumeName) -> Result<VolumeSource, VolumeError> {
        let bytes = self.get(of)?.bytes;
        VolumeSource::open(&self.path(of), bytes)
    }

    /// Copies a volume to a new name.
    ///
    /// # Errors
    /// The copy fails as [`Volumes::make`] does, or the volume's disk cannot be read.
    pub fn copy(
        &self,
        from: &VolumeSource,
        of: VolumeName,
        progress: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Result<NewVolume, VolumeError> {
        let new = self.begin(of, from.bytes())?;
        let disk = new.create_disk()?;
        sparse::copy(from.disk(), &disk, from.bytes(), progress)
            .and_then(|()| disk.sync_all())
            .map_err(at("copy to", &new.made))?;
        failpoint::reach("volume.copy.written");
        Ok(new)
    }

    fn begin(&self, of: VolumeName, bytes: u64) -> Result<NewVolume, VolumeError> {
        let all = self.lock()?;
        self.sweep();
        if self.folder_of(&of).exists() {
            return Err(VolumeError::Exists(of));
        }
        let made = tempfile::Builder::new()
            .prefix(NEW)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&self.folder)
            .map_err(at("create a folder in", &self.folder))?
            .keep();
        let lock = lock(&made).and_then(|lock| lock.ok_or(io::ErrorKind::WouldBlock.into()));
        drop(all);
        let lock = lock.map_err(at("lock", &made))?;
        let record = Record { of, bytes, created_at: Timestamp::now() };
        let new = NewVolume { volumes: self.clone(), made, record, _lock: lock };
        failpoint::reach("volume.create.begun");
        write(&new.made, &new.record)?;
        Ok(new)
    }

    /// Removes a locked volume with all that is on it.
    ///
    /// # Errors
    /// The volume's folder cannot be renamed; the volume then stays as it was.
    pub fn remove(&self, locked: LockedVolume) -> Result<(), VolumeError> {
        let gone = {
            let _all = self.lock()?;
            self.sweep();
            let name = locked.folder.file_name().unwrap_or_default().to_string_lossy();
            let gone = self.folder.join(format!("{GONE}{name}"));
            fs::rename(&locked.folder, &gone)
                .and_then(|()| File::open(&self.folder)?.sync_all())
                .map_err(at("remove", &locked.folder))?;
            gone
        };
        failpoint::reach("volume.remove.renamed");
        // Deleting a large file takes its time, in which other commands go on; the folder's lock keeps it from their sweeps.
        remove_folder(&gone);
        Ok(())
    }

    /// Removes the folders that killed processes left. The caller holds the lock of all volumes.
    fn sweep(&self) {
        for found in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let (path, name) = (found.path(), found.file_name());
            let name = name.to_string_lossy();
            let is_left = name.starts_with(GONE) || name.starts_with(NEW);
            if is_left && !state::is_held(&path.join(LOCK)) {
                remove_folder(&path);
            }
        }
    }
}

impl NewVolume {
    /// The volume's size in bytes.
    pub fn bytes(&self) -> u64 {
        self.record.bytes
    }

    fn create_disk(&self) -> Result<File, VolumeError> {
        let path = self.made.join(VOLUME);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(at("create", &path))
    }

    /// Renames the folder to the volume's name, which makes it a volume.
    ///
    /// # Errors
    /// Another process made a volume of that name meanwhile, or the folder cannot be renamed.
    pub fn commit(self) -> Result<Volume, VolumeError> {
        let volumes = &self.volumes;
        let folder = volumes.folder_of(&self.record.of);
        let _all = volumes.lock()?;
        if folder.exists() {
            return Err(VolumeError::Exists(self.record.of.clone()));
        }
        fs::rename(&self.made, &folder)
            .and_then(|()| File::open(&volumes.folder)?.sync_all())
            .map_err(at("create", &folder))?;
        failpoint::reach("volume.create.renamed");
        volume(&folder).map_err(at("read", &folder))
    }
}

impl Drop for NewVolume {
    fn drop(&mut self) {
        if self.made.exists() {
            remove_folder(&self.made);
        }
    }
}

impl LockedVolume {
    /// The path of the volume's disk.
    pub fn path(&self) -> PathBuf {
        self.folder.join(VOLUME)
    }

    /// Reads the record, and sets the disk to the recorded length: a QEMU that a guest had taken over could have cut or lengthened the
    /// file.
    ///
    /// # Errors
    /// The record cannot be read or is another volume's, or the disk cannot be used.
    pub fn hold(self) -> Result<HeldVolume, VolumeError> {
        let Self { of, folder, lock } = self;
        let record = read(&folder).map_err(at("read the record of", &folder))?;
        if record.of != of {
            let error = io::Error::other(format!("it is the volume {}'s", record.of));
            return Err(at("use the record of", &folder)(error));
        }
        let held = HeldVolume { folder, record, lock };
        held.set_len(held.record.bytes)?;
        Ok(held)
    }
}

impl HeldVolume {
    /// The path of the volume's disk.
    pub fn path(&self) -> PathBuf {
        self.folder.join(VOLUME)
    }

    /// The volume's size in bytes.
    pub fn bytes(&self) -> u64 {
        self.record.bytes
    }

    /// Opens the volume to copy it while it is held.
    ///
    /// # Errors
    /// The volume's disk cannot be opened.
    pub fn source(&self) -> Result<VolumeSource, VolumeError> {
        VolumeSource::open(&self.path(), self.bytes())
    }

    /// The volume's lock, for its VM's supervisor.
    pub fn into_lock(self) -> File {
        self.lock
    }

    /// Makes the volume larger. The new part is empty.
    ///
    /// # Errors
    /// The volume is larger already, or its disk or its record cannot be written.
    pub fn resize(&mut self, bytes: u64) -> Result<(), VolumeError> {
        let Record { of, bytes: has, .. } = &self.record;
        if bytes < *has {
            return Err(VolumeError::Smaller { of: of.clone(), has: *has, asked: bytes });
        }
        // The disk grows before the record does: a disk longer than recorded is cut to length again, and a shorter one could not be used.
        self.set_len(bytes)?;
        failpoint::reach("volume.resize.lengthened");
        let record = Record { bytes, ..self.record.clone() };
        write(&self.folder, &record)?;
        self.record = record;
        failpoint::reach("volume.resize.recorded");
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> Result<(), VolumeError> {
        let path = self.path();
        let file = open(&path, true).map_err(at("open", &path))?;
        let resize = || {
            if file.metadata()?.len() != bytes {
                file.set_len(bytes)?;
                file.sync_all()?;
            }
            Ok(())
        };
        resize().map_err(at("set the length of", &path))
    }
}

/// Takes the lock of a volume that a VM's QEMU still has; gives nothing where another process got hold of the lock meanwhile.
///
/// # Errors
/// The volume's folder does not exist.
pub fn hold_again(disk: &Path) -> io::Result<Option<File>> {
    lock(disk.parent().unwrap_or(disk))
}

fn open(path: &Path, writes: bool) -> io::Result<File> {
    state::open_plain(File::options().read(true).write(writes), path)
}

fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Takes a folder's lock; gives nothing where a process has it.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    state::try_lock_looked_at(&folder.join(LOCK))
}

fn read(folder: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&state::read(&folder.join(RECORD))?)?)
}

fn write(folder: &Path, record: &Record) -> Result<(), VolumeError> {
    let path = folder.join(RECORD);
    serde_json::to_vec_pretty(record)
        .map_err(io::Error::other)
        .and_then(|bytes| state::write_whole(&path, &bytes))
        .map_err(at("write", &path))
}

fn volume(folder: &Path) -> io::Result<Volume> {
    let Record { of, bytes, created_at } = read(folder)?;
    let disk = fs::symlink_metadata(folder.join(VOLUME))?;
    Ok(Volume {
        of,
        bytes,
        // st_blocks counts units of 512 bytes (stat(3type)).
        disk_usage: disk.blocks().saturating_mul(512),
        created_at,
        written_at: disk.modified()?.try_into().map_err(io::Error::other)?,
        in_use: state::is_held(&folder.join(LOCK)),
    })
}

/// Removes a leftover folder of a volume. A failure is logged, and the next sweep tries again.
fn remove_folder(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(path = %folder.display(), %error, "cannot remove a leftover folder of a volume");
    }
}
