//! The spec that each supervisor of a VM runs it by. It is written once before the launch, to `plan.json` in the VM's folder.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use qhost_cage::{Cage, User};
use qhost_model::{
    digest::Sha256,
    format::Format,
    host_facts::Resources,
    job::{Ready, Restart},
    launch::{Access, AccessLevel, DiskName, Forward, SecureBoot},
};
use qhost_sys::{spawn, state};

use super::{
    Process, VmError,
    error::io_error,
    files::{OVERLAY, VARIABLES, disk_file, disk_overlay, kept_variables},
    records::name_of,
};

pub(super) const PLAN: &str = "plan.json";

/// All that a supervisor needs to know of its VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The VM's id.
    pub vm: String,
    /// The task's name.
    pub task: String,
    /// The tenant's name.
    pub tenant: String,
    /// CPUs and memory.
    pub resources: Resources,
    /// The forwarded ports.
    pub forwards: Vec<Forward>,
    /// The stored image.
    pub image: ImageOf,
    /// The overlay that takes the guest's writes: in the VM's folder, or a kept one by its absolute path. None for a CD.
    pub overlay: Option<PathBuf>,
    /// The most that the guest may write to the overlay, in bytes.
    pub overlay_bytes: u64,
    /// The size of the root disk in bytes, if it differs from the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// The disks beside the root disk, in the order in which QEMU gets them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskOf>,
    /// The variables of the VM's UEFI: in the VM's folder, or kept, by their absolute path. Absent for BIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables: Option<PathBuf>,
    /// Whether the VM has a seed, in its folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub seed: bool,
    /// Whether the VM has Ignition's config, in its folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignition: bool,
    /// Seconds that a guest has to power off, unless the request to stop says otherwise.
    pub grace_s: u64,
    /// How far the console may be reached.
    #[serde(default = "interact")]
    pub console: AccessLevel,
    /// Pipes that another program reads the console from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_pipes: Option<LogPipes>,
    /// How far the display may be reached.
    #[serde(default = "not_there", skip_serializing_if = "is_not_there")]
    pub display: AccessLevel,
    /// How far the guest's agent may be asked.
    #[serde(default = "not_there", skip_serializing_if = "is_not_there")]
    pub agent: AccessLevel,
    /// When the VM is started again.
    pub restart: Restart,
    /// The check that the guest is ready.
    pub ready: Option<Ready>,
    /// What QEMU is kept in.
    pub cage: Cage,
    /// The emulator.
    pub program: PathBuf,
    /// The emulator's arguments.
    pub argv: Vec<String>,
}

/// The access of a VM that an earlier version launched, which has none in its record.
fn interact() -> AccessLevel {
    AccessLevel::Interact
}

fn not_there() -> AccessLevel {
    AccessLevel::None
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_not_there(level: &AccessLevel) -> bool {
    *level == AccessLevel::None
}

/// Named pipes that another program reads a task's output from, as Nomad's log collector does. Their paths have no links in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPipes {
    /// The pipe that the console is copied to.
    pub stdout: PathBuf,
    /// A pipe that nothing is written to, and that is open for as long as the VM has a supervisor: the reader waits for a writer of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<PathBuf>,
}

/// The image of a VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageOf {
    /// The stored file.
    pub path: PathBuf,
    /// The image's digest.
    pub sha256: Sha256,
    /// The format that QEMU is told.
    pub format: Format,
    /// The size of the disk in the image, in bytes.
    pub disk_bytes: u64,
}

/// A disk of a VM beside its root disk: a raw file of the disk's size, whose unwritten parts take no space, or an image, with an overlay
/// over it unless the disk is only read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskOf {
    /// The disk's name.
    pub name: DiskName,
    /// The file: in the VM's folder, or a volume's or an image's by its absolute path.
    pub path: PathBuf,
    /// The image that the disk is, or begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageOf>,
    /// The disk's size in bytes.
    pub bytes: u64,
    /// Whether the guest cannot write to the disk.
    pub read_only: bool,
}

impl DiskOf {
    /// Whether the disk is removed with the VM.
    pub fn is_own(&self) -> bool {
        [disk_file(&self.name), disk_overlay(&self.name)]
            .iter()
            .any(|file| self.path == Path::new(file))
    }

    /// The image below the disk, if the disk is an overlay.
    pub fn backing(&self) -> Option<&ImageOf> {
        self.image.as_ref().filter(|_| self.is_own())
    }

    /// How many files QEMU has open for the disk: for an overlay, the image's too.
    pub fn files(&self) -> usize {
        1 + usize::from(self.backing().is_some())
    }
}

