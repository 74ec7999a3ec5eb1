//! `qhost.toml`: what the operator allows on this host. Each key has a default that allows little. An absent file is no error, and an
//! unknown key is one.

mod api;
mod guests;
mod lock;
mod network;
mod policies;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::{launch::Rules, printable, retention::Retention};
use qhost_policy::CompileLimits;
use qhost_sys::trusted::{self, Presence, Untrusted};

use crate::{limits, order::Order};

pub use api::{KnownClient, TlsFiles};
pub use lock::{Lock, Locked};
pub use policies::{Configured, Settings, UnknownTenant};

use policies::Named;

/// The whole file.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The policies that chains may name.
    policies: Named<policies::Policy>,
    /// What is asked about every task.
    host: policies::ChainConfig,
    /// What is asked about a tenant's tasks after that; it can only tighten. Where there is any, `--tenant` must name
    /// one.
    tenants: Named<policies::ChainConfig>,
    /// Tables that policies look things up in.
    data: Named<guests::Data>,
    ports: network::Ports,
    network: network::Network,
    /// Who asks the API of the host as a service.
    api: api::Api,
    qemu: Qemu,
    machine: guests::Machine,
    seed: guests::Seed,
    /// How images are fetched and what they may be.
    pub image: qhost_image::Settings,
    /// What guests may write.
    pub overlay: Overlay,
    /// What QEMU is kept in.
    pub cage: qhost_cage::Settings,
    /// What is kept of VMs that have ended.
    pub retention: Retention,
    /// How decisions are recorded.
    pub decisions: Decisions,
    /// What compiling a policy may take.
    pub compile: Compile,
    /// The configuration's folder, where relative paths start.
    #[serde(skip)]
    folder: PathBuf,
    /// The configuration's file.
    #[serde(skip)]
    file: Option<PathBuf>,
    /// What is locked beside it.
    #[serde(skip)]
    lock: Lock,
}

/// `[qemu]`
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Qemu {
    /// Extra arguments that tasks may ask for, each a whole group: `[["-cpu", "host"]]`.
    args: Vec<Vec<String>>,
}

/// `[compile]`
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compile {
    /// Seconds for one policy.
    timeout_s: u64,
    /// The compiler's address space in MiB.
    memory_mib: u64,
}

impl Default for Compile {
    fn default() -> Self {
        Self {
            timeout_s: qhost_policy::limits::COMPILE.as_secs(),
            memory_mib: qhost_policy::limits::COMPILE_MEMORY_BYTES >> 20,
        }
    }
}

impl Compile {
    /// The limits as the compiler gets them.
    pub fn limits(&self) -> CompileLimits {
        let memory = self.memory_mib.saturating_mul(1 << 20);
        CompileLimits { time: Duration::from_secs(self.timeout_s), memory }
    }
}

/// `[decisions]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Decisions {
    /// Keys of `meta` whose values are secrets, as patterns: `*token*`. A secret's value is masked wherever it stands.
    pub mask_meta: Vec<String>,
    /// QEMU arguments that are secrets, as patterns: `*password=*`.
    pub mask_args: Vec<String>,
    /// The size of a tenant's log in bytes from which on a new file is begun.
    pub max_bytes: u64,
    /// How many full files of a tenant are kept.
    pub files: usize,
    /// Days for which a file is kept after its last decision.
    pub max_days: u64,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            mask_meta: vec![],
            mask_args: vec![],
            max_bytes: limits::DECISION_LOG_BYTES,
            files: limits::DECISION_LOG_FILES,
            max_days: limits::DECISION_LOG_DAYS,
        }
    }
}

impl Decisions {
    /// The longest time that a decision is kept.
    pub(crate) fn max_age(&self) -> Duration {
        Duration::from_secs(self.max_days.saturating_mul(24 * 60 * 60))
    }

