//! `qhost run` and `qhost plan`.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use ipnet::IpNet;

use qhost_engine::Until;
use qhost_model::{job::DEFAULT_TENANT, launch::Grace, limits::GRACE_MOST_S, name::is_name};

use super::candidates;
use crate::registry::Place;

/// What a decision is made from.
#[derive(Debug, Clone, Args)]
pub struct DecideArgs {
    /// A policy to ask before those of the configuration: a WebAssembly component or core module. May be given several
    /// times: `choose` in order, then every `validate`, then the host's own rules. NAME is the file's name without
    /// `.wasm` unless given
    #[arg(long = "policy", value_name = "[NAME=]FILE")]
    pub policies: Vec<NamedFile>,
    /// The settings of such a policy, a JSON object: written out, or in a file
    #[arg(long = "policy-settings", value_name = "NAME=FILE|JSON")]
    pub settings: Vec<NamedSettings>,
    /// Whose task it is: asks this tenant's own policies after the host's
    #[arg(long, default_value = DEFAULT_TENANT, value_parser = tenant, add = candidates::tenants())]
    pub tenant: String,
    /// Which task to run, where a Nomad job has several qemu tasks: TASK or GROUP/TASK
    #[arg(long)]
    pub task: Option<String>,
    #[command(flatten)]
    /// Where images may come from.
    pub networks: ImageNetworks,
    /// The job: qhost's own form, or Nomad's in JSON or HCL; - for standard input
    #[arg(value_name = "JOB")]
    pub job: PathBuf,
}

/// Where images may come from, for one command.
#[derive(Debug, Clone, Args)]
pub struct ImageNetworks {
    /// Networks that images may come from besides public ones, for this command: 127.0.0.0/8 [default: $QHOST_IMAGE_ALLOW]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub image_allow: Vec<IpNet>,
}

impl ImageNetworks {
    /// Takes the networks of `QHOST_IMAGE_ALLOW` if none are given.
    pub(super) fn take_environment(&mut self) -> Result<(), String> {
        const NAME: &str = "QHOST_IMAGE_ALLOW";
        let Some(text) = std::env::var_os(NAME).filter(|text| !text.is_empty()) else {
            return Ok(());
        };
        if !self.image_allow.is_empty() {
            return Ok(());
        }
        let networks = text.to_string_lossy();
        for network in networks.split(',') {
            let network = network.trim();
            let network = network.parse::<IpNet>().map_err(|error| {
                format!(
                    "{NAME}: {network:?}: {error}; expected networks as in 127.0.0.0/8,10.0.0.0/8"
                )
            })?;
            self.image_allow.push(network);
        }
        Ok(())
    }
}

/// `qhost run`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost run job.json
  qhost run job.nomad.hcl
  qhost run --policy ports.wasm --policy-settings 'ports={\"first\":20000,\"last\":20999}' job.json
  qhost run --policy mine=./target/wasm32-unknown-unknown/release/mine.wasm --json job.json

Ctrl-C presses the guest's power button, then, after the grace period, makes QEMU quit. Again hastens it.")]
pub struct RunArgs {
    #[command(flatten)]
    /// What a decision is made from.
    pub decide: DecideArgs,
    /// Seconds that a guest has to power off when it is stopped; unless given, a Nomad job's kill_timeout, else 30
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=i64::from(GRACE_MOST_S)))]
    grace: Option<u32>,
    /// Return when the guest runs, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// With --detach, return when the job's ready check holds
    #[arg(long, requires = "detach")]
    wait_ready: bool,
}

impl RunArgs {
    /// The state of the VM that the command waits for.
    pub fn until(&self) -> Until {
        match (self.detach, self.wait_ready) {
            (false, _) => Until::End,
            (true, false) => Until::Running,
            (true, true) => Until::Ready,
        }
    }

    /// The time that a guest has to power off.
    pub fn grace(&self) -> Option<Grace> {
        self.grace.map(|seconds| Grace { seconds })
    }
}

/// `qhost plan`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  qhost plan --policy limits.wasm --policy-settings limits=limits.json job.json")]
pub struct PlanArgs {
    #[command(flatten)]
    /// What a decision is made from.
    pub decide: DecideArgs,
}

/// A file, and the name that it goes by.
#[derive(Debug, Clone)]
pub struct NamedFile {
    /// The name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, path)) = text.split_once('=').filter(|(name, _)| is_name(name)) {
            refuse_remote(path)?;
            return Ok(Self { name: name.into(), path: path.into() });
        }
        refuse_remote(text)?;
        let path = PathBuf::from(text);
        // A folder such as `.` has no name in the path itself.
        let path = match path.file_name() {
            None => path.canonicalize().unwrap_or(path),
            Some(_) => path,
        };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().replace('_', "-");
        if is_name(&stem) {
            Ok(Self { name: stem, path })
        } else {
            Err(format!("{stem:?} cannot be a policy's name; write NAME=FILE"))
        }
    }
}

/// Refuses URLs and registry references: a decision must not depend on the network.
fn refuse_remote(text: &str) -> Result<(), String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Err("a URL, and a file is expected: download it, then name the file".into());
    }
    let place = text.split_once("://").map_or(text, |(_, place)| place);
    let is_reference = place != text
        || !Path::new(text).exists()
            && (text.contains('@')
                || text.rsplit('/').next().is_some_and(|last| last.contains(':')))
            && text.parse::<Place>().is_ok();
    if is_reference {
        Err(format!(
            "a registry reference, and a file is expected: run qhost policy pull {place}, then name its file"
        ))
    } else {
        Ok(())
    }
}

/// A policy's name, and its settings or a file that has them.
#[derive(Debug, Clone)]
pub struct NamedSettings {
    /// The policy's name.
    pub name: String,
    /// JSON, or a file's path.
    pub value: String,
}

impl FromStr for NamedSettings {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=').filter(|(name, _)| is_name(name)) {
            Some((name, value)) => Ok(Self { name: name.into(), value: value.into() }),
            None => Err("expected NAME=FILE or NAME=JSON, NAME being the policy's"),
        }
    }
}

pub(super) fn tenant(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.into())
    } else {
        Err("expected 1 to 64 letters, digits, -, _ and .".into())
    }
}
