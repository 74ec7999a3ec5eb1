//! How long a guest has to power off when it is stopped, before QEMU quits.

use serde::{Deserialize, Serialize};

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField},
    rules::violation,
};
use crate::{host_facts::HostFacts, job::block::TaskBlock, limits, quota::Usage, secrets::Secrets};

/// The time to power off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grace {
    /// The seconds, from 0 to [`limits::GRACE_MOST_S`].
    pub seconds: u32,
}

impl Default for Grace {
    fn default() -> Self {
        Self { seconds: limits::GRACE_S }
    }
}

/// The field for the time to power off.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Option<Grace>;
    type Value = Grace;

    const NAME: &'static str = "grace_s";
    const CONTRACT: &'static str = "`grace-seconds`";
    const TIGHTER: &'static str = "shorten it";

    fn default_for(asked: &Option<Grace>) -> Grace {
        asked.unwrap_or_default()
    }

    fn compare(before: &Grace, after: &Grace, changes: &mut Changes) {
        changes.note(Self::NAME, before, after);
    }

    fn widened(host: &Grace, tenant: &Grace) -> Option<Change> {
        (tenant > host).then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check(_: &Option<Grace>, grace: &Grace, _: &Rules, _: &HostFacts, findings: &mut Findings) {
        let (seconds, most) = (grace.seconds, limits::GRACE_MOST_S);
        if seconds > most {
            findings.refused.push(violation(
                "grace-too-long",
                Self::NAME,
                format!("a guest cannot have {seconds} s to power off"),
                format!("set kill_timeout or --grace to {most} s or less"),
            ));
        }
    }

    fn mask(_: &mut Grace, _: &Secrets) {}

    fn add_to(_: &Grace, _: &mut Usage) {}

    fn shown(_: &Grace) -> Option<String> {
        None
    }
}

impl AskedField for Field {
    // No key of `config` asks for a grace: Nomad's KillTimeout stands beside `config`, and in qhost's own form the
    // command has --grace.
    const KEYS: &'static [Key] = &[];

    fn read(task: &TaskBlock<'_>) -> Option<Option<Grace>> {
        Some(task.grace_s?.map(|seconds| Grace { seconds }))
    }

    fn asking_for(value: &Grace) -> Option<Grace> {
        Some(*value)
    }
}
