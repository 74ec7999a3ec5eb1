//! Reads what the command line names: the job file, policies and their settings.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use qhost_engine::JobFile;
use qhost_policy::{Allowance, Layer, Mode, Source};

use super::RunError;
use crate::cli::{NamedFile, NamedSettings};

/// Reads the job file: its name for errors, and its bytes, one more than allowed if there are too many.
pub(super) fn job(path: &Path) -> Result<JobFile, RunError> {
    let most = qhost_model::limits::JOB_FILE_BYTES + 1;
    let mut bytes = vec![];
    if path == Path::new("-") {
        let read = io::stdin().lock().take(most).read_to_end(&mut bytes);
        return match read {
            Ok(_) => Ok(JobFile { name: "standard input".into(), bytes }),
            Err(source) => Err(RunError::JobFile { path: path.into(), source }),
        };
    }
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(JobFile { name: path.display().to_string(), bytes }),
        Err(source) => Err(RunError::JobFile { path: path.into(), source }),
    }
}

/// Joins policies with their settings. Settings for a policy that is not there are an error: a misspelt name would leave a policy without
/// its settings.
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
        sources.push(Source {
            name: name.clone(),
            path: path.clone(),
            pin: None,
            signers: None,
            settings: "{}".into(),
            allowance: Allowance::default(),
            mode: Mode::Enforce,
            layer: Layer::Host,
            unseen: vec![],
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

/// Reads settings from the command line, written out or in a file.
pub(super) fn given_settings(name: &str, value: &str) -> Result<String, RunError> {
    let place = format!("--policy-settings {name}");
    if value.trim_start().starts_with('{') {
        qhost_policy::settings(value)
            .map_err(|reason| RunError::Usage(format!("{place}: {reason}")))
    } else {
        Ok(qhost_engine::sources::settings_of_file(&place, Path::new(value))?)
    }
}
