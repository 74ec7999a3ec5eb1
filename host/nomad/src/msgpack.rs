//! Reads the values that Nomad writes as msgpack, into JSON. An attribute of any type is an array of its type, as JSON in bytes, and its
//! value. Source: github.com/zclconf/go-cty, cty/msgpack.

use rmpv::Value as Packed;
use serde_json::{Map, Number, Value};

use crate::limits;

/// Why a configuration's bytes cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MsgpackError {
    #[error("it has {0} bytes; at most {most} are read", most = limits::CONFIG_BYTES)]
    TooLong(usize),
    #[error("it is no msgpack: {0}")]
    Malformed(String),
    #[error("its first value has {0} bytes behind it")]
    Trailing(usize),
    #[error("{place}: {found}, which JSON has no value for")]
    Untranslatable { place: String, found: &'static str },
}

/// Reads the value of a configuration. No bytes at all are an empty object.
pub(crate) fn read(bytes: &[u8]) -> Result<Value, MsgpackError> {
    if bytes.len() > limits::CONFIG_BYTES {
        return Err(MsgpackError::TooLong(bytes.len()));
    }
    if bytes.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let mut rest = bytes;
    let packed = rmpv::decode::read_value_with_max_depth(&mut rest, limits::CONFIG_DEPTH)
        .map_err(|error| MsgpackError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(MsgpackError::Trailing(rest.len()));
    }
    value(packed, "")
}

fn value(packed: Packed, place: &str) -> Result<Value, MsgpackError> {
    let untranslatable =
        |found| Err(MsgpackError::Untranslatable { place: place.to_owned(), found });
    match packed {
        Packed::Nil => Ok(Value::Null),
        Packed::Boolean(yes) => Ok(yes.into()),
        Packed::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Ok(number.into()),
            (None, Some(number)) => Ok(number.into()),
            (None, None) => untranslatable("a number beyond 64 bits"),
        },
        Packed::F32(number) => float(number.into(), place),
        Packed::F64(number) => float(number, place),
        Packed::String(text) => match text.into_str() {
            Some(text) => Ok(text.into()),
            None => untranslatable("a text that is not UTF-8"),
        },
        Packed::Array(mut items) => {
            if let [Packed::Binary(_), _] = items.as_slice()
                && let Some(typed) = items.pop()
            {
                return value(typed, place);
            }
            let items = items.into_iter().enumerate();
            let items = items.map(|(at, item)| value(item, &format!("{place}/{at}")));
            Ok(Value::Array(items.collect::<Result<_, _>>()?))
        }
        Packed::Map(pairs) => {
            let mut object = Map::new();
            for (key, item) in pairs {
                let Some(key) = key.as_str() else {
                    return untranslatable("a key that is no text");
                };
                let place = format!("{place}/{key}");
                if object.insert(key.to_owned(), value(item, &place)?).is_some() {
                    return Err(MsgpackError::Untranslatable { place, found: "a second value" });
                }
            }
            Ok(Value::Object(object))
        }
        Packed::Binary(_) => untranslatable("bytes"),
        Packed::Ext(..) => untranslatable("an unknown value"),
    }
}

/// Reads a float. An agent writes the numbers that it reads from JSON as floats, also whole ones, which the reader of jobs turns back.
fn float(number: f64, place: &str) -> Result<Value, MsgpackError> {
    match Number::from_f64(number) {
        Some(number) => Ok(Value::Number(number)),
        None => {
            let found = "a number that is not finite";
            Err(MsgpackError::Untranslatable { place: place.to_owned(), found })
        }
    }
}

/// Drops the nulls that an agent writes for attributes that were not given.
pub(crate) fn without_nulls(mut object: Map<String, Value>) -> Map<String, Value> {
    object.retain(|_, value| !value.is_null());
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn packed(value: &Packed) -> Vec<u8> {
        let mut bytes = vec![];
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        bytes
    }

    fn map(pairs: Vec<(&str, Packed)>) -> Packed {
        Packed::Map(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    #[test]
    fn what_an_agent_sends() {
        // The bytes are a running agent's, for a configuration with a number, a list, and an attribute that was not given.
        let sent = b"\x83\xa7enabled\xc3\xa5limit\xcd\x01\x2c\xaapolicy_dir\xc0";
        let read = read(sent).unwrap();
        assert_eq!(read, json!({"enabled": true, "limit": 300, "policy_dir": null}));
        let Value::Object(object) = read else { panic!("{read}") };
        assert_eq!(without_nulls(object).len(), 2);
        assert_eq!(super::read(b"").unwrap(), json!({}));
    }

    #[test]
    fn an_attribute_of_any_type_comes_with_its_type() {
        let kind = Packed::Binary(br#"["object",{"http":"number"}]"#.to_vec());
        let ports = Packed::Array(vec![map(vec![("http", Packed::from(80))])]);
        let sent = map(vec![("port_map", Packed::Array(vec![kind, ports]))]);
        assert_eq!(read(&packed(&sent)).unwrap(), json!({"port_map": [{"http": 80}]}));
    }

    #[test]
    fn what_json_has_no_value_for_is_refused_by_its_place() {
        for (value, found) in [
            (Packed::Binary(vec![1]), "/a: bytes"),
            (Packed::Ext(1, vec![]), "/a: an unknown value"),
            (Packed::F64(f64::NAN), "/a: a number that is not finite"),
            (Packed::Map(vec![(Packed::Nil, Packed::Nil)]), "/a: a key that is no text"),
            (Packed::Array(vec![Packed::Nil, Packed::Binary(vec![])]), "/a/1: bytes"),
        ] {
            let error = read(&packed(&map(vec![("a", value)]))).unwrap_err().to_string();
            assert!(error.starts_with(found), "{error}");
        }
        let twice = Packed::Map(vec![("a".into(), Packed::Nil), ("a".into(), Packed::Nil)]);
        assert!(read(&packed(&twice)).unwrap_err().to_string().starts_with("/a: a second value"));
    }

    #[test]
    fn malformed_bytes_are_refused() {
        let mut deep = vec![0x91; limits::CONFIG_DEPTH + 1];
        deep.push(0xc0);
        for bytes in [&b"\x92\x01"[..], b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", &deep] {
            assert!(matches!(read(bytes), Err(MsgpackError::Malformed(_))), "{bytes:?}");
        }
        assert_eq!(read(b"\x01\x02"), Err(MsgpackError::Trailing(1)));
        assert!(matches!(read(&vec![0; limits::CONFIG_BYTES + 1]), Err(MsgpackError::TooLong(_))));
    }
}