impl Spec {
    /// The VM's volumes, each by its file.
    pub fn volumes(&self) -> impl Iterator<Item = &Path> {
        let volumes = self.disks.iter().filter(|disk| !disk.is_own() && disk.image.is_none());
        volumes.map(|disk| disk.path.as_path())
    }

    /// The images that the VM has open, that of the root disk first.
    pub fn images(&self) -> impl Iterator<Item = &ImageOf> {
        std::iter::once(&self.image).chain(self.disks.iter().filter_map(|disk| disk.image.as_ref()))
    }

    /// The ways into the guest.
    pub fn access(&self) -> Access {
        let Self { console, display, agent, .. } = *self;
        Access { console, display, agent }
    }

    /// The size of the root disk in bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes.unwrap_or(self.image.disk_bytes)
    }

    /// Reads the spec of a VM's folder.
    pub fn read(vm: &Path) -> Result<Self, VmError> {
        let path = vm.join(PLAN);
        let read = || {
            let spec: Self = serde_json::from_slice(&state::read(&path)?)?;
            // The id is checked, since it is part of paths that are removed.
            if spec.vm == name_of(vm) {
                Ok(spec)
            } else {
                Err(io::Error::other("it is another VM's, by the id in it"))
            }
        };
        read().map_err(io_error("read", &path))
    }

    /// Refuses a record by which QEMU would get files that are not of this state folder: its image, an overlay or variables
    /// that are kept, or a volume.
    pub fn keeps_to_state_of(&self, vm: &Path) -> Result<(), VmError> {
        let state = vm.ancestors().nth(2).unwrap_or(vm);
        let outside = |path: &Path| {
            io_error("use", path)(io::Error::other(format!(
                "{} of {} names it, and it is not where this state folder has such files",
                PLAN,
                vm.display()
            )))
        };
        let stored = state.join("images/sha256");
        if let Some(image) = self.images().find(|image| !is_below(&image.path, &stored)) {
            return Err(outside(&image.path));
        }
        // A disk that is only an image must have the image's file, read-only.
        let is_other = |disk: &&DiskOf| {
            let image = disk.image.as_ref().filter(|_| !disk.is_own());
            image.is_some_and(|image| image.path != disk.path || !disk.read_only)
        };
        if let Some(disk) = self.disks.iter().find(is_other) {
            return Err(outside(&disk.path));
        }
        let is_in = |file: &Path, name: &str, folder: &str| {
            file.file_name() == Some(name.as_ref()) && is_below(file, &state.join(folder))
        };
        let kept = self.overlay.as_deref().filter(|_| !self.has_own_overlay());
        let overlay = kept.filter(|overlay| !is_in(overlay, OVERLAY, "overlays"));
        let volume = self.volumes().find(|volume| !is_in(volume, state::VOLUME, state::VOLUMES));
        let kept = self.variables.as_deref().filter(|file| *file != Path::new(VARIABLES));
        let is_kept = |file: &Path| {
            SecureBoot::ALL.iter().any(|kind| is_in(file, &kept_variables(*kind), "overlays"))
        };
        let variables = kept.filter(|variables| !is_kept(variables));
        overlay.or(volume).or(variables).map_or(Ok(()), |file| Err(outside(file)))
    }

    /// Whether a process can be this VM's QEMU, by what a process cannot change: its process namespace and its user, both the cage's. A
    /// process that does not have that user yet runs the supervisor's program.
    pub fn can_be(&self, qemu: &Process) -> bool {
        let is_its_user = match self.cage.user {
            User::Own(uid) => {
                let step = spawn::supervisor_program();
                qemu.user() == Some(uid) || step.is_ok_and(|step| qemu.runs(&step))
            }
            // The kernel keeps users but root from the processes of other users.
            User::Namespace(_) | User::Caller => true,
        };
        is_its_user && (!self.cage.namespaces || qemu.is_namespaced())
    }

    /// Whether the overlay outlives the VM.
    pub fn keeps_overlay(&self) -> bool {
        self.overlay.is_some() && !self.has_own_overlay()
    }

    /// Whether the overlay is removed with the VM.
    pub fn has_own_overlay(&self) -> bool {
        self.overlay.as_deref() == Some(Path::new(OVERLAY))
    }
}

/// Whether a file is two levels below a folder, whose path may lead there by links.
fn is_below(file: &Path, folder: &Path) -> bool {
    let is_plain = file.components().all(|part| part != Component::ParentDir);
    let Some(above) = file.ancestors().nth(2).filter(|_| is_plain) else { return false };
    let real = |path: &Path| fs::canonicalize(path).ok();
    above == folder || real(above).is_some_and(|above| Some(above) == real(folder))
}
