//! The JSON Schema of both forms of job file: the keys that every job has, and the keys of each field of a launch.

use serde_json::{Map, Value};

use crate::launch;

/// The schema of the keys that ask for no field of a launch.
const BASE: &str = include_str!("schema.json");

/// The JSON Schema of both forms.
pub fn schema() -> Value {
    // The text is part of the program, and a test reads it, so that it cannot fail here.
    let mut schema: Value = serde_json::from_str(BASE).unwrap_or_default();
    for key in launch::keys() {
        let Some(Value::Object(block)) = schema.pointer_mut(key.place.pointer()) else { continue };
        if let Some(keys) =
            block.entry("properties").or_insert_with(|| Map::new().into()).as_object_mut()
        {
            keys.insert(key.name.into(), (key.schema)());
        }
        if key.required
            && let Some(names) =
                block.entry("required").or_insert_with(|| Value::Array(vec![])).as_array_mut()
        {
            names.push(key.name.into());
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_place() {
        let schema = schema();
        for key in launch::keys() {
            let place = format!("{}/properties/{}", key.place.pointer(), key.name);
            assert_eq!(schema.pointer(&place), Some(&(key.schema)()), "{place}");
        }
    }
}
