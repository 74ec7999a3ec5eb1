//! What a guest may connect to.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::violation,
};
use crate::{
    host_facts::HostFacts, job::block::TaskBlock, named::named, quota::Usage, secrets::Secrets,
};

/// What a guest may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// The guest connects to nothing.
    Isolated,
    /// The guest connects to public addresses.
    Internet,
}
named!(Egress, Isolated = "isolated", Internet = "internet");

/// The field for what a guest may connect to.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Egress;
    type Value = Egress;

    const NAME: &'static str = "egress";
    const CONTRACT: &'static str = "`egress`";
    const TIGHTER: &'static str = "make it `isolated`";

    fn default_for(asked: &Egress) -> Egress {
        *asked
    }

    fn compare(before: &Egress, after: &Egress, changes: &mut Changes) {
        changes.note(Self::NAME, before, after);
    }

    fn widened(host: &Egress, tenant: &Egress) -> Option<Change> {
        let wider = (*host, *tenant) == (Egress::Isolated, Egress::Internet);
        wider.then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check(_: &Egress, egress: &Egress, rules: &Rules, _: &HostFacts, findings: &mut Findings) {
        if *egress == Egress::Internet && !rules.internet {
            findings.refused.push(violation(
                "egress-not-allowed",
                Self::NAME,
                "guests on this host may not reach the internet".into(),
                "ask for egress \"isolated\"; or have the operator set network.internet = true"
                    .into(),
            ));
        }
    }

    fn mask(_: &mut Egress, _: &Secrets) {}

    fn add_to(_: &Egress, _: &mut Usage) {}

    fn shown(egress: &Egress) -> Option<String> {
        Some(format!("egress {}", egress.name()))
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[Key {
        place: Place::Config,
        name: "egress",
        required: false,
        schema: || {
            json!({
                "description": "What the guest may reach by itself; isolated when absent.",
                "enum": ["isolated", "internet", null]
            })
        },
    }];

    fn read(task: &TaskBlock<'_>) -> Option<Egress> {
        match task.config.as_ref()?.optional("egress") {
            Some(word) => word.word(Egress::ALL, Egress::name),
            None => Some(Egress::Isolated),
        }
    }

    fn asking_for(value: &Egress) -> Egress {
        *value
    }
}
