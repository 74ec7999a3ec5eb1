//! The disks that a launch has beside its root disk: the tenant's volumes, which are held for it, and files that end with the VM.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use qhost_image::{
    Fetcher, ImageError, Store, VerifiedImage,
    volumes::{HeldVolume, LockedVolume, VolumeError, VolumeName, Volumes},
};
use qhost_model::{
    format::Format,
    launch::{Disk, DiskImage, Launch, disks::overlay_bytes},
};
use qhost_sys::state::{self, StateDir};
use qhost_vm::{
    DiskOf, ImageOf, Spec, VmError,
    error::io_error,
    files::{disk_file, disk_overlay},
    list,
};

use crate::error::Failure;

/// The disks of a VM that is about to start, with its volumes held until dropped.
#[derive(Debug)]
pub(crate) struct HeldDisks {
    /// The disks, in the order in which QEMU gets them.
    pub(crate) disks: Vec<DiskOf>,
    locks: Vec<File>,
}

impl HeldDisks {
    /// Locks the volumes of a launch. Fails where a volume is missing, or another VM or command has it.
    pub(crate) fn hold(state: &StateDir, tenant: &str, disks: &[Disk]) -> Result<Self, Failure> {
        let mut held = Self { disks: vec![], locks: vec![] };
        for disk in disks {
            let (path, bytes) = match &disk.volume {
                Some(volume) => {
                    let volume = hold(state, &name(tenant, volume)).map_err(failure_of(disk))?;
                    let found = (volume.path(), volume.bytes());
                    held.locks.push(volume.into_lock());
                    found
                }
                None => own(disk),
            };
            held.disks.push(disk_of(disk, path, bytes));
        }
        Ok(held)
    }

    /// Puts images below the disks that ask for one, and holds the images too.
    pub(crate) fn attach_images(
        &mut self,
        disks: &[Disk],
        images: &[VerifiedImage],
    ) -> Result<(), Failure> {
        let with_images =
            disks.iter().zip(&mut self.disks).filter(|(disk, _)| disk.image.is_some());
        for ((disk, of), image) in with_images.zip(images) {
            fits(disk, image)?;
            over(
                of,
                ImageOf {
                    path: image.path().to_owned(),
                    sha256: image.sha256(),
                    format: image.format(),
                    disk_bytes: image.disk_bytes(),
                },
            );
            let lease = image.lease().map_err(io_error("hold", image.path()))?;
            self.locks.push(lease);
        }
        Ok(())
    }

    /// Puts the images below the disks that these had at an earlier start.
    pub(crate) fn attach_earlier_images(&mut self, earlier: &[DiskOf]) {
        for of in &mut self.disks {
            let image =
                earlier.iter().find(|one| one.name == of.name).and_then(|one| one.image.clone());
            if let Some(image) = image {
                over(of, image);
            }
        }
    }

    /// The locks on volumes and images, for the VM's supervisor.
    pub(crate) fn into_locks(self) -> Vec<File> {
        self.locks
    }
}

/// The images of disks, in the disks' order.
pub(crate) fn images(disks: &[Disk]) -> impl Iterator<Item = &DiskImage> {
    disks.iter().filter_map(|disk| disk.image.as_ref())
}

/// Fetches and checks images by the store, one after another.
pub(crate) async fn fetch<'a, 'f>(
    store: &Store,
    images: impl Iterator<Item = &'a DiskImage>,
    fetcher: impl Fn() -> Fetcher<'f>,
) -> Result<Vec<VerifiedImage>, ImageError> {
    let mut fetched = vec![];
    for image in images {
        fetched.push(Box::pin(store.ensure(&image.request(), fetcher())).await?);
    }
    Ok(fetched)
}

/// The disks that a launch would have now. No volume or image is held.
pub(crate) fn planned(
    state: &StateDir,
    tenant: &str,
    disks: &[Disk],
    stored: impl Fn(&Disk) -> Result<Option<VerifiedImage>, Failure>,
) -> Result<Vec<DiskOf>, Failure> {
    let planned = |disk: &Disk| {
        let (path, bytes) = match &disk.volume {
            Some(volume) => {
                let of = name(tenant, volume);
                let volumes = Volumes::of(state);
                let found = volumes.get(&of).map_err(failure_of(disk))?;
                let path = volumes.path(&of);
                if found.in_use || user_of(state, &path).is_some() {
                    return Err(failure_of(disk)(held_by(state, of)));
                }
                (path, found.bytes)
            }
            None => own(disk),
        };
        let mut of = disk_of(disk, path, bytes);
        if let Some(asked) = &disk.image {
            let stored = stored(disk)?;
            stored.iter().try_for_each(|image| fits(disk, image))?;
            // The format of an image that is not stored yet is a guess.
            let guess = Format::guess(asked.source.path());
            over(
                &mut of,
                ImageOf {
                    path: stored
                        .as_ref()
                        .map_or_else(PathBuf::new, |image| image.path().to_owned()),
                    sha256: asked.sha256,
                    format: stored.as_ref().map_or(guess, VerifiedImage::format),
                    disk_bytes: stored.as_ref().map_or(0, VerifiedImage::disk_bytes),
                },
            );
        }
        Ok(of)
    };
    disks.iter().map(planned).collect()
}

