//! What differs between two launches, field by field.

use serde::Serialize;
use serde_json::Value;

use super::Launch;
use crate::{limits, printable};

/// One field that a policy changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The field, as a path into the launch: `ports.0.host`.
    pub field: String,
    /// Its value before; null where there was none.
    pub from: Value,
    /// Its value after; null where there is none.
    pub to: Value,
}

/// Compares two launches. A list that grew or shrank shows the items gained or lost.
pub(super) fn between(before: &Launch, after: &Launch) -> Vec<Change> {
    let mut changes = vec![];
    // A launch is plain data; where it could not be written as JSON, Null on both sides shows no change.
    let value = |launch| serde_json::to_value(launch).unwrap_or_default();
    compare(String::new(), &value(before), &value(after), &mut changes);
    if before.extensions != after.extensions {
        let value = |launch: &Launch| serde_json::to_value(&launch.extensions).unwrap_or_default();
        changes.push(Change { field: "extensions".into(), from: value(before), to: value(after) });
    }
    changes
}

fn compare(field: String, before: &Value, after: &Value, changes: &mut Vec<Change>) {
    let step = |key: &str| if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, old) in old {
                compare(step(key), old, new.get(key).unwrap_or(&Value::Null), changes);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for index in 0..old.len().max(new.len()) {
                let at = |items: &[Value]| items.get(index).cloned().unwrap_or_default();
                compare(step(&index.to_string()), &at(old), &at(new), changes);
            }
        }
        (old, new) if old != new => {
            changes.push(Change { field, from: old.clone(), to: new.clone() });
        }
        (_, _) => {}
    }
}

/// Changes in one line: `resources.cpus from 1 to 2, ports.0.host from null to 80`.
pub(super) fn listed(changes: &[Change]) -> String {
    let show = |value: &Value| printable::line(&value.to_string(), limits::SHOWN_CHARS).to_string();
    let one = |change: &Change| {
        format!("{} from {} to {}", change.field, show(&change.from), show(&change.to))
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}
