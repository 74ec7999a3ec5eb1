//! Parses JSON into a value and notes keys that occur twice in one object, since the tenant's tools and qhost could read such an object
//! differently.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{
    cursor::child,
    error::{Problem, Problems},
};

/// How a float that is a whole number is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Floats {
    /// The float is read as an integer, since a Nomad agent writes integers as floats.
    Whole,
    AsTheyAre,
}

/// Parses a value, with a problem for each key that an object has twice.
pub(super) fn parse(bytes: &[u8], floats: Floats) -> Result<(Value, Problems), serde_json::Error> {
    let place = Place { floats, path: RefCell::new(vec![]), duplicates: Problems::default() };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&place).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, place.duplicates))
}

/// Parses a text in which no object has a key twice. The error says what was found instead, and where.
///
/// # Errors
/// The text is not JSON, or an object has a key twice.
pub fn with_unique_keys(bytes: &[u8]) -> Result<Value, String> {
    let (value, twice) =
        parse(bytes, Floats::AsTheyAre).map_err(|error| format!("not JSON: {error}"))?;
    match twice.into_vec().first() {
        Some(Problem { pointer, found, .. }) => Err(format!("{pointer}: {found}")),
        None => Ok(value),
    }
}

/// The whole number that a float stands for: a Nomad agent writes each number of `Config` as a float, 8080 as `8080.0`. From 2^53 on, a
/// float stands for several whole numbers.
fn whole(value: f64) -> Option<i64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    let is_whole = value.fract() == 0.0 && value.abs() < EXACT;
    is_whole.then_some(value as i64)
}

/// The parser's place in the text. The pointer is built only for a fault, since most values have none.
struct Place {
    floats: Floats,
    path: RefCell<Vec<String>>,
    duplicates: Problems,
}

impl Place {
    fn within<R>(&self, key: String, read: impl FnOnce() -> R) -> R {
        self.path.borrow_mut().push(key);
        let read = read();
        self.path.borrow_mut().pop();
        read
    }

    fn note_duplicate(&self, key: &str) {
        let path = self.path.borrow();
        let parent = path.iter().fold(String::new(), |pointer, key| child(&pointer, key));
        self.duplicates.push(Problem::new(
            child(&parent, key),
            "the same key twice",
            "each key once in an object",
        ));
    }
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a Place);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        if let Some(whole) = whole(value).filter(|_| self.0.floats == Floats::Whole) {
            return Ok(whole.into());
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        loop {
            let index = array.len().to_string();
            match self.0.within(index, || items.next_element_seed(self))? {
                Some(item) => array.push(item),
                None => return Ok(array.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = self.0.within(key.clone(), || entries.next_value_seed(self))?;
            if object.contains_key(&key) {
                self.0.note_duplicate(&key);
            }
            object.insert(key, value);
        }
        Ok(object.into())
    }
}
