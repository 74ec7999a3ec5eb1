//! `qhost.lock`, beside `qhost.toml`: the file that each policy's name stands for, and where it was pulled from. `qhost policy lock` and
//! `pull` write the lock file, which is kept with the configuration.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use qhost_model::digest::Sha256;
use qhost_sys::{
    state,
    trusted::{self, Presence},
};

use super::{ConfigError, policies::Named};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The locked files, by the policies' names.
    #[serde(default)]
    pub policies: Named<Locked>,
}

/// The file that a policy's name stands for.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// The SHA-256 of the policy's file.
    pub sha256: Sha256,
    /// Where the file was pulled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The digest of the file's manifest in that place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
}

const HEADER: &str = "# Written by qhost policy lock and pull. Keep it with the configuration.\n\n";

impl Lock {
    /// The lock file of a configuration.
    pub fn place(config: &Path) -> PathBuf {
        config.with_extension("lock")
    }

    /// Reads a lock file; an absent one locks nothing.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        match trusted::look(path) {
            Ok(Presence::Present) => {}
            Ok(Presence::Absent) => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Untrusted { path: path.into(), source }),
        }
        let unreadable = |source| ConfigError::Unreadable { path: path.into(), source };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        toml::from_str(&text)
            .map_err(|error| ConfigError::Invalid { path: path.into(), error: Box::new(error) })
    }

    /// Writes a lock file.
    pub fn write(&self, path: &Path) -> Result<(), ConfigError> {
        let unwritable = |source| ConfigError::Unwritable { path: path.into(), source };
        // This cannot fail, as a lock has only digests and text, which TOML can hold.
        let text = toml::to_string(self).map_err(|error| unwritable(io::Error::other(error)))?;
        state::write_shared(path, format!("{HEADER}{text}").as_bytes()).map_err(unwritable)
    }
}
