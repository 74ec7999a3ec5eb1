//! The launch: what a VM is run from is written down, and a supervisor is started with all that is held for it.

use std::{fs::File, path::Path};

use qhost_cage::{UIDS, User, UserRange};
use qhost_image::VerifiedImage;
use qhost_policy::Decision;
use qhost_sys::failpoint;
use qhost_vm::{Attached, Begin, Spec, VmDir, VmError, argv::OVERLAY, error::io_error};

use crate::{overlays::KeptOverlay, ports::Reserved};

/// What is held for a VM by open files, from before its launch until it has ended.
#[derive(Debug)]
pub struct VmLocks {
    files: Vec<File>,
}

impl VmLocks {
    /// The image, the ports, which QEMU takes from here on, and the overlay, if that is kept.
    pub fn new(
        image: &VerifiedImage,
        ports: Reserved,
        kept: Option<KeptOverlay>,
    ) -> Result<Self, VmError> {
        let mut files = ports.release();
        files.push(image.lease().map_err(io_error("hold", image.path()))?);
        files.extend(kept.and_then(KeptOverlay::into_lock));
        Ok(Self { files })
    }

    /// A user that no other VM is, where that is how QEMU is kept.
    pub fn user(&mut self, user: &mut User, range: UserRange) -> Result<(), VmError> {
        let User::Own(uid) = user else { return Ok(()) };
        let reserved =
            UIDS.reserve(range).map_err(io_error("reserve a user in", Path::new(UIDS.0)))?;
        let Some((free, lock)) = reserved else {
            let message = format!("every user of cage.users, {range}, is a VM's");
            return Err(VmError::Cage { message });
        };
        *uid = free;
        self.files.push(lock);
        Ok(())
    }
}

/// Starts a VM that has ended once more: the same of a folder that was taken again.
pub fn launch_again(
    mut dir: VmDir,
    spec: &Spec,
    why: &str,
    held: VmLocks,
) -> Result<Attached, VmError> {
    dir.start_again(why)?;
    match start(&mut dir, spec, held) {
        Ok(attached) => Ok(attached),
        Err(error) => {
            dir.did_not_start(&error);
            Err(error)
        }
    }
}

/// Starts a VM's supervisor. Until that has begun, dropping the folder removes it.
pub fn launch(
    mut dir: VmDir,
    spec: &Spec,
    decision: &Decision,
    held: VmLocks,
) -> Result<Attached, VmError> {
    dir.write("decision.json", decision)?;
    start(&mut dir, spec, held)
}

fn start(dir: &mut VmDir, spec: &Spec, held: VmLocks) -> Result<Attached, VmError> {
    if spec.has_own_overlay() {
        let path = dir.path().join(OVERLAY);
        qhost_image::create_overlay(&path, spec.image.disk_bytes)
            .map_err(io_error("create", &path))?;
    }
    dir.write_spec(spec)?;
    failpoint::reach("launch.written");
    let mut files = held.files;
    files.push(dir.share_lock()?);
    let attached = Attached::start(dir.path(), Begin::Launch, files)?;
    dir.hand_over();
    failpoint::reach("launch.supervisor");
    Ok(attached)
}
