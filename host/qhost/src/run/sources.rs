//! Reads what the command line and the configuration name: the job file, policies and their settings.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use qhost_engine::config::{Config, Configured, Settings};
use qhost_policy::{Allowance, Layer, Mode, PolicyError, Source};
use qhost_sys::trusted::{self, Found};

use super::RunError;
use crate::cli::{DecideArgs, NamedFile, NamedSettings};

/// The job file's name for errors, and its bytes; one more than allowed where there are too many.
pub(super) fn job(path: &Path) -> Result<(String, Vec<u8>), RunError> {
    let most = qhost_model::limits::JOB_FILE_BYTES + 1;
    let mut bytes = vec![];
    if path == Path::new("-") {
        let read = io::stdin().lock().take(most).read_to_end(&mut bytes);
        return match read {
            Ok(_) => Ok(("standard input".into(), bytes)),
            Err(source) => Err(RunError::JobFile { path: path.into(), source }),
        };
    }
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok((path.display().to_string(), bytes)),
        Err(source) => Err(RunError::JobFile { path: path.into(), source }),
    }
}

/// The policies to ask: those of the command line, the host's, the tenant's.
pub(super) fn policies(config: &Config, args: &DecideArgs) -> Result<Vec<Source>, RunError> {
    let mut sources = named(&args.policies, &args.settings)?;
    let chain = config.chain(&args.tenant).map_err(|error| RunError::Usage(error.to_string()))?;
    for configured in &chain {
        if sources.iter().any(|source| source.name == configured.name) {
            return Err(RunError::Usage(format!(
                "--policy {0}: the configuration has a policy of this name; give another: --policy NAME={0}.wasm",
                configured.name
            )));
        }
        sources.push(source(configured)?);
    }
    if sources.len() > qhost_policy::limits::POLICIES {
        Err(RunError::Usage(format!("more than {} policies", qhost_policy::limits::POLICIES)))
    } else {
        Ok(sources)
    }
}

/// A configured policy with its settings read.
pub(super) fn source(configured: &Configured) -> Result<Source, RunError> {
    let Configured { name, module, sha256, signers, settings, mode, allowance, layer } =
        configured.clone();
    relied_upon(&name, &module)?;
    let settings = match settings {
        Settings::Here(settings) => serde_json::Value::Object(settings).to_string(),
        Settings::File(path) => {
            let place = format!("policies.{name}.settings_file");
            object(&path.display().to_string(), &read(&place, &path)?)?
        }
    };
    Ok(Source { name, path: module, pin: Some(sha256), signers, settings, allowance, mode, layer })
}

/// Policies with their settings. Settings for a policy that is not there are an error: a misspelt name would leave a
/// policy without its settings.
pub(super) fn named(
    files: &[NamedFile],
    settings: &[NamedSettings],
) -> Result<Vec<Source>, RunError> {
    let mut sources: Vec<Source> = vec![];
    for NamedFile { name, path } in files {
        if sources.iter().any(|source| source.name == *name) {
            return Err(RunError::Usage(format!(
                "two policies are called {name}; give one another name: --policy NAME=FILE"
            )));
        }
        relied_upon(name, path)?;
        sources.push(Source {
            name: name.clone(),
            path: path.clone(),
            pin: None,
            signers: None,
            settings: "{}".into(),
            allowance: Allowance::default(),
            mode: Mode::Enforce,
            layer: Layer::Host,
        });
    }
    let mut given: Vec<&str> = vec![];
    for NamedSettings { name, value } in settings {
        if given.contains(&name.as_str()) {
            return Err(RunError::Usage(format!("--policy-settings for {name} twice")));
        }
        given.push(name);
        let names: Vec<_> = sources.iter().map(|source| source.name.clone()).collect();
        let Some(source) = sources.iter_mut().find(|source| source.name == *name) else {
            return Err(RunError::Usage(match names.as_slice() {
                [] => format!("--policy-settings for {name}, but no --policy"),
                names => format!(
                    "--policy-settings for {name}, but the policies are {}",
                    names.join(", ")
                ),
            }));
        };
        source.settings = given_settings(name, value)?;
    }
    Ok(sources)
}

/// Settings from the command line, written out or in a file.
pub(super) fn given_settings(name: &str, value: &str) -> Result<String, RunError> {
    let place = format!("--policy-settings {name}");
    if value.trim_start().starts_with('{') {
        object(&place, value)
    } else {
        object(value, &read(&place, Path::new(value))?)
    }
}

/// A policy that others can change decides as they like.
pub(super) fn relied_upon(name: &str, path: &Path) -> Result<(), PolicyError> {
    match trusted::look(path) {
        // What is not there is an error when it is loaded.
        Ok(Found::There | Found::Absent) => Ok(()),
        Err(source) => Err(PolicyError::Untrusted { name: name.into(), path: path.into(), source }),
    }
}

fn read(place: &str, path: &Path) -> Result<String, RunError> {
    if let Err(source) = trusted::look(path) {
        return Err(RunError::Untrusted { what: place.into(), source });
    }
    let mut text = String::new();
    let most = qhost_policy::limits::POLICY_SETTINGS_BYTES + 1;
    let read = File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(RunError::Usage(format!(
            "{place}: cannot read {}: {error}; expected a file or a JSON object",
            path.display()
        ))),
    }
}

fn object(place: &str, text: &str) -> Result<String, RunError> {
    qhost_policy::settings(text).map_err(|reason| RunError::Usage(format!("{place}: {reason}")))
}
