//! What there is to say about a field of a launch. Each field says it in a file of its own; `launch.rs` lists the fields and asks all of
//! them in its loops.

use serde_json::Value;

use super::{Change, Findings, Rules, changes::Changes};
use crate::{host_facts::HostFacts, job::block::TaskBlock, quota::Usage, secrets::Secrets};

/// A field of a launch. Nothing of it has a default: a field that is added without a word about one of these does not compile.
pub trait LaunchField {
    /// What a job asks for; nothing, where only policies write it.
    type Asked;
    /// What is launched.
    type Value;

    /// Its name, in what differs between launches and in violations.
    const NAME: &'static str;
    /// Its form in the contract, for people.
    const CONTRACT: &'static str;
    /// What a tenant's policy may do to it, for people.
    const TIGHTER: &'static str;

    /// What is launched if no policy says otherwise.
    fn default_for(asked: &Self::Asked) -> Self::Value;

    /// Notes what differs between two launches.
    fn compare(before: &Self::Value, after: &Self::Value, changes: &mut Changes);

    /// What a tenant's policy made wider than the host's policies have allowed.
    fn widened(host: &Self::Value, tenant: &Self::Value) -> Option<Change>;

    /// Notes what the host's own rules have against it.
    fn check(
        asked: &Self::Asked,
        value: &Self::Value,
        rules: &Rules,
        host: &HostFacts,
        findings: &mut Findings,
    );

    /// Masks a task's secrets in what policies wrote.
    fn mask(value: &mut Self::Value, secrets: &Secrets);

    /// Adds what it takes of quotas.
    fn add_to(value: &Self::Value, usage: &mut Usage);

    /// How it stands in a line that says what is launched; absent: it has lines of its own, or none.
    fn shown(value: &Self::Value) -> Option<String>;
}

/// A field that jobs ask for.
pub trait AskedField: LaunchField {
    /// The keys of a job file that ask for it.
    const KEYS: &'static [Key];

    /// Reads what is asked for; absent after a problem was noted.
    fn read(task: &TaskBlock<'_>) -> Option<Self::Asked>;

    /// The request for exactly this value.
    fn asking_for(value: &Self::Value) -> Self::Asked;
}

/// A key of a job file.
#[derive(Debug)]
pub struct Key {
    /// Where it stands.
    pub place: Place,
    /// The key.
    pub name: &'static str,
    /// Whether a job must have it.
    pub required: bool,
    /// Its JSON Schema, which may refer to the definitions of `job/schema.json`.
    pub schema: fn() -> Value,
}

/// Where a key stands in a job file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the task's `config` block, in both forms.
    Config,
    /// In `config` too; what is said of the key holds in qhost's own form alone.
    OwnConfig,
    /// In `resources` of qhost's own form.
    OwnResources,
    /// In `Resources` of a Nomad task.
    NomadResources,
}

impl Place {
    /// The object in the schema whose `properties` it is one of.
    pub(crate) fn pointer(self) -> &'static str {
        match self {
            Self::Config => "/$defs/config",
            Self::OwnConfig => "/$defs/own/properties/config/allOf/1",
            Self::OwnResources => "/$defs/own/properties/resources",
            Self::NomadResources => "/$defs/nomadTask/properties/Resources",
        }
    }
}

/// The names of the keys that stand in a place.
pub(crate) fn names_in<'k>(
    keys: impl Iterator<Item = &'k Key>,
    place: Place,
) -> impl Iterator<Item = &'static str> {
    keys.filter(move |key| key.place == place).map(|key| key.name)
}
