//! The seed that sets a guest up when it boots: a disk that cloud-init's NoCloud reads, or Ignition's config. Its texts may be secret, so
//! that only their digests, sizes and keys are shown and kept.

mod files;
mod ignition;
mod keys;
mod media_type;
mod ssh_key;
mod text;
mod yaml;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField},
    rules::violation,
};
use crate::{
    digest::Sha256, host_facts::HostFacts, job::block::TaskBlock, limits, named::named,
    quota::Usage, secrets::Secrets,
};

pub use files::{NoCloud, NoCloudFile};

/// The program in the guest that reads the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeedKind {
    /// cloud-init's NoCloud.
    CloudInit,
    /// Ignition.
    Ignition,
}
named!(SeedKind, CloudInit = "cloud-init", Ignition = "ignition");

/// A part of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartName {
    /// What the tenant has the guest do.
    UserData,
    /// What the tenant adds to the host's own meta-data.
    MetaData,
    /// How the guest sets up its network.
    NetworkConfig,
    /// The cloud-config that the host writes from a job's short keys.
    CloudConfig,
    /// Ignition's config.
    Ignition,
}
named!(
    PartName,
    UserData = "user-data",
    MetaData = "meta-data",
    NetworkConfig = "network-config",
    CloudConfig = "cloud-config",
    Ignition = "ignition"
);

/// What is shown of a part of a seed, which is all but its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedPart {
    /// The part's name.
    pub name: PartName,
    /// The media type that cloud-init takes the part for.
    pub media_type: String,
    /// The digest of the part's text.
    pub sha256: Sha256,
    /// The size of the part's text in bytes.
    pub bytes: u32,
    /// The part's keys at the top, sorted, where it is a mapping.
    pub keys: Vec<String>,
}

/// A seed without its texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// The program that reads the seed.
    pub kind: SeedKind,
    /// The parts.
    pub parts: Vec<SeedPart>,
    /// The guest's host name, where one is asked for.
    pub hostname: Option<String>,
    /// Fingerprints of SSH keys that the guest's default user gets.
    pub ssh_keys: Vec<String>,
}

/// A seed that a job asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedSeed {
    /// The seed without its texts.
    #[serde(flatten)]
    pub seed: Seed,
    /// The texts; empty in a task that was read from a record.
    #[serde(skip)]
    pub texts: SeedTexts,
}

/// The texts of a seed, which are in no record and no message.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SeedTexts {
    parts: BTreeMap<PartName, String>,
    /// SSH keys by their fingerprints.
    ssh_keys: BTreeMap<String, String>,
}

impl fmt::Debug for SeedTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeedTexts").finish_non_exhaustive()
    }
}

impl SeedTexts {
    /// The text of a part.
    pub fn part(&self, name: PartName) -> Option<&str> {
        self.parts.get(&name).map(String::as_str)
    }

    /// The texts of all parts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (PartName, &str)> {
        self.parts.iter().map(|(name, text)| (*name, text.as_str()))
    }
}

impl Seed {
    /// Whether a guest gets the seed as a disk.
    pub fn is_disk(&self) -> bool {
        self.kind == SeedKind::CloudInit
    }

    /// Whether a guest gets the seed as Ignition's config, of which policies left something.
    pub fn is_ignition(&self) -> bool {
        self.kind == SeedKind::Ignition && !self.parts.is_empty()
    }

    /// The bytes of all parts together.
    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.bytes)).sum()
    }

    /// Whether the seed has no part and no key that another seed lacks.
    fn is_within(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.parts.iter().all(|part| other.parts.contains(part))
            && self.ssh_keys.iter().all(|key| other.ssh_keys.contains(key))
    }
}

/// Whether a text can be a host name: labels of letters, digits and `-` with dots between (RFC 1123, 2.1).
pub fn is_hostname(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= limits::HOSTNAME_BYTES && name.split('.').all(is_label)
}

