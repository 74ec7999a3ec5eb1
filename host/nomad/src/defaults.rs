//! The operator's defaults for keys of the `config` block that a task leaves out.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use qhost_model::job::{DEFAULT_TENANT, Problem, parse};

use crate::{msgpack, schema::TaskKey};

/// The keys with their default values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub(crate) struct Defaults(Map<String, Value>);

impl Defaults {
    pub(crate) fn keys(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Adds to a task's `config` block the defaults of the keys that it lacks.
    pub(crate) fn lay_under(&self, config: &mut Map<String, Value>) {
        for (key, value) in &self.0 {
            config.entry(key).or_insert_with(|| value.clone());
        }
    }
}

/// A default that cannot be used: the key, what was found, what was expected.
#[derive(Debug, thiserror::Error)]
#[error("defaults{key}: {found}; expected {expected}")]
pub(crate) struct DefaultsError {
    key: String,
    found: String,
    expected: String,
}

impl TryFrom<Map<String, Value>> for Defaults {
    type Error = DefaultsError;

    /// Reads the defaults as an agent sends them, and checks that a task with nothing but these can be read.
    fn try_from(given: Map<String, Value>) -> Result<Self, DefaultsError> {
        const CONFIG: &str = "/TaskGroups/0/Tasks/0/Config";
        let defaults = Self(TaskKey::unwrapped(msgpack::without_nulls(given)));
        let mut config = defaults.0.clone();
        for (key, of_some_image) in
            [("image_source", "https://example.com/".into()), ("checksum", "0".repeat(64))]
        {
            config.entry(key).or_insert_with(|| of_some_image.into());
        }
        let task = json!({ "Name": "task", "Driver": "qemu", "Config": config });
        let job = json!({ "ID": "job", "TaskGroups": [{ "Name": "group", "Tasks": [task] }] });
        let parsed = parse("defaults", job.to_string().as_bytes(), DEFAULT_TENANT, None);
        // Problems outside of `config` are not about the defaults.
        let of_config = |problem: &Problem| {
            let key = problem.pointer.strip_prefix(CONFIG)?.to_owned();
            let (found, expected) = (problem.found.clone(), problem.expected.clone());
            Some(DefaultsError { key, found, expected })
        };
        match parsed.err().and_then(|error| error.problems().iter().find_map(of_config)) {
            Some(error) => Err(error),
            None => Ok(defaults),
        }
    }
}