    fn check(&self, problems: &mut Vec<ConfigProblem>) {
        if self.max_days == 0 {
            let message = "0; expected 1 or more, else no decision is kept".into();
            problems.push(ConfigProblem { place: "decisions.max_days".into(), message });
        }
    }
}

/// `[overlay]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Overlay {
    /// What a guest may write to its root disk in bytes, its bookkeeping included; or the size of its largest writable data disk, where that
    /// is more. Beyond it the guest's writes fail. A VM's ephemeral data disks may have `max_bytes` together.
    pub max_bytes: u64,
    /// Whether tasks may keep what their guests write for their next run.
    pub persist: bool,
}

impl Default for Overlay {
    fn default() -> Self {
        Self { max_bytes: qhost_model::limits::OVERLAY_BYTES, persist: false }
    }
}

/// The reason why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was asked for by name, or that is in a default place, cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file can be changed by other users, or cannot be looked for.
    #[error("the configuration {} cannot be relied upon", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Untrusted,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file's text is not a configuration.
    #[error("{}: {error}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and why, in several lines.
        error: Box<toml::de::Error>,
    },
    /// The file's text is a configuration whose parts do not go together.
    #[error("{}: {}", path.display(), listed(problems))]
    Problems {
        /// The file.
        path: PathBuf,
        /// All problems that were found.
        problems: Vec<ConfigProblem>,
    },
}

/// A problem of a configuration.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigProblem {
    /// The key, as a path: `policies.limits.module`.
    pub place: String,
    /// What was found there, and what was expected.
    pub message: String,
}

fn listed(problems: &[ConfigProblem]) -> String {
    let place = |one: &ConfigProblem| {
        printable::line(&one.place, qhost_model::limits::SHOWN_CHARS).to_string()
    };
    let lines = problems.iter().map(|one| format!("{}: {}", place(one), one.message));
    match problems.len() {
        1 => lines.collect(),
        count => lines.fold(format!("{count} problems"), |text, line| text + "\n  " + &line),
    }
}