/// The most that QEMU may write to one file, in bytes: a process has one bound for all of its files. `variables` is the bound of UEFI's
/// variables.
pub(crate) fn file_bytes(root_bytes: u64, disks: &[DiskOf], variables: Option<u64>) -> u64 {
    let written = disks.iter().filter(|disk| !disk.read_only);
    let overlays = written
        .clone()
        .filter(|disk| disk.backing().is_some())
        .map(|disk| overlay_bytes(disk.bytes));
    let written = written.map(|disk| disk.bytes).chain(overlays);
    written.chain(variables).fold(root_bytes, u64::max)
}

/// The size to which the overlay may grow within the bound `file_bytes`, in bytes: its disk's size and qcow2's tables, which take less than
/// a thousandth of that and a MiB. The size of an image that is not stored yet may be unknown.
pub(crate) fn root_bytes(launch: &Launch, image_bytes: Option<u64>, file_bytes: u64) -> u64 {
    let disk = launch.disk_bytes.or(image_bytes);
    disk.map_or(file_bytes, |bytes| overlay_bytes(bytes).min(file_bytes))
}

/// Checks that a disk's image suits the disk.
fn fits(disk: &Disk, image: &VerifiedImage) -> Result<(), Failure> {
    let found = image.disk_bytes();
    let reason = match (disk.bytes.filter(|_| disk.has_overlay()), image.format()) {
        (_, format) if disk.cdrom && format != Format::Iso => {
            format!(
                "its image is {}, and a CD must be an ISO image; leave cdrom out",
                format.name()
            )
        }
        (Some(_), Format::Iso) => {
            "its image is an ISO image, which is only read; leave size out, set cdrom: true".into()
        }
        (Some(asked), _) if asked < found => {
            format!(
                "its size is {asked} bytes, and the disk in its image has {found}; set size to at least that"
            )
        }
        (_, _) => return Ok(()),
    };
    Err(VmError::DataDiskUnfit { disk: disk.name.to_string(), reason }.into())
}

/// Puts an image below a disk. A disk without an overlay is the image itself.
fn over(of: &mut DiskOf, image: ImageOf) {
    if !of.is_own() {
        (of.path, of.bytes) = (image.path.clone(), image.disk_bytes);
    }
    of.image = Some(image);
}

/// Makes the disks that end with a VM, in its folder. They are empty but for an image below, and their unwritten parts take no space.
pub(crate) fn create(vm: &Path, disks: &[DiskOf]) -> Result<(), VmError> {
    for disk in disks.iter().filter(|disk| disk.is_own()) {
        let path = vm.join(&disk.path);
        let create = || -> io::Result<()> {
            state::remove(&path)?;
            if disk.backing().is_some() {
                return qhost_image::create_overlay(&path, disk.bytes);
            }
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o600).open(&path)?.set_len(disk.bytes)
        };
        create().map_err(io_error("create", &path))?;
    }
    Ok(())
}

/// Locks a volume that no VM has, and reads its record.
pub(crate) fn hold(state: &StateDir, of: &VolumeName) -> Result<HeldVolume, VolumeError> {
    lock(state, of)?.hold()
}

/// Locks a volume that no VM has, and reads neither its record nor its disk, which may be damaged.
pub(crate) fn lock(state: &StateDir, of: &VolumeName) -> Result<LockedVolume, VolumeError> {
    let locked = match Volumes::of(state).lock_one(of) {
        Err(VolumeError::Held { of, .. }) => return Err(held_by(state, of)),
        locked => locked?,
    };
    // A QEMU whose supervisor was killed holds no lock.
    match user_of(state, &locked.path()) {
        Some(_) => Err(held_by(state, of.clone())),
        None => Ok(locked),
    }
}

/// The VM that has a volume.
pub(crate) fn user(state: &StateDir, of: &VolumeName) -> Option<list::VmRecord> {
    user_of(state, &Volumes::of(state).path(of))
}

fn held_by(state: &StateDir, of: VolumeName) -> VolumeError {
    let user = user(state, &of);
    let by = user.map(|vm| format!(" by the VM {}", vm.id)).unwrap_or_default();
    VolumeError::Held { of, by }
}

/// Finds the VM that has a volume, by the volume's file, to which several paths may lead. A running VM whose plan cannot be read counts as
/// having it.
fn user_of(state: &StateDir, volume: &Path) -> Option<list::VmRecord> {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let wanted = file(volume);
    let has = |vm: &list::VmRecord| match Spec::read(&vm.folder) {
        Ok(spec) => wanted.is_some() && spec.volumes().any(|one| file(one) == wanted),
        Err(_) => vm.status.qemu_lives(),
    };
    list::running(state).into_iter().find(has)
}

fn name(tenant: &str, volume: &str) -> VolumeName {
    VolumeName { tenant: tenant.to_owned(), name: volume.to_owned() }
}

fn own(disk: &Disk) -> (PathBuf, u64) {
    let path = match (&disk.image, disk.has_overlay()) {
        (Some(_), true) => disk_overlay(&disk.name).into(),
        // The path is the image's, which is known later.
        (Some(_), false) => PathBuf::new(),
        (None, _) => disk_file(&disk.name).into(),
    };
    (path, disk.bytes.unwrap_or_default())
}

fn disk_of(disk: &Disk, path: PathBuf, bytes: u64) -> DiskOf {
    DiskOf { name: disk.name.clone(), path, image: None, bytes, read_only: disk.read_only }
}

fn failure_of(disk: &Disk) -> impl Fn(VolumeError) -> Failure {
    let disk = disk.name.clone();
    move |source| Failure::Disk { disk: disk.clone(), source }
}
