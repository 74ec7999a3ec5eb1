//! What makes a file a policy: the kinds of WebAssembly, and the interfaces of the contract.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The one interface that a policy may import functions from.
pub(super) const LOG: &str = "qhost:policy/log@0.1.0";
/// What a policy that is granted WASI may import.
pub(super) const WITH_WASI: &str =
    "qhost:policy/log@0.1.0 and, of WASI 0.2, cli, clocks, filesystem, io, random and sockets";
/// The interface that makes a component a policy.
pub(super) const DECIDE: &str = "qhost:policy/decide@0.1.0";

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
    /// Tells them apart by the layer in the header (component-model, "Binary").
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

/// Whether an interface's name is one of those known, in any patch of the same minor version: within one, the contract
/// only gains functions.
pub(super) fn is_one_of(name: &str, known: &[&str]) -> bool {
    let track = |name: &str| name.rsplit_once('.').map(|(track, _)| track.to_owned());
    known
        .iter()
        .any(|known| *known == name || (track(known).is_some() && track(known) == track(name)))
}
