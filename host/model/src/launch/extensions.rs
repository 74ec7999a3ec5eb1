//! The contract's extensions: room for later versions.

use super::{Change, Findings, Rules, changes::Changes, field::LaunchField};
use crate::{host_facts::HostFacts, quota::Usage, secrets::Secrets};

/// The field for pairs of key and value that this host does not know.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = ();
    type Value = Vec<(String, String)>;

    const NAME: &'static str = "extensions";
    const CONTRACT: &'static str = "`extensions`";
    const TIGHTER: &'static str = "nothing: what they mean is not known";

    fn default_for((): &()) -> Self::Value {
        vec![]
    }

    fn compare(before: &Self::Value, after: &Self::Value, changes: &mut Changes) {
        changes.note(Self::NAME, before, after);
    }

    fn widened(host: &Self::Value, tenant: &Self::Value) -> Option<Change> {
        (host != tenant).then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check((): &(), _: &Self::Value, _: &Rules, _: &HostFacts, _: &mut Findings) {}

    fn mask(extensions: &mut Self::Value, secrets: &Secrets) {
        for (key, value) in extensions {
            secrets.clean(key);
            secrets.clean(value);
        }
    }

    fn add_to(_: &Self::Value, _: &mut Usage) {}

    fn shown(_: &Self::Value) -> Option<String> {
        None
    }
}
