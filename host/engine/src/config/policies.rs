//! `[policies]`, `[host]`, `[tenants]`: the policies and their terms, and the chains of the host and of tenants.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use qhost_model::{
    digest::Sha256,
    quota::{Quota, Terms},
};
use qhost_policy::{Allowance, Layer, Mode, PublicKey, Signers};

use super::{Config, ConfigProblem};
use crate::limits;

/// `[policies.NAME]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    /// The component or core module; a relative path starts from the configuration's folder.
    module: PathBuf,
    /// The SHA-256 that its file must have, 64 hexadecimal digits; absent: the one that the lock file has, which
    /// `qhost policy lock` writes.
    #[schemars(with = "Option<String>")]
    sha256: Option<Sha256>,
    /// Who must have signed it besides.
    signatures: Option<Signatures>,
    /// Its settings.
    settings: Option<Map<String, Value>>,
    /// A JSON file with its settings, instead of `settings`; a relative path starts from the configuration's folder.
    settings_file: Option<PathBuf>,
    /// What its word counts for: `enforce`, or `monitor` to record what it would say and change nothing.
    #[serde(default)]
    mode: Mode,
    /// Whether it gets a WASI with a frozen clock and seeded randomness and nothing else: for policies in JavaScript,
    /// Python and Go.
    #[serde(default)]
    wasi: bool,
    /// The longest that one call may take, in milliseconds: 1 to 60000.
    #[serde(default = "default_deadline")]
    #[schemars(range(min = 1, max = 60_000))]
    deadline_ms: u64,
    /// All memories and tables of a sandbox together, in MiB: 1 to 2048.
    #[serde(default = "default_memory")]
    #[schemars(range(min = 1, max = 2048))]
    memory_mib: usize,
    /// Whether the policy is shown the texts of a seed, which may be secret; without it, their digests, sizes and keys at the top.
    #[serde(default)]
    seed_text: bool,
    /// Fields of a launch that the policy need not see, as in `["seed"]`: a policy of an earlier contract refuses by its silence a launch
    /// that holds what that has no word for.
    #[serde(default)]
    unseen: Vec<String>,
}

/// `[policies.NAME.signatures]`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Signatures {
    /// Minisign public keys, as the second line of a `.pub` file has them.
    keys: Vec<PublicKey>,
    /// How many of them must have signed; absent: all of them.
    threshold: Option<usize>,
}

fn default_deadline() -> u64 {
    u64::try_from(qhost_policy::limits::POLICY_DEADLINE.as_millis()).unwrap_or(u64::MAX)
}

fn default_memory() -> usize {
    qhost_policy::limits::POLICY_MEMORY_BYTES >> 20
}

/// `[host]` and `[tenants.NAME]`
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ChainConfig {
    /// The policies to ask, by name, in order.
    chain: Vec<String>,
    /// What the tenant's VMs, or of the host all, may take together at a time.
    quota: Quota,
    /// Of a tenant: settings of policies by name, which take the place of the policies' own for its tasks, key by key.
    settings: Named<Map<String, Value>>,
}

/// A configured policy, with its paths resolved.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The policy's name.
    pub name: String,
    /// The policy's file.
    pub module: PathBuf,
    /// The digest that the policy's file must have.
    pub sha256: Sha256,
    /// The signatures that the policy's file must have.
    pub signers: Option<Signers>,
    /// The policy's settings.
    pub settings: Settings,
    /// The tenant's settings, which replace the policy's own key by key.
    pub tenants_settings: Map<String, Value>,
    /// What the policy's answer counts for.
    pub mode: Mode,
    /// What the policy may use.
    pub allowance: Allowance,
    /// The layer that the policy is asked in, the host's or the tenant's.
    pub layer: Layer,
    /// Fields of a launch that the policy need not see.
    pub unseen: Vec<String>,
}

impl Signatures {
    fn read(&self) -> Result<Signers, String> {
        Signers::new(self.keys.clone(), self.threshold)
    }
}

/// The place of a policy's settings.
#[derive(Debug, Clone)]
pub enum Settings {
    /// The settings are in the configuration.
    Here(Map<String, Value>),
    /// The settings are in a file.
    File(PathBuf),
}

impl Config {
    /// The policies to ask about a tenant's task: the host's, then the tenant's own. If tenants are configured, an unknown tenant is
    /// refused.
    pub fn chain(&self, tenant: &str) -> Result<Vec<Configured>, UnknownTenant> {
        let own = match self.tenants.get(tenant) {
            Some(own) => own.chain.as_slice(),
            None if self.tenants.is_empty() => &[],
            None => return Err(self.unknown(tenant)),
        };
        let of = |layer| move |name: &String| self.configured(name, layer);
        let host = self.host.chain.iter().filter_map(of(Layer::Host));
        let mut chain: Vec<_> = host.chain(own.iter().filter_map(of(Layer::Tenant))).collect();
        for policy in &mut chain {
            let given = self.tenants.get(tenant).and_then(|own| own.settings.get(&policy.name));
            policy.tenants_settings = given.cloned().unwrap_or_default();
        }
        Ok(chain)
    }

