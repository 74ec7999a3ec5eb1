//! What there is to say about a field of a launch. Each field says it in a file of its own; `launch.rs` lists the fields and loops over
//! them.

use serde_json::Value;

use super::{Change, Findings, Rules, changes::Changes};
use crate::{host_facts::HostFacts, job::block::TaskBlock, quota::Usage, secrets::Secrets};

/// A field of a launch. No item of this trait has a default: a field that leaves one of them out does not compile.
pub trait LaunchField {
    /// The type of what a job asks for; `()` for a field that only policies write.
    type Asked;
    /// The type of what is launched.
    type Value;

    /// The field's name in changes and violations.
    const NAME: &'static str;
    /// The field's form in the contract, for people.
    const CONTRACT: &'static str;
    /// How a tenant's policy may tighten the field, for people.
    const TIGHTER: &'static str;

    /// The value that is launched if no policy chooses otherwise.
    fn default_for(asked: &Self::Asked) -> Self::Value;

    /// Notes what differs between the values of two launches.
    fn compare(before: &Self::Value, after: &Self::Value, changes: &mut Changes);

    /// The change by which a tenant's policy made the value wider than the host's policies have allowed.
    fn widened(host: &Self::Value, tenant: &Self::Value) -> Option<Change>;

    /// Notes what the host's own rules have against the value.
    fn check(
        asked: &Self::Asked,
        value: &Self::Value,
        rules: &Rules,
        host: &HostFacts,
        findings: &mut Findings,
    );

    /// Masks a task's secrets in the text that policies wrote.
    fn mask(value: &mut Self::Value, secrets: &Secrets);

    /// Adds what the value takes of quotas.
    fn add_to(value: &Self::Value, usage: &mut Usage);

    /// The value in a line about a launch; absent for a value that has lines of its own, or none.
    fn shown(value: &Self::Value) -> Option<String>;
}

/// A field that jobs can ask for.
pub trait AskedField: LaunchField {
    /// The keys of a job file that ask for the field.
    const KEYS: &'static [Key];

    /// Reads what a task asks for; absent after a problem was noted.
    fn read(task: &TaskBlock<'_>) -> Option<Self::Asked>;

    /// The request for exactly this value.
    fn asking_for(value: &Self::Value) -> Self::Asked;
}

/// A key of a job file.
#[derive(Debug)]
pub struct Key {
    /// Where the key stands.
    pub place: Place,
    /// The key's name.
    pub name: &'static str,
    /// Whether a job must have it.
    pub required: bool,
    /// The JSON Schema of its value, which may refer to the definitions of `job/schema.json`.
    pub schema: fn() -> Value,
}

/// Where a key stands in a job file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The key stands in the task's `config` block, in both forms.
    Config,
    /// The key stands in `config` too, with a schema that holds only in qhost's own form.
    OwnConfig,
    /// The key stands in `resources` of qhost's own form.
    OwnResources,
    /// The key stands in `Resources` of a Nomad task.
    NomadResources,
}

impl Place {
    /// The object of the schema whose `properties` have the key.
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
