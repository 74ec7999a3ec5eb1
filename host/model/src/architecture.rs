//! The architecture of a guest.

use serde::{Deserialize, Serialize};

use crate::named::named;

/// The architecture of the processors that a guest's code is for, by QEMU's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Processors of Intel and AMD, 64 bits.
    #[default]
    X86_64,
    /// Processors of Arm, 64 bits.
    Aarch64,
}
named!(Architecture, X86_64 = "x86_64", Aarch64 = "aarch64");

impl Architecture {
    /// The QEMU program that emulates the architecture.
    pub fn emulator(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// The packages of Debian and Ubuntu that have this program and its firmware.
    pub fn packages(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Aarch64 => "qemu-system-arm qemu-efi-aarch64",
        }
    }
}
