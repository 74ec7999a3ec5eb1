//! The operator's tables, which policies look things up in: JSON objects, known by their digests. A sandbox gets only the values that
//! its policy asks for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use qhost_model::digest::Sha256;

/// A table, whose keys have any JSON as values.
#[derive(Debug)]
pub struct Table {
    sha256: Sha256,
    entries: HashMap<String, Box<str>>,
}

impl Table {
    /// Reads a table from a JSON object.
    ///
    /// # Errors
    /// The JSON cannot be read; the error says what is wrong, with line and column.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let read: HashMap<String, serde_json::Value> =
            serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let text = |(key, value): (String, serde_json::Value)| (key, value.to_string().into());
        Ok(Self { sha256: Sha256::of(json), entries: read.into_iter().map(text).collect() })
    }

    /// The digest of the table's file, by which a decision's record names the table.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// A key's value as JSON text.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|value| &**value)
    }

    /// How many keys the table has.
    pub fn size(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }
}

/// Tables by the names that the operator gave them.
pub type Tables = BTreeMap<String, Arc<Table>>;

/// Finds a table by its name; gives nothing where no table has the name, and an error where the table cannot be read.
pub type FindTable = dyn Fn(&str) -> Result<Option<Arc<Table>>, String> + Send + Sync;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_any_json_by_key() {
        let table = Table::read(br#"{"a": {"b": [1, 2]}, "c": null}"#).unwrap();
        assert_eq!((table.get("a"), table.get("c")), (Some(r#"{"b":[1,2]}"#), Some("null")));
        assert_eq!((table.get("b"), table.size()), (None, 2));
        for wrong in ["[]", "{", "{\"a\": 1,}", "3"] {
            assert!(Table::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
