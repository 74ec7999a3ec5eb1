//! The firmware of a guest.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::named::named;

/// A firmware, and what it boots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Firmware {
    /// The kind of firmware.
    pub kind: FirmwareKind,
    /// What UEFI boots; `off` for BIOS.
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
    /// UEFI, as edk2 builds it.
    Uefi,
}
named!(FirmwareKind, Bios = "bios", Uefi = "uefi");

/// What UEFI boots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBoot {
    /// UEFI boots anything.
    #[default]
    Off,
    /// UEFI boots what is signed with a key that the guest enrols itself, and anything until then.
    OwnKeys,
    /// UEFI boots what is signed with the vendors' keys that the firmware comes with.
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
