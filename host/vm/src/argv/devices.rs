//! The devices that machines have of different kinds: `virt` has neither IDE nor the ports of a PC.

use qhost_model::launch::MachineKind;

use crate::limits;

/// What CDs are attached to, where that is not there anyway.
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

/// What a guest's kernel tells of its panic.
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
