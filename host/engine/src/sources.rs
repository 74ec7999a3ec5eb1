//! Policies as the configuration names them, with their settings read, and whether their files can be relied upon.

use std::{fs::File, io::Read as _, path::Path};

use serde_json::{Map, Value};

use qhost_policy::{PolicyError, Source};
use qhost_sys::trusted::{self, Presence};

use crate::{
    config::{Configured, Settings},
    error::{EngineError, Failure},
};

/// Reads a configured policy's settings, and checks that its file can be relied upon.
pub(crate) fn configured(configured: &Configured) -> Result<Source, Failure> {
    let Configured { name, module, sha256, signers, mode, allowance, layer, unseen, .. } =
        configured.clone();
    relied_upon(&name, &module)?;
    let settings = settings(configured)?;
    Ok(Source {
        pin: Some(sha256),
        signers,
        settings,
        allowance,
        mode,
        layer,
        unseen,
        ..Source::new(name, module)
    })
}

/// A policy's settings, in which a tenant's keys replace the host's of the same names.
fn settings(configured: &Configured) -> Result<String, Failure> {
    let Configured { name, settings, tenants_settings, .. } = configured;
    let text = match settings {
        Settings::Here(settings) => Value::Object(settings.clone()).to_string(),
        Settings::File(path) => read(&format!("policies.{name}.settings_file"), path)?,
    };
    if tenants_settings.is_empty() {
        return Ok(text);
    }
    // The text is a JSON object, as `read` has checked.
    let mut all: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    all.extend(tenants_settings.clone());
    Ok(Value::Object(all).to_string())
}

/// Reads a configured policy's settings, and checks that its file can be relied upon.
///
/// # Errors
/// Fails where the policy's file, or that of its settings, cannot be read or relied upon.
pub fn of_configuration(policy: &Configured) -> Result<Source, EngineError> {
    Ok(configured(policy)?)
}

/// Checks that a policy's file can be relied upon: a policy that other users can change decides as they like.
///
/// # Errors
/// Fails where users other than this one and root can change the file, or put another in its place.
pub fn relied_upon(name: &str, path: &Path) -> Result<(), PolicyError> {
    match trusted::look(path) {
        // A file that is missing is an error when it is loaded.
        Ok(Presence::Present | Presence::Absent) => Ok(()),
        Err(source) => Err(PolicyError::Untrusted { name: name.into(), path: path.into(), source }),
    }
}

/// Reads the settings in a file, which a key or an option called `place` names.
///
/// # Errors
/// Fails where the file cannot be read or relied upon, or has no JSON object.
pub fn settings_of_file(place: &str, path: &Path) -> Result<String, EngineError> {
    Ok(read(place, path)?)
}

fn read(place: &str, path: &Path) -> Result<String, Failure> {
    if let Err(source) = trusted::look(path) {
        return Err(Failure::Untrusted { what: place.into(), source });
    }
    let mut text = String::new();
    let most = qhost_policy::limits::POLICY_SETTINGS_BYTES + 1;
    let read = File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    if let Err(error) = read {
        return Err(Failure::Usage(format!(
            "{place}: cannot read {}: {error}; expected a file or a JSON object",
            path.display()
        )));
    }
    qhost_policy::settings(&text)
        .map_err(|reason| Failure::Usage(format!("{}: {reason}", path.display())))
}
