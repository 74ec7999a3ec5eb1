//! `qhost config`: checks the configuration with all the files that it names.

use std::error::Error;

use serde::Serialize;
use serde_json::json;

use qhost_engine::config::{Config, ConfigError, ConfigProblem, Configured};
use qhost_model::{digest::Sha256, printable};
use qhost_policy::{Loader, Mode};
use qhost_sys::trusted;

use super::{RunError, engine_under, loader_of, show};
use crate::{
    cli::{ConfigCommand, Shared},
    exit::Exit,
    outcome::ErrorReport,
};

/// The findings of a check.
#[derive(Serialize)]
struct ConfigCheck {
    /// The file; absent if there is none and the defaults hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    policies: Vec<PolicyCheck>,
    problems: Vec<ConfigProblem>,
}

#[derive(Serialize)]
struct PolicyCheck {
    name: String,
    version: String,
    sha256: Sha256,
    mode: Mode,
}

pub(super) fn config(shared: &Shared, command: &ConfigCommand) -> Exit {
    match command {
        ConfigCommand::Schema => {
            show::print(&format!("{:#}\n", Config::schema()));
            Exit::Done
        }
        ConfigCommand::Show => match shown(shared) {
            Ok(text) => {
                show::print(&text);
                Exit::Done
            }
            Err(error) => show::failure(shared, &error),
        },
        ConfigCommand::Check => match check(shared) {
            Ok(checked) => checked.show(shared),
            Err(error) => show::failure(shared, &error),
        },
    }
}

/// The whole configuration, with every key written out.
fn shown(shared: &Shared) -> Result<String, RunError> {
    let place = Config::place(shared.config.as_deref())?;
    let config = Config::load(shared.config.as_deref())?;
    let file = place.map(|path| path.display().to_string());
    if shared.json {
        return Ok(show::json(&json!({ "file": file, "config": config })));
    }
    let from = file.unwrap_or_else(|| "no file: the defaults".into());
    let text = toml::to_string_pretty(&config).map_err(|error| {
        RunError::Usage(format!("what is configured has no form in TOML: {error}"))
    })?;
    Ok(format!("# {from}\n{}", printable::lines(&text, usize::MAX)))
}

fn check(shared: &Shared) -> Result<ConfigCheck, RunError> {
    let mut checked = ConfigCheck { file: None, policies: vec![], problems: vec![] };
    let loaded = Config::place(shared.config.as_deref()).and_then(|place| {
        checked.file = place.as_ref().map(|path| path.display().to_string());
        Config::load(shared.config.as_deref())
    });
    let config = match loaded {
        Ok(config) => config,
        Err(ConfigError::Problems { problems, .. }) => {
            return Ok(ConfigCheck { problems, ..checked });
        }
        Err(ConfigError::Untrusted { path, source }) => {
            checked.problem(path.display().to_string(), &source);
            return Ok(checked);
        }
        Err(error) => return Err(error.into()),
    };
    for (place, path) in config.image.files() {
        if let Err(untrusted) = trusted::check(path) {
            checked.problem(place.into(), &untrusted);
        }
    }
    let engine = engine_under(shared, config.clone());
    let loader = match engine.and_then(|engine| loader_of(shared, &engine)) {
        Ok(loader) => loader,
        Err(RunError::State(error)) => {
            checked.problem("the state folder".into(), &error);
            return Ok(checked);
        }
        Err(error) => return Err(error),
    };
    for configured in config.policies() {
        match load(&loader, &configured) {
            Ok(policy) => checked.policies.push(policy),
            Err(error) => checked.problem(format!("policies.{}", configured.name), &error),
        }
    }
    for tenant in config.tenants() {
        let chain = config.chain(&tenant).unwrap_or_default();
        for policy in chain.iter().filter(|policy| !policy.tenants_settings.is_empty()) {
            if let Err(error) = load(&loader, policy) {
                checked.problem(format!("tenants.{tenant}.settings.{}", policy.name), &error);
            }
        }
    }
    Ok(checked)
}

fn load(loader: &Loader, configured: &Configured) -> Result<PolicyCheck, RunError> {
    let chain = loader.chain(vec![qhost_engine::sources::of_configuration(configured)?])?;
    let record = chain.records().into_iter().next();
    Ok(PolicyCheck {
        name: configured.name.clone(),
        version: record.map(|record| record.version).unwrap_or_default(),
        sha256: configured.sha256,
        mode: configured.mode,
    })
}

impl ConfigCheck {
    fn problem(&mut self, place: String, error: &dyn Error) {
        let ErrorReport { message, causes, .. } = ErrorReport::new(error, &[]);
        let message = [vec![message], causes].concat().join(": ");
        self.problems.push(ConfigProblem { place, message });
    }

    fn show(&self, shared: &Shared) -> Exit {
        let exit = if self.problems.is_empty() { Exit::Done } else { Exit::Usage };
        if shared.json {
            show::print(&show::json(self));
            return exit;
        }
        let file = self.file.as_deref().unwrap_or("no file: the defaults");
        let mut text = format!("config    {file}\n");
        for PolicyCheck { name, version, sha256, mode } in &self.policies {
            let mode = if *mode == Mode::Monitor { ", in monitor mode" } else { "" };
            text += &format!("policy    {name} {version} sha256:{sha256}{mode}\n");
        }
        for ConfigProblem { place, message } in &self.problems {
            text += &format!("problem   {place}: {}\n", printable::lines(message, usize::MAX));
        }
        text += &match self.problems.len() {
            0 => "ok\n".to_owned(),
            1 => "1 problem\n".into(),
            count => format!("{count} problems\n"),
        };
        show::print(&text);
        exit
    }
}
