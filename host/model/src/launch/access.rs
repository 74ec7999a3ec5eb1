//! The ways into a guest that people and programs of the host have.

use serde::{Deserialize, Serialize};

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField},
    rules::violation,
};
use crate::{
    host_facts::HostFacts, job::block::TaskBlock, named::named, quota::Usage, secrets::Secrets,
};

/// How far a way into a guest goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLevel {
    /// It is not there.
    None,
    /// What the guest says can be read.
    Watch,
    /// The guest can be spoken to.
    Interact,
}
named!(AccessLevel, None = "none", Watch = "watch", Interact = "interact");

/// The ways in of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The serial console.
    pub console: AccessLevel,
    /// The display.
    pub display: AccessLevel,
    /// The agent in the guest.
    pub agent: AccessLevel,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            console: AccessLevel::Interact,
            display: AccessLevel::None,
            agent: AccessLevel::None,
        }
    }
}

impl Access {
    fn ways(&self) -> [(&'static str, AccessLevel); 3] {
        let Self { console, display, agent } = *self;
        [("access.console", console), ("access.display", display), ("access.agent", agent)]
    }
}

/// The field.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Access;
    type Value = Access;

    const NAME: &'static str = "access";
    const CONTRACT: &'static str = "`access`";
    const TIGHTER: &'static str = "lower a level";

    fn default_for(asked: &Access) -> Access {
        *asked
    }

    fn compare(before: &Access, after: &Access, changes: &mut Changes) {
        for ((field, before), (_, after)) in before.ways().iter().zip(after.ways()) {
            changes.note(field, before, &after);
        }
    }

    fn widened(host: &Access, tenant: &Access) -> Option<Change> {
        let (host, tenant) = (host.ways(), tenant.ways());
        let wider = host.iter().zip(&tenant).find(|((_, host), (_, tenant))| tenant > host);
        wider.map(|((field, host), (_, tenant))| Change::new(field, host, tenant))
    }

    fn check(_: &Access, access: &Access, _: &Rules, _: &HostFacts, findings: &mut Findings) {
        let offered = [
            ("console", access.console != AccessLevel::None, "watch or interact"),
            ("display", access.display == AccessLevel::None, "none"),
            ("agent", access.agent == AccessLevel::None, "none"),
        ];
        for (way, _, levels) in offered.iter().filter(|(_, is_offered, _)| !is_offered) {
            findings.impossible.push(violation(
                "access-not-offered",
                format!("access.{way}"),
                format!("this host has no such way to a guest's {way}"),
                format!("access.{way} can be {levels}"),
            ));
        }
    }

    fn mask(_: &mut Access, _: &Secrets) {}

    fn add_to(_: &Access, _: &mut Usage) {}

    fn shown(access: &Access) -> Option<String> {
        (access.console != AccessLevel::Interact)
            .then(|| format!("console {}", access.console.name()))
    }
}

impl AskedField for Field {
    // A tenant has its console unless a policy says otherwise.
    const KEYS: &'static [Key] = &[];

    fn read(_: &TaskBlock<'_>) -> Option<Access> {
        Some(Access::default())
    }

    fn asking_for(value: &Access) -> Access {
        *value
    }
}
