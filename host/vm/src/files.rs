//! The files of a VM's folder that QEMU has, by their names.

use qhost_model::launch::{DiskName, SecureBoot};

/// QEMU's control socket, in the VM's folder.
pub const QMP_SOCKET: &str = "qmp.sock";
/// The guest's serial console, in the same place.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// The channel of the guest's agent, in the same place.
pub const AGENT_SOCKET: &str = "agent.sock";
/// Whether a supervisor has frozen the guest's file systems, in the same place.
pub const FROZEN: &str = "frozen";
/// The overlay, in the same place, unless it outlives its VM.
pub const OVERLAY: &str = "overlay.qcow2";

/// The guest's seed, in the same place.
pub const SEED: &str = "seed.iso";

/// Ignition's config, in the same place.
pub const IGNITION: &str = "ignition.json";

/// The code of a guest's UEFI, in the same place.
pub const FIRMWARE: &str = "firmware.fd";
/// The variables of a guest's UEFI, in the same place, unless they outlive their VM.
pub const VARIABLES: &str = "variables.fd";

/// The file of those that outlive their VM, beside its overlay: a file for each kind of secure boot, since what a guest wrote to one
/// without it says what another would let boot.
pub fn kept_variables(secure_boot: SecureBoot) -> String {
    format!("variables-{}.fd", secure_boot.name())
}

/// The file of a disk that ends with its VM, in the same place.
pub fn disk_file(name: &DiskName) -> String {
    format!("{DISK_PREFIX}{name}{DISK_SUFFIX}")
}

/// The file of what a guest writes over the image of such a disk, in the same place.
pub fn disk_overlay(name: &DiskName) -> String {
    format!("{DISK_PREFIX}{name}{OVERLAY_SUFFIX}")
}

/// Whether a file of that folder is such a disk's.
pub(super) fn is_disk_file(name: &str) -> bool {
    let is_disk = name.ends_with(DISK_SUFFIX) || name.ends_with(OVERLAY_SUFFIX);
    name.starts_with(DISK_PREFIX) && is_disk && !name.contains('/')
}

const DISK_PREFIX: &str = "disk-";
const DISK_SUFFIX: &str = ".raw";
const OVERLAY_SUFFIX: &str = ".qcow2";
