//! Devices that differ between machines: `virt` has neither IDE nor the I/O ports of a PC.

use qhost_model::launch::MachineKind;

use crate::limits;

/// The controller that CDs are attached to, for a machine that has none by itself.
pub(super) fn cd_controller(machine: MachineKind) -> Option<&'static str> {
    match machine {
        MachineKind::Pc | MachineKind::Q35 => None,
        MachineKind::Virt => Some("virtio-scsi-pci,id=scsi"),
    }
}

/// A CD of a block node, with further properties.
pub(super) fn cd(machine: MachineKind, node: &str, properties: &str) -> String {
    let device = match machine {
        MachineKind::Pc | MachineKind::Q35 => "ide-cd",
        MachineKind::Virt => "scsi-cd,bus=scsi.0",
    };
    format!("{device},drive={node},{properties}")
}

/// The device by which a guest's kernel reports that it panicked.
pub(super) fn panic(machine: MachineKind) -> &'static str {
    match machine {
        MachineKind::Pc | MachineKind::Q35 => "pvpanic",
        MachineKind::Virt => "pvpanic-pci",
    }
}

/// A display.
pub(super) fn display(machine: MachineKind) -> String {
    match machine {
        MachineKind::Pc | MachineKind::Q35 => format!("VGA,vgamem_mb={}", limits::DISPLAY_MIB),
        MachineKind::Virt => {
            format!("virtio-gpu-pci,max_hostmem={}M", limits::DISPLAY_PICTURES_MIB)
        }
    }
}
