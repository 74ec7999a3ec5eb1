//! A guest's firmware.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::named::named;

/// A firmware, and what it lets boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Firmware {
    /// The firmware.
    pub kind: FirmwareKind,
    /// What it lets boot; `off` of BIOS.
    #[serde(default)]
    pub secure_boot: SecureBoot,
}

/// A kind of firmware.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareKind {
    /// SeaBIOS.
    #[default]
    Bios,
    /// UEFI, of edk2.
    Uefi,
}
named!(FirmwareKind, Bios = "bios", Uefi = "uefi");

/// What UEFI lets boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBoot {
    /// Anything.
    #[default]
    Off,
    /// What is signed with a key that the guest enrols itself; until then anything.
    OwnKeys,
    /// What is signed with the vendors' keys that the firmware comes with.
    VendorKeys,
}
named!(SecureBoot, Off = "off", OwnKeys = "own-keys", VendorKeys = "vendor-keys");

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match self.secure_boot {
            SecureBoot::Off => Ok(()),
            SecureBoot::OwnKeys | SecureBoot::VendorKeys => {
                write!(f, " with secure boot by {}", self.secure_boot.name())
            }
        }
    }
}
