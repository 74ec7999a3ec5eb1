//! Makes a service's texts safe to show to a person.

use serde_json::Value;

use qhost_model::printable::{line, lines};

/// Texts that may have several lines: what is wrong with a job, and what QEMU said.
const OF_LINES: [&str; 2] = ["detail", "message"];

/// Escapes what would steer a terminal in each text of an object.
pub(super) fn printable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(line(&text, usize::MAX).to_string()),
        Value::Array(items) => items.into_iter().map(printable).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| {
                let text = value.as_str().filter(|_| OF_LINES.contains(&name.as_str()));
                let text = text.map(|text| Value::String(lines(text, usize::MAX).to_string()));
                let value = text.unwrap_or_else(|| printable(value));
                (line(&name, usize::MAX).to_string(), value)
            })
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}
