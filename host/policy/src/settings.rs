//! A policy's settings, and a line that describes them by the policy's schema.

use serde_json::Value;

use qhost_model::{job::json, printable};

use crate::limits;

/// Checks settings as a policy gets them: the text of one JSON object, in which no key is given twice. The error says what
/// was found instead.
pub fn settings(text: &str) -> Result<String, String> {
    if text.len() as u64 > limits::POLICY_SETTINGS_BYTES {
        return Err(format!("more than {} bytes", limits::POLICY_SETTINGS_BYTES));
    }
    let settings = json::with_unique_keys(text.as_bytes())?;
    if settings.is_object() {
        Ok(settings.to_string())
    } else {
        Err("expected a JSON object".into())
    }
}

/// Lists the settings that a schema describes, with their types and ranges, such as `teams (array, required), memory_mib
/// (integer, 16 to 4194304)`; gives nothing where the schema describes none.
pub(super) fn described(schema: &Value) -> Option<String> {
    let properties = schema.get("properties")?.as_object()?;
    let required = schema.get("required").and_then(Value::as_array);
    let is_required =
        |name: &String| required.is_some_and(|all| all.contains(&name.as_str().into()));
    let one = |(name, property): (&String, &Value)| {
        let mut words = vec![];
        words.extend(property.get("type").and_then(Value::as_str).map(str::to_owned));
        words.extend(range(property));
        words.extend(is_required(name).then(|| "required".to_owned()));
        if words.is_empty() { name.clone() } else { format!("{name} ({})", words.join(", ")) }
    };
    let all: Vec<_> = properties.iter().take(limits::DESCRIBED_SETTINGS).map(one).collect();
    let all = printable::line(&all.join(", "), limits::POLICY_TEXT_BYTES).to_string();
    (!all.is_empty()).then_some(all)
}

fn range(property: &Value) -> Option<String> {
    let bound = |key| property.get(key).filter(|bound| bound.is_number());
    if let Some(Value::Array(values)) = property.get("enum") {
        let values: Vec<_> = values.iter().map(Value::to_string).collect();
        return Some(values.join(" or "));
    }
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}")),
        (Some(least), None) => Some(format!("{least} or more")),
        (None, Some(most)) => Some(format!("{most} or less")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_settings_are() {
        assert_eq!(settings(r#" {"a": 1, "b": {"c": "d"}} "#).unwrap(), r#"{"a":1,"b":{"c":"d"}}"#);
        assert_eq!(settings(r#"{"a": 1.0}"#).unwrap(), r#"{"a":1.0}"#);
        for (text, says) in [
            ("", "not JSON: EOF"),
            ("[]", "expected a JSON object"),
            (r#"{"a": 1, "a": 2}"#, "/a: the same key twice"),
            (r#"{"a": {"b": [{"c": 1, "c": 1}]}}"#, "/a/b/0/c: the same key twice"),
            ("{} {}", "not JSON: trailing characters"),
        ] {
            let refused = settings(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }

    #[test]
    fn what_a_schema_says_in_a_line() {
        let property = |text: &str| json!({ "properties": { "x": serde_json::from_str::<Value>(text).unwrap() } });
        for (schema, expected) in [
            (property("{}"), Some("x")),
            (
                property(r#"{"type": "integer", "minimum": 16, "maximum": 64}"#),
                Some("x (integer, 16 to 64)"),
            ),
            (property(r#"{"type": "integer", "minimum": 1}"#), Some("x (integer, 1 or more)")),
            (property(r#"{"maximum": 0.5}"#), Some("x (0.5 or less)")),
            (property(r#"{"enum": ["tcp", "udp"]}"#), Some(r#"x ("tcp" or "udp")"#)),
            (property(r#"{"type": ["string"], "minimum": "16"}"#), Some("x")),
            (
                json!({"properties": {"x": {"type": "array"}}, "required": ["x"]}),
                Some("x (array, required)"),
            ),
            (json!({"properties": {}}), None),
            (json!({"properties": []}), None),
            (json!("text that is no schema"), None),
        ] {
            assert_eq!(described(&schema).as_deref(), expected, "{schema}");
        }
        let many: serde_json::Map<_, _> =
            (0..100).map(|n| (format!("s{n}\u{1b}"), json!({}))).collect();
        let shown = described(&json!({ "properties": many })).unwrap();
        assert!(!shown.contains('\u{1b}') && shown.matches(',').count() < 20, "{shown}");
    }
}
