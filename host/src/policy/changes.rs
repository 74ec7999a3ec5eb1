//! What differs between two launches, field by field, and which policies wrote one field differently.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Launch, PolicyRecord, PortMap};
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

/// A field that several policies wrote, and not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The field.
    pub field: String,
    /// Who wrote it, in order; the last one's value held.
    pub writers: Vec<Writer>,
}

/// A policy that wrote a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Its name.
    pub policy: String,
    /// What it wrote.
    pub to: Value,
}

/// Compares two launches. A list that grew or shrank shows the items gained or lost.
pub(super) fn between(before: &Launch, after: &Launch) -> Vec<Change> {
    // Most policies change nothing, and comparing is cheaper than looking for what differs.
    if before == after {
        return vec![];
    }
    let mut changes = vec![];
    compare(String::new(), &fields(before), &fields(after), &mut changes);
    match (by_label(&before.ports), by_label(&after.ports)) {
        (Some(old), Some(new)) => compare("ports".into(), &old, &new, &mut changes),
        (_, _) => push("ports".into(), &json(&before.ports), &json(&after.ports), &mut changes),
    }
    push("extensions".into(), &json(&before.extensions), &json(&after.extensions), &mut changes);
    changes
}

/// A launch as JSON, but for its ports and extensions.
fn fields(launch: &Launch) -> Value {
    let mut fields = json(launch);
    if let Value::Object(fields) = &mut fields {
        fields.shift_remove("extensions");
        fields.shift_remove("ports");
    }
    fields
}

/// Ports by label, where each label is there once.
fn by_label(ports: &[PortMap]) -> Option<Value> {
    let twice = |(index, port): (usize, &PortMap)| {
        ports.iter().take(index).any(|earlier| earlier.label == port.label)
    };
    if ports.iter().enumerate().any(twice) {
        return None;
    }
    Some(Value::Object(ports.iter().map(|port| (port.label.clone(), json(port))).collect()))
}

/// A launch and its parts are plain data; what could not be written as JSON would be null on both sides.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn compare(field: String, before: &Value, after: &Value, changes: &mut Vec<Change>) {
    let step = |key: &str| if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, old) in old {
                compare(step(key), old, new.get(key).unwrap_or(&Value::Null), changes);
            }
            for (key, new) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                push(step(key), &Value::Null, new, changes);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for index in 0..old.len().max(new.len()) {
                let at = |items: &[Value]| items.get(index).cloned().unwrap_or_default();
                compare(step(&index.to_string()), &at(old), &at(new), changes);
            }
        }
        (old, new) => push(field, old, new, changes),
    }
}

fn push(field: String, from: &Value, to: &Value, changes: &mut Vec<Change>) {
    if from != to {
        changes.push(Change { field, from: from.clone(), to: to.clone() });
    }
}

/// The fields that several of these policies wrote, and not the same.
pub(super) fn conflicts<'a>(records: impl Iterator<Item = &'a PolicyRecord>) -> Vec<Conflict> {
    let mut written: Vec<Conflict> = vec![];
    for record in records {
        for Change { field, from: _, to } in &record.changes {
            let writer = Writer { policy: record.name.clone(), to: to.clone() };
            match written.iter_mut().find(|one| one.field == *field) {
                Some(one) => one.writers.push(writer),
                None => written.push(Conflict { field: field.clone(), writers: vec![writer] }),
            }
        }
    }
    written.retain(|one| one.writers.windows(2).any(|pair| matches!(pair, [a, b] if a.to != b.to)));
    written
}

/// Changes in one line: `resources.cpus from 1 to 2, ports.http.host from null to 80`.
pub(super) fn listed(changes: &[Change]) -> String {
    let one = |change: &Change| {
        format!("{} from {} to {}", change.field, shown(&change.from), shown(&change.to))
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A value in an error, escaped and cut.
pub(super) fn shown(value: &Value) -> String {
    printable::line(&value.to_string(), limits::SHOWN_CHARS).to_string()
}
