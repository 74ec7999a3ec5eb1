//! Reads what the command line names: the job file, policies and their settings.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::RunError;
use crate::{
    cli::{NamedFile, NamedSettings},
    limits,
    policy::Source,
};

/// The job file's name for errors, and its bytes; one more than allowed where there are too many.
pub(super) fn job(path: &Path) -> Result<(String, Vec<u8>), RunError> {
    let most = limits::JOB_FILE_BYTES + 1;
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

/// Policies with their settings. Settings for a policy that is not there are an error: a misspelt name would leave a
/// policy without its settings.
pub(super) fn policies(
    files: &[NamedFile],
    settings: &[NamedSettings],
) -> Result<Vec<Source>, RunError> {
    if files.len() > limits::POLICIES {
        return Err(RunError::Usage(format!("more than {} policies", limits::POLICIES)));
    }
    let mut sources: Vec<Source> = vec![];
    for NamedFile { name, path } in files {
        if sources.iter().any(|source| source.name == *name) {
            return Err(RunError::Usage(format!(
                "two policies are called {name}; give one another name: --policy NAME=FILE"
            )));
        }
        sources.push(Source { name: name.clone(), path: path.clone(), settings: "{}".into() });
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
        source.settings = object(name, value)?;
    }
    Ok(sources)
}

/// Settings as the policy gets them: the text of one JSON object.
fn object(name: &str, value: &str) -> Result<String, RunError> {
    let inline = value.trim_start().starts_with('{');
    let (place, text) = if inline {
        (format!("--policy-settings {name}"), value.to_owned())
    } else {
        let mut text = String::new();
        let read = File::open(value).and_then(|file| {
            file.take(limits::POLICY_SETTINGS_BYTES + 1).read_to_string(&mut text)
        });
        read.map_err(|error| {
            RunError::Usage(format!("--policy-settings {name}: cannot read {value}: {error}; expected a file or a JSON object"))
        })?;
        (value.to_owned(), text)
    };
    if text.len() as u64 > limits::POLICY_SETTINGS_BYTES {
        return Err(RunError::Usage(format!(
            "{place}: more than {} bytes",
            limits::POLICY_SETTINGS_BYTES
        )));
    }
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(settings) if settings.is_object() => Ok(settings.to_string()),
        Ok(_) => Err(RunError::Usage(format!("{place}: expected a JSON object"))),
        Err(error) => Err(RunError::Usage(format!("{place}: not JSON: {error}"))),
    }
}