    /// The tenants that are configured, by name.
    pub fn tenants(&self) -> impl Iterator<Item = String> {
        self.tenants.keys().cloned()
    }

    /// Whether any tenants are configured; if not, all VMs are the default tenant's.
    pub fn has_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// Whether the configuration names this tenant.
    pub fn has_tenant(&self, tenant: &str) -> bool {
        self.tenants.contains_key(tenant)
    }

    /// The terms of a tenant: what all VMs together and the tenant's VMs may take, and how long ended VMs are kept.
    pub fn terms(&self, tenant: &str) -> Terms {
        let own = self.tenants.get(tenant).map(|own| own.quota.clone());
        Terms {
            host: self.host.quota.clone(),
            tenant: own.unwrap_or_default(),
            retention: self.retention,
        }
    }

    /// What all tenants may take together.
    pub fn host_quota(&self) -> &Quota {
        &self.host.quota
    }

    /// Every configured policy, in a chain or not.
    pub fn policies(&self) -> Vec<Configured> {
        self.policies.keys().filter_map(|name| self.configured(name, Layer::Host)).collect()
    }

    fn configured(&self, name: &str, layer: Layer) -> Option<Configured> {
        let policy = self.policies.get(name)?;
        let settings = match (&policy.settings, &policy.settings_file) {
            (_, Some(file)) => Settings::File(self.folder.join(file)),
            (settings, None) => Settings::Here(settings.clone().unwrap_or_default()),
        };
        Some(Configured {
            name: name.into(),
            module: self.folder.join(&policy.module),
            sha256: self.pin(name)?,
            signers: policy.signatures.as_ref().and_then(|given| given.read().ok()),
            settings,
            tenants_settings: Map::new(),
            mode: policy.mode,
            allowance: Allowance {
                deadline: Duration::from_millis(policy.deadline_ms),
                memory: policy.memory_mib << 20,
                wasi: policy.wasi,
                seed_text: policy.seed_text,
            },
            layer,
            unseen: policy.unseen.clone(),
        })
    }

    /// The digest that a policy's file must have.
    pub fn pin(&self, name: &str) -> Option<Sha256> {
        let locked = || self.lock.policies.get(name).map(|locked| locked.sha256);
        self.policies.get(name)?.sha256.or_else(locked)
    }

