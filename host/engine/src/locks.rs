//! The locks of a VM, held by open files. The VM's supervisor has the files open for as long as the VM is there, so that the kernel
//! releases the locks of a supervisor that was killed.

use std::{fs::File, path::Path};

use qhost_cage::{UIDS, User, UserRange};
use qhost_image::VerifiedImage;
use qhost_vm::{VmError, error::io_error};

use crate::{disks::HeldDisks, overlays::KeptOverlay, ports::Reserved};

/// The locks of a VM by open files, held from before its launch until it has ended.
#[derive(Debug)]
pub(crate) struct VmLocks {
    pub(crate) files: Vec<File>,
}

impl VmLocks {
    /// Takes the locks of the image, the ports, whose sockets are given up to QEMU, the overlay, if it is kept, and other disks' volumes
    /// and images.
    pub(crate) fn new(
        image: &VerifiedImage,
        ports: Reserved,
        overlay: Option<KeptOverlay>,
        disks: HeldDisks,
    ) -> Result<Self, VmError> {
        let mut files = ports.release();
        files.push(image.lease().map_err(io_error("hold", image.path()))?);
        files.extend(overlay.and_then(KeptOverlay::into_lock));
        files.extend(disks.into_locks());
        Ok(Self { files })
    }

    /// Reserves a user that no other VM has, if the cage gives QEMU a user of its own.
    pub(crate) fn user(&mut self, user: &mut User, range: UserRange) -> Result<(), VmError> {
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
