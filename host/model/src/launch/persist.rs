//! Whether what the guest writes to its root disk is kept for the task's next run.

use serde_json::json;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::violation,
};
use crate::{host_facts::HostFacts, job::block::TaskBlock, quota::Usage, secrets::Secrets};

/// The field for whether the overlay outlives its VM.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = bool;
    type Value = bool;

    const NAME: &'static str = "persist";
    const CONTRACT: &'static str = "`disks`, of `root`: `persistent`";
    const TIGHTER: &'static str = "make it false";

    fn default_for(asked: &bool) -> bool {
        *asked
    }

    fn compare(before: &bool, after: &bool, changes: &mut Changes) {
        changes.note(Self::NAME, before, after);
    }

    fn widened(host: &bool, tenant: &bool) -> Option<Change> {
        (tenant > host).then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check(_: &bool, persist: &bool, rules: &Rules, _: &HostFacts, findings: &mut Findings) {
        if *persist && !rules.persist {
            findings.refused.push(violation(
                "persist-not-allowed",
                Self::NAME,
                "tasks on this host may not keep what they write".into(),
                "leave persist out; or have the operator set overlay.persist = true".into(),
            ));
        }
    }

    fn mask(_: &mut bool, _: &Secrets) {}

    fn add_to(_: &bool, _: &mut Usage) {}

    fn shown(persist: &bool) -> Option<String> {
        persist.then(|| "its disk is kept".into())
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[Key {
        place: Place::Config,
        name: "persist",
        required: false,
        schema: || {
            json!({
                "description": "Whether what the guest writes to its disk is kept for the next run of the same task; false when absent. The host refuses it unless its configuration allows it.",
                "type": ["boolean", "null"],
                "default": false
            })
        },
    }];

    fn read(task: &TaskBlock<'_>) -> Option<bool> {
        task.config.as_ref()?.optional("persist").map_or(Some(false), |persist| persist.boolean())
    }

    fn asking_for(value: &bool) -> bool {
        *value
    }
}
