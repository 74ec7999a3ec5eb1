//! The kinds of WebAssembly that a policy can be.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of WebAssembly a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A component.
    #[serde(rename = "component")]
    Component,
    /// A core module, which becomes a component if it carries its world's type.
    #[serde(rename = "core module")]
    Module,
}

impl Kind {
    /// Tells the kinds apart by the layer in the header (component-model, "Binary").
    pub fn of(file: &[u8]) -> Result<Self, String> {
        match file.first_chunk::<8>() {
            Some(b"\0asm\x01\0\0\0") => Ok(Self::Module),
            Some(b"\0asm\x0d\0\x01\0") => Ok(Self::Component),
            Some(_) if file.starts_with(b"\0asm") => {
                Err("WebAssembly of an unknown version".into())
            }
            Some(_) | None => Err("not a WebAssembly file".into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Component => "component",
            Self::Module => "core module",
        })
    }
}
