//! Overlays that outlive their VM, for tasks that `persist`: `overlays/<name>-<key>/` with the overlay, what it lies over,
//! and a lock that the VM holds. The key is of tenant, job and task, so that no name leads to another's.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    VmError,
    dir::{folder, slug},
};
use crate::{
    digest::Sha256,
    image::{self, Format, VerifiedImage},
    job::Task,
    qemu::OVERLAY,
    state::{self, StateDir},
};

const RECORD: &str = "overlay.json";

/// A task's kept overlay, held until dropped.
#[derive(Debug)]
pub struct KeptOverlay {
    path: PathBuf,
    record: Record,
    _lock: File,
}

/// Whose an overlay is, and what it lies over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    tenant: String,
    job: String,
    task: String,
    /// Absent until it lies over one.
    image: Option<Sha256>,
}

/// Where a task's overlay is kept.
pub fn kept_overlay(state: &StateDir, task: &Task) -> PathBuf {
    let key = [&task.tenant, &task.job, &task.name].map(|part| format!("{}:{part}", part.len()));
    let key: String = Sha256::of(key.concat().as_bytes()).to_string().chars().take(16).collect();
    state.overlays().join(format!("{}-{key}", slug(&task.name))).join(OVERLAY)
}

impl KeptOverlay {
    /// Takes hold of a task's overlay, if it keeps one; nobody else's run may have it.
    pub fn hold(state: &StateDir, task: &Task) -> Result<Option<Self>, VmError> {
        if !task.persist {
            return Ok(None);
        }
        let path = kept_overlay(state, task);
        let parent = path.parent().unwrap_or(&path);
        state::create_private(parent).map_err(folder("create", parent))?;
        let lock_path = parent.join("lock");
        let lock = File::options().create(true).append(true).open(&lock_path);
        let lock = lock.map_err(folder("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(VmError::OverlayHeld { task: task.name.clone(), path });
            }
            Err(TryLockError::Error(error)) => return Err(folder("lock", &lock_path)(error)),
        }
        let whose = Record {
            tenant: task.tenant.clone(),
            job: task.job.clone(),
            task: task.name.clone(),
            image: None,
        };
        let found = read(parent).filter(|_| path.exists());
        let same = |found: &Record| Record { image: None, ..found.clone() } == whose;
        if found.as_ref().is_some_and(|found| !same(found)) {
            let reason = "it is another task's".into();
            return Err(VmError::OverlayUnfit { path, reason });
        }
        let record = found.unwrap_or(whose);
        Ok(Some(Self { path, record, _lock: lock }))
    }

    /// Makes it ready to lie over an image: new, or what an earlier run of the task left over the same one.
    pub fn over(&mut self, image: &VerifiedImage) -> Result<(), VmError> {
        // A CD takes no writes.
        if image.format() == Format::Iso {
            return Ok(());
        }
        if self.path.exists() {
            return self.check(image);
        }
        self.record.image = Some(image.sha256());
        let parent = self.path.parent().unwrap_or(&self.path);
        let record = parent.join(RECORD);
        serde_json::to_vec_pretty(&self.record)
            .map_err(io::Error::other)
            .and_then(|bytes| state::write_whole(&record, &bytes))
            .map_err(folder("write", &record))?;
        let new = self.path.with_extension("new");
        state::remove(&new)
            .and_then(|()| image::create_overlay(&new, image.disk_bytes()))
            // An empty file would be taken for it after a power failure.
            .and_then(|()| File::open(&new)?.sync_all())
            .and_then(|()| fs::rename(&new, &self.path))
            .and_then(|()| File::open(parent)?.sync_all())
            .map_err(folder("create", &self.path))
    }

    /// QEMU wrote this file, at the bidding of a guest: it is looked at as any image is.
    fn check(&self, image: &VerifiedImage) -> Result<(), VmError> {
        let refused = |reason: String| VmError::OverlayUnfit { path: self.path.clone(), reason };
        if self.record.image != Some(image.sha256()) {
            let of =
                self.record.image.map_or("nobody knows what".into(), |of| format!("sha256:{of}"));
            return Err(refused(format!(
                "it lies over {of}, and the task's image is sha256:{}",
                image.sha256()
            )));
        }
        let read = File::open(&self.path).and_then(|file| image::inspect(&file, u64::MAX));
        match read.map_err(folder("read", &self.path))? {
            Ok(found)
                if (found.format, found.disk_bytes) == (Format::Qcow2, image.disk_bytes()) =>
            {
                Ok(())
            }
            Ok(found) => Err(refused(format!(
                "it is {} with a disk of {} bytes, and the image's has {}",
                found.format.name(),
                found.disk_bytes,
                image.disk_bytes()
            ))),
            Err(refusal) => Err(refused(refusal.to_string())),
        }
    }

    /// The overlay.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The images that kept overlays lie over, with whose they are.
pub fn kept_over(state: &StateDir) -> Vec<(Sha256, String)> {
    let folders = fs::read_dir(state.overlays()).into_iter().flatten().flatten();
    let of = |folder: fs::DirEntry| {
        let record = read(&folder.path())?;
        folder.path().join(OVERLAY).exists().then_some(())?;
        Some((record.image?, format!("{}/{}", record.tenant, record.task)))
    };
    folders.filter_map(of).collect()
}

fn read(folder: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()
}
