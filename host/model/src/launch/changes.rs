//! What differs between two launches, field by field.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Launch, PortMap};
use crate::{limits, printable};

/// One field that a policy changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The field, as a path into the launch; a port goes by its label: `ports.http.host`.
    pub field: String,
    /// Its value before; null where there was none.
    pub from: Value,
    /// Its value after; null where there is none.
    pub to: Value,
}

/// Compares two launches. A list that grew or shrank shows the items gained or lost.
pub(super) fn between(before: &Launch, after: &Launch) -> Vec<Change> {
    let mut found = Found(vec![]);
    found.field("accelerator", &before.accelerator, &after.accelerator);
    let (old, new) = (&before.resources, &after.resources);
    found.field("resources.cpus", &old.cpus, &new.cpus);
    found.field("resources.memory_mib", &old.memory_mib, &new.memory_mib);
    found.field("egress", &before.egress, &after.egress);
    for index in 0..before.warnings.len().max(after.warnings.len()) {
        let [old, new] = [before, after].map(|launch| launch.warnings.get(index));
        found.field(format_args!("warnings.{index}"), &old, &new);
    }
    if labels_differ(&before.ports) && labels_differ(&after.ports) {
        found.ports(&before.ports, &after.ports)
    } else {
        found.field("ports", &before.ports, &after.ports)
    }
    found.field("extensions", &before.extensions, &after.extensions);
    found.0
}

/// Whether each label is there once.
fn labels_differ(ports: &[PortMap]) -> bool {
    let twice = |(index, port): (usize, &PortMap)| {
        ports.iter().take(index).any(|earlier| earlier.label == port.label)
    };
    !ports.iter().enumerate().any(twice)
}

struct Found(Vec<Change>);

impl Found {
    /// Text and JSON are made only of what differs: most of a launch does not.
    fn field<T: PartialEq + Serialize>(&mut self, field: impl Display, from: &T, to: &T) {
        if from != to {
            self.0.push(Change { field: field.to_string(), from: json(from), to: json(to) });
        }
    }

    fn ports(&mut self, before: &[PortMap], after: &[PortMap]) {
        let same = |port: &PortMap, other: &&PortMap| other.label == port.label;
        for old in before {
            let label = &old.label;
            let Some(new) = after.iter().find(|new| same(old, new)) else {
                self.field(format_args!("ports.{label}"), &Some(old), &None);
                continue;
            };
            self.field(format_args!("ports.{label}.guest"), &old.guest, &new.guest);
            self.field(format_args!("ports.{label}.host"), &old.host, &new.host);
            self.field(format_args!("ports.{label}.bind"), &old.bind, &new.bind);
            self.field(format_args!("ports.{label}.protocol"), &old.protocol, &new.protocol);
        }
        for new in after.iter().filter(|new| !before.iter().any(|old| same(new, &old))) {
            self.field(format_args!("ports.{}", new.label), &None, &Some(new));
        }
    }
}

/// A launch and its parts are plain data, which JSON can always hold.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Changes in one line: `resources.cpus from 1 to 2, ports.http.host from null to 80`.
pub fn listed(changes: &[Change]) -> String {
    let one = |change: &Change| {
        format!("{} from {} to {}", change.field, shown(&change.from), shown(&change.to))
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A value in an error, escaped and cut.
pub fn shown(value: &Value) -> String {
    printable::line(&value.to_string(), limits::SHOWN_CHARS).to_string()
}
