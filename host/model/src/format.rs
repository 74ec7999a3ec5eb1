//! Formats of images.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What QEMU is told an image is. It never finds out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// QEMU's copy-on-write format, version 2 or 3, that stands by itself.
    Qcow2,
    /// A plain disk.
    Raw,
    /// A CD or DVD.
    Iso,
}

impl Format {
    /// The format's name in QEMU's options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Iso => "iso",
        }
    }

    /// Guesses the format from a file's name, to show a plan of an image that is not stored yet. No launch uses a
    /// guess.
    pub fn guess(name: &str) -> Self {
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("qcow2" | "qcow") => Self::Qcow2,
            Some("iso") => Self::Iso,
            Some("gz" | "xz" | "zst") => {
                Self::guess(name.rsplit_once('.').map_or("", |(name, _)| name))
            }
            Some(_) | None => Self::Raw,
        }
    }
}
