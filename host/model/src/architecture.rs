//! A guest's architecture.

use serde::{Deserialize, Serialize};

use crate::named::named;

/// The processors that a guest's code is for, as QEMU names them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Of Intel and AMD, 64 bits.
    #[default]
    X86_64,
    /// Of Arm, 64 bits.
    Aarch64,
}
named!(Architecture, X86_64 = "x86_64", Aarch64 = "aarch64");

impl Architecture {
    /// QEMU's program that emulates it.
    pub fn emulator(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// What has that program and its firmware on Debian and Ubuntu.
    pub fn packages(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Aarch64 => "qemu-system-arm qemu-efi-aarch64",
        }
    }
}
