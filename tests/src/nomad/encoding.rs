//! Configurations as an agent encodes them: msgpack, as go-cty writes it.

use rmpv::Value as Packed;
use serde_json::Value;

use qhost_nomad::proto::hclspec::{Spec, spec::Block};

/// Encodes a configuration as an agent does: each attribute of the schema, nil where it was not given. Panics where an agent would refuse
/// it.
pub fn packed(schema: &Spec, config: &Value) -> Vec<u8> {
    let mut bytes = vec![];
    rmpv::encode::write_value(&mut bytes, &object(schema, config)).expect("a vector takes all");
    bytes
}

fn object(schema: &Spec, config: &Value) -> Packed {
    let Some(Block::Object(object)) = &schema.block else { panic!("{schema:?}") };
    let given = config.as_object().expect("an object");
    for key in given.keys() {
        assert!(object.attributes.contains_key(key), "unsupported argument {key}");
    }
    let mut names: Vec<_> = object.attributes.keys().collect();
    names.sort();
    let attribute = |name: &String| {
        let value = given.get(name).filter(|value| !value.is_null()).cloned();
        (name.as_str().into(), attribute(&object.attributes[name], value))
    };
    Packed::Map(names.into_iter().map(attribute).collect())
}

fn attribute(schema: &Spec, value: Option<Value>) -> Packed {
    match (&schema.block, value) {
        (Some(Block::Default(default)), value) => {
            let otherwise = || match default.default.as_ref()?.block.as_ref()? {
                Block::Literal(literal) => {
                    hcl::from_str::<Value>(&format!("value = {}", literal.value))
                        .expect("an expression")
                        .get("value")
                        .cloned()
                }
                other => panic!("{other:?}"),
            };
            attribute(default.primary.as_ref().expect("what it is for"), value.or_else(otherwise))
        }
        (_, None) => Packed::Nil,
        (Some(Block::BlockValue(block)), Some(value)) => {
            object(block.nested.as_ref().expect("what is in it"), &value)
        }
        (Some(Block::Attr(attr)), Some(value)) if attr.r#type == "any" => {
            Packed::Array(vec![Packed::Binary(kind(&value).to_string().into_bytes()), pack(&value)])
        }
        // A block of any attributes is a map.
        (Some(Block::Attr(_) | Block::BlockAttrs(_)), Some(value)) => pack(&value),
        (other, _) => panic!("{other:?}"),
    }
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
