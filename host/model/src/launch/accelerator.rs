//! The accelerator of a launch.

use serde_json::json;

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
    rules::violation,
};
use crate::{
    host_facts::{Accelerator, HostFacts},
    job::block::TaskBlock,
    quota::Usage,
    secrets::Secrets,
};

/// The field for the accelerator, which runs the guest's instructions.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Option<Accelerator>;
    type Value = Accelerator;

    const NAME: &'static str = "accelerator";
    const CONTRACT: &'static str = "`accelerator`";
    const TIGHTER: &'static str = "nothing: each has its own surface and its own speed";

    fn default_for(asked: &Self::Asked) -> Accelerator {
        asked.unwrap_or(Accelerator::Tcg)
    }

    fn compare(before: &Accelerator, after: &Accelerator, changes: &mut Changes) {
        changes.note(Self::NAME, before, after);
    }

    fn widened(host: &Accelerator, tenant: &Accelerator) -> Option<Change> {
        (host != tenant).then(|| Change::new(Self::NAME, host, tenant))
    }

    fn check(
        _: &Self::Asked,
        accelerator: &Accelerator,
        _: &Rules,
        host: &HostFacts,
        findings: &mut Findings,
    ) {
        if host.accelerators.contains(accelerator) {
            return;
        }
        let works: Vec<_> = host.accelerators.iter().map(|works| works.name()).collect();
        findings.impossible.push(violation(
            "accelerator",
            Self::NAME,
            format!("{} does not run guest code on this host", accelerator.name()),
            format!("works here: {}; qhost fingerprint says why", works.join(", ")),
        ));
    }

    fn mask(_: &mut Accelerator, _: &Secrets) {}

    fn add_to(_: &Accelerator, _: &mut Usage) {}

    fn shown(accelerator: &Accelerator) -> Option<String> {
        Some(accelerator.name().into())
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[Key {
        place: Place::Config,
        name: "accelerator",
        required: false,
        schema: || {
            json!({
                "description": "What runs the guest's code. Absent: the host's policies choose, tcg without any.",
                "enum": ["tcg", "kvm", null]
            })
        },
    }];

    fn read(task: &TaskBlock<'_>) -> Option<Self::Asked> {
        match task.config.as_ref()?.optional("accelerator") {
            Some(word) => word.word(Accelerator::ALL, Accelerator::name).map(Some),
            None => Some(None),
        }
    }

    fn asking_for(value: &Accelerator) -> Self::Asked {
        Some(*value)
    }
}