impl Config {
    /// Reads the file that was named, or the first of the default places that has one, or takes the defaults.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        match Self::place(named)? {
            Some(path) => Self::read(&path, Pins::Needed),
            None => Ok(Self::default()),
        }
    }

    /// Reads a file whose policies need no digests yet, to find the digests out.
    pub fn load_to_lock(path: &Path) -> Result<Self, ConfigError> {
        Self::read(path, Pins::ToBeMade)
    }

    /// The files that the configuration was read from, or would be read from if they existed, and those that it names. If one of them
    /// changes, the configuration is to be read again.
    pub fn files(&self) -> Vec<PathBuf> {
        let own = match &self.file {
            Some(file) => vec![file.clone(), Lock::place(file)],
            None => default_places(),
        };
        let named = self.policy_files().map(|(_, path)| path).chain(self.tables().into_values());
        own.into_iter().chain(named).collect()
    }

    /// The lock file's content.
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    fn read(path: &Path, pins: Pins) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.into(), source };
        // A file that was named and is absent is an error when it is opened.
        trusted::look(path)
            .map_err(|source| ConfigError::Untrusted { path: path.into(), source })?;
        let mut text = String::new();
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(limits::CONFIG_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        // Text beyond the limit must not be left out silently.
        if text.len() as u64 > limits::CONFIG_BYTES {
            let reason = format!("it has more than {} bytes", limits::CONFIG_BYTES);
            return Err(unreadable(io::Error::other(reason)));
        }
        let invalid = |error| ConfigError::Invalid { path: path.into(), error: Box::new(error) };
        let mut config: Self = toml::from_str(&text).map_err(invalid)?;
        config.file = Some(path.to_owned());
        config.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        config.image.start_at(&config.folder);
        config.lock = Lock::read(&Lock::place(path))?;
        let mut problems = vec![];
        config.check_policies(&mut problems);
        let of_image = config.image.problems().into_iter();
        problems.extend(of_image.map(|problem| ConfigProblem {
            place: format!("image.{}", problem.key),
            message: problem.message,
        }));
        config.decisions.check(&mut problems);
        config.machine.check(&mut problems);
        config.check_api(&mut problems);
        config.seed.read(&config.folder, &mut problems);
        if pins == Pins::Needed {
            config.check_pins(&mut problems);
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Problems { path: path.into(), problems })
        }
    }

    /// The JSON Schema of the file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    /// The file that would be read. A default place counts as empty only if no file of that name is there.
    pub fn place(named: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
        if let Some(named) = named {
            return Ok(Some(named.to_owned()));
        }
        for path in default_places() {
            match trusted::look(&path) {
                Ok(Presence::Present) => return Ok(Some(path)),
                Ok(Presence::Absent) => {}
                Err(source) => return Err(ConfigError::Untrusted { path, source }),
            }
        }
        Ok(None)
    }

    /// The file that the configuration was read from; absent where the defaults hold.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The file to write if there is no configuration yet: for root the host's file, and for other users their own. Absent for a user
    /// without a home folder.
    pub fn place_to_write() -> Option<PathBuf> {
        match Self::place(None) {
            Ok(Some(path)) => Some(path),
            Ok(None) | Err(_) => {
                let mut places = default_places();
                if rustix::process::geteuid().is_root() {
                    places.drain(..).next()
                } else {
                    places.into_iter().nth(1)
                }
            }
        }
    }

    /// How images are fetched for an order.
    pub(crate) fn image_for(&self, order: &Order) -> qhost_image::Settings {
        let mut image = self.image.clone();
        image.network.allow.extend(&order.image_networks);
        image
    }

    /// The files of the operator's tables, by the tables' names.
    pub(crate) fn tables(&self) -> BTreeMap<String, PathBuf> {
        let file = |data: &guests::Data| self.folder.join(data.file());
        self.data.iter().map(|(name, data)| (name.clone(), file(data))).collect()
    }

    /// The operator's own part of each seed.
    pub(crate) fn vendor_data(&self) -> Option<&str> {
        self.seed.vendor_data()
    }

    /// The folder of the descriptors of UEFI firmware.
    pub(crate) fn firmware(&self) -> PathBuf {
        self.folder.join(&self.machine.firmware)
    }

    /// Whether guests may reach all that this host reaches.
    pub fn unfiltered_internet(&self) -> bool {
        self.network.unfiltered_internet
    }

    /// The rules that a final launch is checked against.
    pub fn rules(&self) -> Rules {
        Rules {
            ports: self.ports.allow.clone(),
            binds: self.ports.bind.clone(),
            internet: self.network.internet,
            args: self.qemu.args.clone(),
            persist: self.overlay.persist,
            disk_bytes: self.image.max_disk_bytes,
            data_bytes: self.overlay.max_bytes,
            seed_bytes: self.seed.max_bytes,
            cpus: self.machine.cpus.clone(),
            nested: self.machine.nested,
        }
    }
}

/// Whether every policy must have a digest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pins {
    Needed,
    ToBeMade,
}

fn default_places() -> Vec<PathBuf> {
    let user = absolute("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")));
    let system = Some(PathBuf::from("/etc/qhost/qhost.toml"));
    [system, user.map(|dir| dir.join("qhost/qhost.toml"))].into_iter().flatten().collect()
}

/// A folder that the environment names. An empty or relative name is ignored (XDG Base Directory Specification), since it would depend on
/// the folder in which the command is run.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|path| path.is_absolute())
}

/// The default state folder: `/var/lib/qhost` for root, else a folder under the user's state folder. Absent for a user without a home
/// folder.
pub fn default_state_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/var/lib/qhost".into());
    }
    absolute("XDG_STATE_HOME")
        .or_else(|| home().map(|home| home.join(".local/state")))
        .map(|state| state.join("qhost"))
}
