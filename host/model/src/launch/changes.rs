//! What differs between two launches, field by field.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Launch, PortMap};
use crate::{job::Resources, limits, printable};

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
    // Whole, so that a new field does not compile until it is compared here.
    let Launch { accelerator, ports, resources, egress, warnings, extensions } = before;
    let Resources { cpus, memory_mib } = resources;
    let mut found = Found(vec![]);
    found.field("accelerator", accelerator, &after.accelerator);
    found.field("resources.cpus", cpus, &after.resources.cpus);
    found.field("resources.memory_mib", memory_mib, &after.resources.memory_mib);
    found.field("egress", egress, &after.egress);
    for index in 0..warnings.len().max(after.warnings.len()) {
        let [old, new] = [warnings, &after.warnings].map(|warnings| warnings.get(index));
        found.field(format_args!("warnings.{index}"), &old, &new);
    }
    if labels_differ(ports) && labels_differ(&after.ports) {
        found.ports(ports, &after.ports)
    } else {
        found.field("ports", ports, &after.ports)
    }
    found.field("extensions", extensions, &after.extensions);
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
            let PortMap { label, guest, host, bind, protocol } = old;
            let Some(new) = after.iter().find(|new| same(old, new)) else {
                self.field(format_args!("ports.{label}"), &Some(old), &None);
                continue;
            };
            self.field(format_args!("ports.{label}.guest"), guest, &new.guest);
            self.field(format_args!("ports.{label}.host"), host, &new.host);
            self.field(format_args!("ports.{label}.bind"), bind, &new.bind);
            self.field(format_args!("ports.{label}.protocol"), protocol, &new.protocol);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Accelerator, Egress, Protocol};

    fn port(label: &str) -> PortMap {
        let (host, bind) = (None, [127, 0, 0, 1].into());
        PortMap { label: label.into(), guest: 80, host, bind, protocol: Protocol::Tcp }
    }

    fn before() -> Launch {
        Launch {
            accelerator: Accelerator::Tcg,
            ports: vec![port("a"), port("b")],
            resources: Resources { cpus: 2, memory_mib: 512 },
            egress: Egress::Isolated,
            warnings: vec!["one".into()],
            extensions: vec![],
        }
    }

    /// A change of a launch, and the fields that differ by it.
    type Row = (fn(&mut Launch), &'static [&'static str]);

    #[test]
    fn each_field_that_differs_is_named() {
        let rows: [Row; 15] = [
            (|_| {}, &[]),
            (|launch| launch.accelerator = Accelerator::Kvm, &["accelerator"]),
            (|launch| launch.resources.cpus = 3, &["resources.cpus"]),
            (|launch| launch.resources.memory_mib = 1, &["resources.memory_mib"]),
            (|launch| launch.egress = Egress::Internet, &["egress"]),
            (|launch| launch.warnings.push("two".into()), &["warnings.1"]),
            (|launch| launch.warnings.clear(), &["warnings.0"]),
            (|launch| launch.extensions.push(("k".into(), "v".into())), &["extensions"]),
            (|launch| launch.ports[0].guest = 81, &["ports.a.guest"]),
            (|launch| launch.ports[1].host = Some(1), &["ports.b.host"]),
            (|launch| launch.ports[1].bind = [0; 4].into(), &["ports.b.bind"]),
            (|launch| launch.ports[0].protocol = Protocol::Udp, &["ports.a.protocol"]),
            (|launch| drop(launch.ports.remove(0)), &["ports.a"]),
            (|launch| launch.ports.push(port("c")), &["ports.c"]),
            // By its label a port is not told from another of the same.
            (|launch| launch.ports.push(port("a")), &["ports"]),
        ];
        for (number, (change, fields)) in rows.into_iter().enumerate() {
            let mut after = before();
            change(&mut after);
            let found: Vec<_> =
                before().changes_to(&after).into_iter().map(|one| one.field).collect();
            assert_eq!(found, fields, "row {number}");
        }
    }
}
