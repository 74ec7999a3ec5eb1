//! What a VM is launched from.

use std::path::{Path, PathBuf};

use qhost_cage::Cage;
use qhost_image::VerifiedImage;
use qhost_model::{format::Format, job::Task, launch::Forward};
use qhost_policy::{Approved, Decision};
use qhost_vm::{ImageOf, Spec, argv};

/// Everything that is needed to start QEMU. Made only by [`plan`], from an approved task and a verified image.
#[derive(Debug)]
pub struct LaunchPlan {
    vm: String,
    program: PathBuf,
    argv: Vec<String>,
    forwards: Vec<Forward>,
    image: VerifiedImage,
    overlay: PathBuf,
    approved: Approved,
}

/// Plans a launch.
pub fn plan(
    vm: &str,
    program: PathBuf,
    approved: Approved,
    image: VerifiedImage,
    forwards: Vec<Forward>,
    overlay: PathBuf,
) -> LaunchPlan {
    let argv = argv(vm, approved.launch(), &approved.task().args, image.format(), &forwards);
    LaunchPlan { vm: vm.to_owned(), program, argv, forwards, image, overlay, approved }
}

impl LaunchPlan {
    /// The image.
    pub fn image(&self) -> &VerifiedImage {
        &self.image
    }

    /// What was asked.
    pub fn task(&self) -> &Task {
        self.approved.task()
    }

    /// How it was decided.
    pub fn decision(&self) -> &Decision {
        self.approved.decision()
    }

    /// The overlay that takes the guest's writes, [`qhost_vm::OVERLAY`] in the VM's folder or elsewhere by an absolute path; none for a
    /// CD, which takes no writes.
    pub fn overlay(&self) -> Option<&Path> {
        (self.image.format() != Format::Iso).then_some(&self.overlay)
    }

    /// What a supervisor is to know of it, with what the operator has settled.
    pub fn spec(&self, grace_s: u64, overlay_bytes: u64, cage: Cage) -> Spec {
        let (task, image) = (self.task(), self.image());
        Spec {
            vm: self.vm.clone(),
            task: task.name.clone(),
            tenant: task.tenant.clone(),
            resources: self.decision().launch.resources,
            forwards: self.forwards.clone(),
            image: ImageOf {
                path: image.path().to_owned(),
                sha256: image.sha256(),
                format: image.format(),
                disk_bytes: image.disk_bytes(),
            },
            overlay: self.overlay().map(Path::to_owned),
            overlay_bytes,
            grace_s,
            restart: task.restart,
            ready: task.ready.clone(),
            cage,
            program: self.program.clone(),
            argv: self.argv.clone(),
        }
    }
}