    /// The file of a configured policy.
    pub fn module(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(&self.policies.get(name)?.module))
    }

    /// The files of policies and of their settings, with the keys that name them.
    pub fn policy_files(&self) -> impl Iterator<Item = (String, PathBuf)> {
        self.policies.iter().flat_map(move |(name, policy)| {
            let files = [
                ("module", Some(&policy.module)),
                ("settings_file", policy.settings_file.as_ref()),
            ];
            files.into_iter().filter_map(move |(key, path)| {
                Some((format!("policies.{name}.{key}"), self.folder.join(path?)))
            })
        })
    }

    /// The policies whose digests come from the lock file.
    pub fn to_lock(&self) -> Vec<String> {
        let of_lock = self.policies.iter().filter(|(_, policy)| policy.sha256.is_none());
        of_lock.map(|(name, _)| name.clone()).collect()
    }

    /// Checks that every policy has exactly one digest.
    pub(super) fn check_pins(&self, problems: &mut Vec<ConfigProblem>) {
        for (name, policy) in &self.policies {
            let locked = self.lock.policies.get(name).map(|locked| locked.sha256);
            let message = match (policy.sha256, locked) {
                (None, None) => {
                    "expected a digest here or in the lock file: qhost policy lock writes it".into()
                }
                (Some(here), Some(locked)) if here != locked => {
                    format!("sha256:{here} here, and sha256:{locked} in the lock file; remove one")
                }
                (_, _) => continue,
            };
            problems.push(ConfigProblem { place: format!("policies.{name}.sha256"), message });
        }
    }

    /// Replaces a policy's file by another, which has this digest and needs no signature.
    pub(crate) fn replace_component(
        &mut self,
        name: &str,
        module: &Path,
        sha256: Sha256,
    ) -> Result<(), String> {
        let known = self.policies.keys().cloned().collect::<Vec<_>>().join(", ");
        let Some(policy) = self.policies.get_mut(name) else {
            let name = qhost_model::printable::line(name, limits::SHOWN_NAME_CHARS);
            return Err(format!("the configuration has no policy {name}; its policies: {known}"));
        };
        (policy.module, policy.sha256, policy.signatures) = (module.to_owned(), Some(sha256), None);
        Ok(())
    }

    /// Checks that the configuration allows a tenant of this name.
    pub(crate) fn knows(&self, tenant: &str) -> Result<(), UnknownTenant> {
        let is_known = self.tenants.is_empty() || self.tenants.contains_key(tenant);
        if is_known { Ok(()) } else { Err(self.unknown(tenant)) }
    }

    fn unknown(&self, tenant: &str) -> UnknownTenant {
        let tenants = self.tenants.keys().cloned().collect();
        UnknownTenant { tenant: tenant.into(), tenants }
    }

    /// Finds what is wrong with the policies and chains, without looking at any file.
    pub(super) fn check_policies(&self, problems: &mut Vec<ConfigProblem>) {
        for (name, policy) in &self.policies {
            let at = |key: &str| format!("policies.{name}.{key}");
            let mut found = |wrong: bool, place: String, message: String| {
                if wrong {
                    problems.push(ConfigProblem { place, message });
                }
            };
            found(
                !qhost_model::name::is_name(name),
                format!("policies.{name}"),
                "expected a name of 1 to 64 letters, digits, -, _ and .".into(),
            );
            found(
                policy.settings.is_some() && policy.settings_file.is_some(),
                at("settings_file"),
                "expected settings or settings_file, found both".into(),
            );
            let dated = policy.settings.iter().flatten().find_map(|(key, value)| dated(key, value));
            found(
                dated.is_some(),
                at("settings"),
                format!("{}: JSON has no dates; write a string", dated.unwrap_or_default()),
            );
            let signatures = policy.signatures.as_ref().and_then(|given| given.read().err());
            found(signatures.is_some(), at("signatures"), signatures.unwrap_or_default());
            let most = u64::try_from(limits::POLICY_DEADLINE_MOST.as_millis()).unwrap_or(u64::MAX);
            found(
                !(1..=most).contains(&policy.deadline_ms),
                at("deadline_ms"),
                format!("expected 1 to {most} ms, found {}", policy.deadline_ms),
            );
            let most = limits::POLICY_MEMORY_BYTES_MOST >> 20;
            found(
                !(1..=most).contains(&policy.memory_mib),
                at("memory_mib"),
                format!("expected 1 to {most} MiB, found {}", policy.memory_mib),
            );
        }
        self.check_chain("host.chain", &[], &self.host.chain, problems);
        if let Some(name) = self.host.settings.keys().next() {
            let message =
                format!("expected them in policies.{name}.settings: only a tenant has others");
            problems.push(ConfigProblem { place: "host.settings".into(), message });
        }
        for (tenant, asked) in &self.tenants {
            let chain: Vec<_> = self.host.chain.iter().chain(&asked.chain).collect();
            for name in asked.settings.keys().filter(|name| !chain.contains(name)) {
                let place = format!("tenants.{tenant}.settings.{name}");
                let message =
                    format!("{name} is not asked about this tenant's tasks{}", self.nearest(name));
                problems.push(ConfigProblem { place, message });
            }
            let place = format!("tenants.{tenant}.chain");
            if !qhost_model::name::is_name(tenant) {
                let message = "expected a name of 1 to 64 letters, digits, -, _ and .".into();
                problems.push(ConfigProblem { place: format!("tenants.{tenant}"), message });
            }
            self.check_chain(&place, &self.host.chain, &asked.chain, problems);
        }
    }

    fn check_chain(
        &self,
        place: &str,
        before: &[String],
        chain: &[String],
        problems: &mut Vec<ConfigProblem>,
    ) {
        let whole = [before, chain].concat();
        for (index, name) in whole.iter().enumerate().skip(before.len()) {
            let earlier = whole.iter().take(index).any(|earlier| earlier == name);
            let message = if !self.policies.contains_key(name) {
                format!("{name} is no policy of this configuration{}", self.nearest(name))
            } else if earlier {
                format!("{name} would be asked twice")
            } else {
                continue;
            };
            let place = format!("{place}.{}", index - before.len());
            problems.push(ConfigProblem { place, message });
        }
        if whole.len() > qhost_policy::limits::POLICIES {
            let message = format!(
                "{} policies for one task, more than {}",
                whole.len(),
                qhost_policy::limits::POLICIES
            );
            problems.push(ConfigProblem { place: place.into(), message });
        }
    }

    fn nearest(&self, name: &str) -> String {
        let distance = |known: &&String| strsim::damerau_levenshtein(known, name);
        let near = self.policies.keys().min_by_key(distance).filter(|known| distance(known) <= 3);
        near.map_or(String::new(), |known| format!("; did you mean {known}?"))
    }
}

/// The path of a TOML date inside settings.
fn dated(key: &str, value: &Value) -> Option<String> {
    let inside = |inner: Option<String>| inner.map(|inner| format!("{key}.{inner}"));
    match value {
        // The toml crate hands a date to a type that takes anything in this way.
        Value::Object(map) if map.contains_key("$__toml_private_datetime") => Some(key.into()),
        Value::Object(map) => inside(map.iter().find_map(|(key, value)| dated(key, value))),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            inside(items.find_map(|(index, value)| dated(&index.to_string(), value)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A tenant that the configuration does not have.
#[derive(Debug, thiserror::Error)]
#[error("tenant {tenant}: the configuration has no such tenant; it has {}", tenants.join(", "))]
pub struct UnknownTenant {
    tenant: String,
    tenants: Vec<String>,
}

/// The tables of a configuration by name.
pub(super) type Named<T> = BTreeMap<String, T>;
