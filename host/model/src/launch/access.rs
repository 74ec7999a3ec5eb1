//! The ways into a guest that people and programs of the host have.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::violation,
};
use crate::{
    host_facts::HostFacts,
    job::{block::TaskBlock, cursor::Cursor},
    named::named,
    quota::Usage,
    secrets::Secrets,
};

/// How far a way into a guest goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLevel {
    /// The way does not exist.
    None,
    /// The guest's output can be read.
    Watch,
    /// The guest can be spoken to.
    Interact,
}
named!(AccessLevel, None = "none", Watch = "watch", Interact = "interact");

/// The ways into the guest of a launch.
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

/// The field for the ways into the guest.
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
            ("display", access.display != AccessLevel::Interact, "none or watch"),
        ];
        for (way, _, levels) in offered.iter().filter(|(_, is_offered, _)| !is_offered) {
            findings.impossible.push(violation(
                "access-not-offered",
                format!("access.{way}"),
                format!("this host does not offer that level of access to a guest's {way}"),
                format!("access.{way} can be {levels}"),
            ));
        }
    }

    fn mask(_: &mut Access, _: &Secrets) {}

    fn add_to(_: &Access, _: &mut Usage) {}

    fn shown(access: &Access) -> Option<String> {
        let ways = access.ways().into_iter().zip(Access::default().ways());
        let shown = ways.filter(|((_, level), (_, default))| level != default).map(
            |((field, level), _)| {
                format!("{} {}", field.trim_start_matches("access."), level.name())
            },
        );
        Some(shown.collect::<Vec<_>>().join(", ")).filter(|shown| !shown.is_empty())
    }
}

impl AskedField for Field {
    // A tenant has its console unless a policy takes it away, so that no key asks for it.
    const KEYS: &'static [Key] = &[
        Key {
            place: Place::Config,
            name: "guest_agent",
            required: false,
            schema: || {
                json!({
                    "description": "Whether the guest has a channel for QEMU's guest agent. true: qhost inspect shows the guest's addresses and operating system, qhost exec runs commands in the guest, and qhost volume copy freezes its file systems. \"watch\": only inspect and the ready check ask the agent. false when absent.",
                    "enum": [true, false, "watch", null]
                })
            },
        },
        Key {
            place: Place::Config,
            name: "display",
            required: false,
            schema: || {
                json!({
                    "description": "Whether the guest has a display, of which qhost screenshot takes pictures; false when absent.",
                    "type": ["boolean", "null"],
                    "default": false
                })
            },
        },
    ];

    fn read(task: &TaskBlock<'_>) -> Option<Access> {
        let config = task.config.as_ref()?;
        let agent = config.optional("guest_agent").map_or(Some(AccessLevel::None), |it| agent(&it));
        let display = config.optional("display").map_or(Some(false), |display| display.boolean());
        let display = if display? { AccessLevel::Watch } else { AccessLevel::None };
        Some(Access { agent: agent?, display, ..Access::default() })
    }

    fn asking_for(value: &Access) -> Access {
        *value
    }
}

/// Reads how far the agent in the guest may be asked.
fn agent(asked: &Cursor<'_>) -> Option<AccessLevel> {
    match (asked.value().as_bool(), asked.value().as_str()) {
        (Some(true), _) => Some(AccessLevel::Interact),
        (Some(false), _) => Some(AccessLevel::None),
        (None, Some("watch")) => Some(AccessLevel::Watch),
        (None, _) => asked.refuse("true, false or \"watch\""),
    }
}
