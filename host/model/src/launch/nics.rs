//! The guest's network devices.

use serde::{Deserialize, Serialize};

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField},
    rules::violation,
};
use crate::{host_facts::HostFacts, job::block::TaskBlock, quota::Usage, secrets::Secrets};

/// The name of QEMU's user-mode network.
pub const USER: &str = "user";

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The device's name, unique within the task.
    pub name: String,
    /// The operator's name of the device's network.
    pub network: String,
}

/// The devices of a task that names none.
pub fn default() -> Vec<Nic> {
    vec![Nic { name: "net".into(), network: USER.into() }]
}

pub(super) fn is_default(nics: &Vec<Nic>) -> bool {
    *nics == default()
}

/// The field for the network devices.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Vec<Nic>;
    type Value = Vec<Nic>;

    const NAME: &'static str = "nics";
    const CONTRACT: &'static str = "`nics`";
    const TIGHTER: &'static str = "leave devices out";

    fn default_for(asked: &Vec<Nic>) -> Vec<Nic> {
        asked.clone()
    }

    fn compare(before: &Vec<Nic>, after: &Vec<Nic>, changes: &mut Changes) {
        changes.note(Self::NAME, before, after);
    }

    fn widened(host: &Vec<Nic>, tenant: &Vec<Nic>) -> Option<Change> {
        let wider = tenant.len() > host.len() || tenant.iter().any(|nic| !host.contains(nic));
        wider.then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check(asked: &Vec<Nic>, nics: &Vec<Nic>, _: &Rules, _: &HostFacts, findings: &mut Findings) {
        if nics.len() > asked.len() || nics.iter().any(|nic| !asked.contains(nic)) {
            findings.impossible.push(violation(
                "nic-not-offered",
                Self::NAME,
                "this host gives a guest the network devices that its task asks for, or fewer"
                    .into(),
                format!("one device in the network {USER}, or none"),
            ));
        }
    }

    fn mask(_: &mut Vec<Nic>, _: &Secrets) {}

    fn add_to(_: &Vec<Nic>, _: &mut Usage) {}

    fn shown(nics: &Vec<Nic>) -> Option<String> {
        nics.is_empty().then(|| "no network device".into())
    }
}

impl AskedField for Field {
    // There is one network, in which each guest has one device, so that no key asks for it.
    const KEYS: &'static [Key] = &[];

    fn read(_: &TaskBlock<'_>) -> Option<Vec<Nic>> {
        Some(default())
    }

    fn asking_for(value: &Vec<Nic>) -> Vec<Nic> {
        value.clone()
    }
}
