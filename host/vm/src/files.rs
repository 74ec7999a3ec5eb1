//! The sockets of a VM's folder, and the files that QEMU has, by their names.

use qhost_model::launch::{DiskName, SecureBoot};

/// The socket of the VM's supervisor, in the VM's folder.
pub const CONTROL_SOCKET: &str = "control.sock";
/// QEMU's control socket, in the VM's folder.
pub const QMP_SOCKET: &str = "qmp.sock";
/// The socket of the guest's serial console, in the VM's folder.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// The socket of the channel of the guest's agent, in the VM's folder.
pub const AGENT_SOCKET: &str = "agent.sock";
/// The mark that a supervisor has frozen the guest's file systems, in the VM's folder.
pub const FROZEN: &str = "frozen";
/// The overlay, in the VM's folder unless the overlay outlives the VM.
pub const OVERLAY: &str = "overlay.qcow2";

/// The guest's seed, in the VM's folder.
pub const SEED: &str = "seed.iso";

/// Ignition's config, in the VM's folder.
pub const IGNITION: &str = "ignition.json";

/// The code of a guest's UEFI, in the VM's folder.
pub const FIRMWARE: &str = "firmware.fd";
/// The variables of a guest's UEFI, in the VM's folder unless the variables outlive the VM.
pub const VARIABLES: &str = "variables.fd";

/// The file of variables that outlive their VM, beside the VM's overlay. Each kind of secure boot has its own file, since variables that a
/// guest wrote without secure boot would say what may boot with it.
pub fn kept_variables(secure_boot: SecureBoot) -> String {
    format!("variables-{}.fd", secure_boot.name())
}

/// The file of a disk that ends with its VM, in the VM's folder.
pub fn disk_file(name: &DiskName) -> String {
    format!("{DISK_PREFIX}{name}{DISK_SUFFIX}")
}

/// The overlay of a disk that begins with an image and ends with its VM, in the VM's folder.
pub fn disk_overlay(name: &DiskName) -> String {
    format!("{DISK_PREFIX}{name}{OVERLAY_SUFFIX}")
}

/// Whether a file of a VM's folder is that of a disk which ends with the VM.
pub(super) fn is_disk_file(name: &str) -> bool {
    let is_disk = name.ends_with(DISK_SUFFIX) || name.ends_with(OVERLAY_SUFFIX);
    name.starts_with(DISK_PREFIX) && is_disk && !name.contains('/')
}

const DISK_PREFIX: &str = "disk-";
const DISK_SUFFIX: &str = ".raw";
const OVERLAY_SUFFIX: &str = ".qcow2";