/// The field for the seed.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Option<AskedSeed>;
    type Value = Option<Seed>;

    const NAME: &'static str = "seed";
    const CONTRACT: &'static str = "`seed`";
    const TIGHTER: &'static str = "leave it, parts of it or SSH keys out";

    fn default_for(asked: &Option<AskedSeed>) -> Option<Seed> {
        asked.as_ref().map(|asked| asked.seed.clone())
    }

    fn compare(before: &Option<Seed>, after: &Option<Seed>, changes: &mut Changes) {
        let (Some(old), Some(new)) = (before, after) else {
            return changes.note(Self::NAME, before, after);
        };
        changes.note("seed.kind", &old.kind, &new.kind);
        changes.note("seed.parts", &old.parts, &new.parts);
        changes.note("seed.hostname", &old.hostname, &new.hostname);
        changes.note("seed.ssh_keys", &old.ssh_keys, &new.ssh_keys);
    }

    fn widened(host: &Option<Seed>, tenant: &Option<Seed>) -> Option<Change> {
        let tenants = tenant.as_ref()?;
        let is_tighter = host
            .as_ref()
            .is_some_and(|hosts| tenants.is_within(hosts) && tenants.hostname == hosts.hostname);
        (!is_tighter).then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check(
        asked: &Option<AskedSeed>,
        seed: &Option<Seed>,
        rules: &Rules,
        _: &HostFacts,
        findings: &mut Findings,
    ) {
        let Some(seed) = seed else { return };
        if asked.as_ref().is_none_or(|asked| !seed.is_within(&asked.seed)) {
            findings.impossible.push(violation(
                "seed-not-requested",
                Self::NAME,
                "a policy put into the seed what the task does not ask for".into(),
                "a policy may leave parts and keys out, and change the host name".into(),
            ));
        }
        let (bytes, most) = (seed.bytes(), rules.seed_bytes);
        if bytes > most {
            findings.refused.push(violation(
                "seed-too-large",
                Self::NAME,
                format!("a seed of {bytes} bytes is larger than seeds on this host may be"),
                format!("{most} bytes or less; or have the operator raise seed.max_bytes"),
            ));
        }
        if seed.kind == SeedKind::Ignition && seed.hostname.is_some() {
            findings.impossible.push(violation(
                "hostname-of-ignition",
                "seed.hostname",
                "a policy set a host name, which the host can give only to a guest with a seed of cloud-init's, and this guest has Ignition's config".into(),
                "have the policy set none; the config can write /etc/hostname in storage.files".into(),
            ));
        }
        if seed.hostname.as_ref().is_some_and(|name| !is_hostname(name)) {
            findings.refused.push(violation(
                "hostname",
                "seed.hostname",
                format!("{:?} is no host name", seed.hostname.as_deref().unwrap_or_default()),
                "labels of 1 to 63 letters, digits and -, with dots between; at most 253 bytes"
                    .into(),
            ));
        }
    }

    fn mask(seed: &mut Option<Seed>, secrets: &Secrets) {
        let hostname = seed.as_mut().and_then(|seed| seed.hostname.as_mut());
        hostname.into_iter().for_each(|name| secrets.clean(name));
    }

    // The seed's disk is no larger than the host's rule for seeds allows, and is removed with the VM.
    fn add_to(_: &Option<Seed>, _: &mut Usage) {}

    fn shown(seed: &Option<Seed>) -> Option<String> {
        let Seed { kind, parts, hostname, ssh_keys } = seed.as_ref()?;
        let mut shown = format!("seed {}", kind.name());
        for SeedPart { name, bytes, .. } in parts {
            shown += &format!(" {} ({bytes} bytes)", name.name());
        }
        if let Some(hostname) = hostname {
            shown += &format!(", host name {hostname}");
        }
        if !ssh_keys.is_empty() {
            shown += &format!(", SSH keys {}", ssh_keys.join(" "));
        }
        Some(shown)
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = keys::KEYS;

    fn read(task: &TaskBlock<'_>) -> Option<Option<AskedSeed>> {
        keys::read(task.config.as_ref()?, task.form, task.files.as_ref()?)
    }

    fn asking_for(value: &Option<Seed>) -> Option<AskedSeed> {
        let seed = value.clone()?;
        Some(AskedSeed { seed, texts: SeedTexts::default() })
    }
}

/// Makes the part's description from its text.
fn part(name: PartName, media_type: &str, keys: Vec<String>, text: &str) -> SeedPart {
    SeedPart {
        name,
        media_type: media_type.into(),
        sha256: Sha256::of(text.as_bytes()),
        bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
        keys,
    }
}
