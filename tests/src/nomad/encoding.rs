//! Configurations as an agent encodes them: msgpack, as go-cty writes it.

use rmpv::Value as Packed;
use serde_json::Value;

use qhost_nomad::proto::hclspec::{Spec, spec::Block};

/// A configuration as an agent encodes it: each attribute of the schema, nil where it was not given. Panics where an agent would refuse it.
pub fn packed(schema: &Spec, config: &Value) -> Vec<u8> {
    let Some(Block::Object(object)) = &schema.block else { panic!("{schema:?}") };
    let given = config.as_object().expect("an object");
    for key in given.keys() {
        assert!(object.attributes.contains_key(key), "unsupported argument {key}");
    }
    let mut names: Vec<_> = object.attributes.keys().collect();
    names.sort();
    let attribute = |name: &String| {
        let kind_of_it = match &object.attributes[name].block {
            Some(Block::Attr(attr)) => attr.r#type.as_str(),
            // Of a block there is a map.
            Some(Block::BlockAttrs(_)) => "map",
            other => panic!("{name}: {other:?}"),
        };
        let value = given.get(name).filter(|value| !value.is_null());
        let value = match value {
            None => Packed::Nil,
            Some(value) if kind_of_it == "any" => Packed::Array(vec![
                Packed::Binary(kind(value).to_string().into_bytes()),
                pack(value),
            ]),
            Some(value) => pack(value),
        };
        (name.as_str().into(), value)
    };
    let value = Packed::Map(names.into_iter().map(attribute).collect());
    let mut bytes = vec![];
    rmpv::encode::write_value(&mut bytes, &value).expect("a vector takes all");
    bytes
}

fn pack(value: &Value) -> Packed {
    match value {
        Value::Null => Packed::Nil,
        Value::Bool(yes) => Packed::Boolean(*yes),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Packed::from(whole),
            None => Packed::F64(number.as_f64().expect("a number")),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Packed::Array(items.iter().map(pack).collect()),
        Value::Object(pairs) => Packed::Map(
            pairs.iter().map(|(key, value)| (key.as_str().into(), pack(value))).collect(),
        ),
    }
}

/// The type of a value, as go-cty writes it.
fn kind(value: &Value) -> Value {
    match value {
        Value::Null => "dynamic".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(items) => {
            serde_json::json!(["tuple", items.iter().map(kind).collect::<Vec<_>>()])
        }
        Value::Object(pairs) => {
            let kinds: serde_json::Map<_, _> =
                pairs.iter().map(|(key, value)| (key.clone(), kind(value))).collect();
            serde_json::json!(["object", kinds])
        }
    }
}
