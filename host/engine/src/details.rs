//! The details that a VM's folder has besides its status: what was asked and decided, and what its disks take.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::{
    digest::Sha256,
    job::{Restart, Task},
    launch::DiskName,
    masks::Masks,
};
use qhost_policy::Decision;
use qhost_sys::spawn;
use qhost_vm::{DiskOf, Spec, VmRecord, records::read_record};

use crate::{engine::blocking, error::EngineError, run::DECISION, vm::Vm};

/// A VM with all that its folder tells. What an earlier version did not write is absent, and so is what was not reached.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmDetails {
    /// How it is doing.
    #[serde(flatten)]
    pub vm: VmRecord,
    /// What was asked, without what the configuration says is secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub asked: Option<Task>,
    /// Who decided what, when it was last decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub decision: Option<Decision>,
    /// When it is started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Its root disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskUse>,
    /// Its other disks, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DataDiskUse>,
    /// Whether its supervisor is the program that a VM would get now; absent where it has none, or that cannot be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisor_is_current: Option<bool>,
}

/// A root disk, and what the guest has written of it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DiskUse {
    /// Its size in bytes, as the guest sees it.
    pub bytes: u64,
    /// What its overlay takes of the host's disk, in bytes; absent where there is none, as of a CD, and of an ended VM whose overlay is
    /// not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// What it may take, in bytes.
    pub max_bytes: u64,
}

/// A data disk, and what its file takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DataDiskUse {
    /// Its name.
    #[schemars(with = "String")]
    pub name: DiskName,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it takes of the host's disk, in bytes; absent where it ended with its VM, its volume is removed, or it is only an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// The digest of the image that it begins with; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Sha256>,
    /// The path of the volume's file; absent for other disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_path: Option<PathBuf>,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
}

impl DataDiskUse {
    fn of(vm: &Path, disk: &DiskOf) -> Self {
        let DiskOf { name, path, image, bytes, read_only } = disk;
        Self {
            name: name.clone(),
            bytes: *bytes,
            used_bytes: (disk.is_own() || image.is_none()).then(|| used(&vm.join(path))).flatten(),
            volume_path: (!disk.is_own() && image.is_none()).then(|| path.clone()),
            image: image.as_ref().map(|image| image.sha256),
            read_only: *read_only,
        }
    }
}

/// The space that a file takes of the disk, in bytes.
fn used(path: &Path) -> Option<u64> {
    // Blocks are units of 512 bytes (st_blocks(3type)).
    Some(fs::symlink_metadata(path).ok()?.blocks().saturating_mul(512))
}

impl Vm {
    /// Reads the VM's details from its folder.
    ///
    /// # Errors
    /// Fails where this process cannot start another thread.
    pub async fn details(&self) -> Result<VmDetails, EngineError> {
        let (vm, masks) = (self.clone(), self.engine().generation().masks());
        Ok(blocking(move || Ok(VmDetails::of(vm.read(), &masks))).await?)
    }
}

impl VmDetails {
    fn of(vm: VmRecord, masks: &Masks) -> Self {
        let spec = Spec::read(&vm.folder).ok();
        let disk = spec.as_ref().map(|spec| DiskUse {
            bytes: spec.disk_bytes(),
            used_bytes: spec.overlay.as_ref().and_then(|overlay| used(&vm.folder.join(overlay))),
            max_bytes: spec.cage.rlimits.file_bytes,
        });
        let disks = spec.iter().flat_map(|spec| &spec.disks);
        let disks = disks.map(|disk| DataDiskUse::of(&vm.folder, disk)).collect();
        let supervisor = vm.status.supervisor.as_ref().filter(|_| vm.held);
        let program = spawn::supervisor_program().ok();
        let (asked, decision) = (vm.asked(), read_record(&vm.folder.join(DECISION)));
        let (asked, decision) = without_secrets(asked, decision, masks);
        Self {
            supervisor_is_current: supervisor
                .zip(program)
                .and_then(|(process, program)| process.is_of(&program)),
            asked,
            decision,
            restart: spec.map(|spec| spec.restart),
            disk,
            disks,
            vm,
        }
    }
}

/// Takes what the configuration calls secret out of a task, and out of what policies said of the task.
fn without_secrets(
    mut asked: Option<Task>,
    decision: Option<Decision>,
    masks: &Masks,
) -> (Option<Task>, Option<Decision>) {
    let secrets = asked.as_mut().map(|task| masks.mask(task)).unwrap_or_default();
    let decision = decision.map(|decision| qhost_policy::masked(&secrets, decision));
    (asked, decision)
}
