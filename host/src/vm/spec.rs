//! What a VM is run from, whoever looks after it: written down once before the launch, in its folder, `plan.json`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{VmError, dir::folder};
use crate::{
    cage::Cage,
    digest::Sha256,
    image::Format,
    job::{Ready, Resources, Restart},
    qemu::{Forward, LaunchPlan, OVERLAY},
};

pub(super) const PLAN: &str = "plan.json";

/// All that a supervisor needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The VM's id.
    pub vm: String,
    /// The task's name.
    pub task: String,
    /// Whose it is.
    pub tenant: String,
    /// CPUs and memory.
    pub resources: Resources,
    /// The forwarded ports.
    pub forwards: Vec<Forward>,
    /// The stored image.
    pub image: ImageOf,
    /// The overlay that takes the guest's writes: in the VM's folder, or a kept one by its absolute path. None for a CD.
    pub overlay: Option<PathBuf>,
    /// What the guest may write there, in bytes.
    pub overlay_bytes: u64,
    /// Seconds that a guest has to power off, unless whoever stops it says otherwise.
    pub grace_s: u64,
    /// When it is started again.
    pub restart: Restart,
    /// How it is known that its guest is ready.
    pub ready: Option<Ready>,
    /// What QEMU is kept in.
    pub cage: Cage,
    /// The emulator.
    pub program: PathBuf,
    /// Its arguments.
    pub argv: Vec<String>,
}

/// The image of a VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageOf {
    /// The stored file.
    pub path: PathBuf,
    /// Its digest.
    pub sha256: Sha256,
    /// What QEMU is told it is.
    pub format: Format,
    /// The size of the disk that a guest sees, in bytes.
    pub disk_bytes: u64,
}

impl Spec {
    /// Of a plan, with what the operator has settled.
    pub fn new(plan: &LaunchPlan, grace_s: u64, overlay_bytes: u64, cage: Cage) -> Self {
        let (task, image) = (plan.task(), plan.image());
        Self {
            vm: plan.vm().to_owned(),
            task: task.name.clone(),
            tenant: task.tenant.clone(),
            resources: plan.decision().launch.resources,
            forwards: plan.forwards().to_vec(),
            image: ImageOf {
                path: image.path().to_owned(),
                sha256: image.sha256(),
                format: image.format(),
                disk_bytes: image.disk_bytes(),
            },
            overlay: plan.overlay().map(Path::to_owned),
            overlay_bytes,
            grace_s,
            restart: task.restart,
            ready: task.ready.clone(),
            cage,
            program: plan.program().to_owned(),
            argv: plan.argv().to_vec(),
        }
    }

    /// The one of a VM's folder.
    pub fn read(vm: &Path) -> Result<Self, VmError> {
        let path = vm.join(PLAN);
        let read = || serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::from);
        read().map_err(folder("read", &path))
    }

    /// Whether the overlay goes with the VM.
    pub fn has_own_overlay(&self) -> bool {
        self.overlay.as_deref() == Some(Path::new(OVERLAY))
    }
}
