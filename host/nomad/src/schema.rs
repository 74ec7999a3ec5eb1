//! The schemas of the plugin's configuration and of a task's, so that Nomad itself refuses other keys and types. A task's keys are those of
//! a job's `config` block, by their JSON Schema.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::proto::hclspec::{self as proto, Attr, Default, Literal, Object, Spec, spec::Block};

/// A key of a task's `config` block.
#[derive(Debug)]
pub(crate) struct TaskKey {
    pub(crate) name: String,
    types: BTreeSet<String>,
    holds_texts: bool,
    /// The value that stands for an absent key, where that is the same for every task.
    default: Option<Value>,
}

impl TaskKey {
    /// All keys of the block.
    pub(crate) fn all() -> Vec<Self> {
        let schema = qhost_model::job::schema();
        let keys = schema.pointer("/$defs/config/properties").and_then(Value::as_object);
        let keys = keys.into_iter().flat_map(Map::iter);
        keys.map(|(name, key)| {
            let (mut types, mut holds_texts) = (BTreeSet::new(), false);
            note(key, &schema, &mut types, &mut holds_texts);
            Self { name: name.clone(), types, holds_texts, default: key.get("default").cloned() }
        })
        .collect()
    }

    /// The key's type in HCL, which is `any` for a key that takes several types, or an object.
    fn of_hcl(&self) -> &'static str {
        let types: Vec<_> = self.types.iter().map(String::as_str).collect();
        match types.as_slice() {
            ["string"] => "string",
            ["boolean"] => "bool",
            ["integer" | "number"] => "number",
            ["array"] if self.holds_texts => "list(string)",
            _ => "any",
        }
    }

    /// Turns each list of one object, as a block of HCL arrives, into that object.
    pub(crate) fn unwrapped(mut config: Map<String, Value>) -> Map<String, Value> {
        for key in Self::all().iter().filter(|key| key.is_object()) {
            if let Some(value) = config.get_mut(&key.name)
                && let Value::Array(items) = value
                && let [Value::Object(_)] = items.as_slice()
                && let Some(block) = items.pop()
            {
                *value = block;
            }
        }
        config
    }

    /// Whether a block of HCL stands for an object under this key.
    fn is_object(&self) -> bool {
        self.types.contains("object") && !self.types.contains("array") && self.name != "port_map"
    }
}

/// Collects the types of a schema's values. null is left out, since every key may be left out here.
fn note(schema: &Value, root: &Value, types: &mut BTreeSet<String>, holds_texts: &mut bool) {
    if let Some(target) = schema.get("$ref").and_then(Value::as_str)
        && let Some(target) = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer))
    {
        note(target, root, types, holds_texts);
    }
    for alternatives in ["anyOf", "oneOf"] {
        for one in schema.get(alternatives).and_then(Value::as_array).into_iter().flatten() {
            note(one, root, types, holds_texts);
        }
    }
    let named = match schema.get("type") {
        Some(Value::String(name)) => vec![name.as_str()],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    let words = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let words = words.chain(schema.get("const")).filter_map(|value| match value {
        Value::String(_) => Some("string"),
        Value::Bool(_) => Some("boolean"),
        Value::Number(_) => Some("number"),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    });
    types.extend(named.into_iter().chain(words).filter(|name| *name != "null").map(Into::into));
    if let Some(items) = schema.get("items") {
        let mut of_items = BTreeSet::new();
        note(items, root, &mut of_items, &mut false);
        *holds_texts = of_items.iter().eq(["string"]);
    }
}

/// The schema of a task's `config` block, in which the operator's defaults come before qhost's own.
pub(crate) fn of_task(defaults: &Map<String, Value>) -> Spec {
    let known = TaskKey::all();
    let attributes = known.iter().map(|key| {
        let default = defaults.get(&key.name).or(key.default.as_ref());
        defaulting(attribute(&key.name, key.of_hcl()), default)
    });
    object(attributes.chain(of_other_drivers()))
}

/// The keys of Nomad's own drivers that qhost does not have. Without these, an agent would refuse them without saying what to use instead.
fn of_other_drivers() -> impl Iterator<Item = (String, Spec)> {
    qhost_model::job::HINTS.iter().map(|(name, _)| attribute(name, "any"))
}

/// An optional attribute of an object.
pub(crate) fn attribute(name: &str, kind: &str) -> (String, Spec) {
    let attr = Attr { name: name.to_owned(), r#type: kind.to_owned(), required: false };
    (name.to_owned(), Spec { block: Some(Block::Attr(attr)) })
}

/// Gives an attribute a default for where it is left out.
pub(crate) fn defaulting(
    (name, primary): (String, Spec),
    default: Option<&Value>,
) -> (String, Spec) {
    let Some(default) = default else { return (name, primary) };
    let literal = Literal { value: literal(default) };
    let literal = Spec { block: Some(Block::Literal(literal)) };
    let (primary, default) = (Some(Box::new(primary)), Some(Box::new(literal)));
    (name, Spec { block: Some(Block::Default(Box::new(Default { primary, default }))) })
}

/// A value as an expression of HCL. JSON is such an expression, once the beginnings of templates are escaped.
fn literal(value: &Value) -> String {
    value.to_string().replace("${", "$${").replace("%{", "%%{")
}

/// A block that may be left out.
pub(crate) fn block(name: &str, nested: Spec) -> (String, Spec) {
    let block = proto::Block { name: name.into(), required: false, nested: Some(Box::new(nested)) };
    (name.to_owned(), Spec { block: Some(Block::BlockValue(Box::new(block))) })
}

/// The schema of an object.
pub(crate) fn object(parts: impl Iterator<Item = (String, Spec)>) -> Spec {
    Spec { block: Some(Block::Object(Object { attributes: parts.collect() })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_of_a_job_has_a_type() {
        let keys = TaskKey::all();
        let kind = |name: &str| keys.iter().find(|key| key.name == name).unwrap().of_hcl();
        for (name, expected) in [
            ("image_source", "any"),
            ("checksum", "string"),
            ("accelerator", "string"),
            ("guest_agent", "any"),
            ("display", "bool"),
            ("disk_bytes", "number"),
            ("args", "list(string)"),
            ("cmds", "list(string)"),
            ("port_map", "any"),
            ("disks", "any"),
            ("cloud_init", "any"),
            ("machine_type", "string"),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
        let blocks: Vec<_> =
            keys.iter().filter(|key| key.is_object()).map(|key| key.name.as_str()).collect();
        let objects = ["restart", "ready", "disk_rate", "ignition", "cloud_init", "user_data"];
        assert_eq!(blocks, objects);
    }
}
