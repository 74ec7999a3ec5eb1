//! Lists the parts of a job that are ignored. A run names them once, so that nothing is passed over in silence; values that Nomad's
//! agent adds to every job by itself are left out.

use std::cell::RefCell;

use serde_json::{Value, json};

use super::{
    super::cursor::{Cursor, Object, asks_nothing},
    keys::{Keys, Treatment},
};
use crate::limits;

/// The values that an agent writes where none was given, as far as they are neither empty nor zero.
const DEFAULTS: &str = include_str!("defaults.json");

/// The ignored places, as JSON pointers.
pub(super) struct Ignored {
    defaults: Value,
    places: RefCell<Vec<String>>,
}

impl Ignored {
    pub(super) fn new() -> Self {
        // The text is part of the program, and a test reads it, so that it cannot fail here.
        let defaults = serde_json::from_str(DEFAULTS).unwrap_or_default();
        Self { defaults, places: RefCell::default() }
    }

    /// Notes that this value is ignored.
    pub(super) fn note(&self, cursor: &Cursor<'_>) {
        let mut places = self.places.borrow_mut();
        if places.len() < limits::NOMAD_ITEMS {
            places.push(cursor.pointer().to_owned());
        }
    }

    /// Notes the keys of an object that only Nomad acts on and that ask for something.
    pub(super) fn keys(&self, object: &Object<'_>, keys: &Keys) {
        for key in keys.which(|what| what == Treatment::Ignored) {
            let Some(cursor) = object.optional(key) else { continue };
            if !self.is_default(key, cursor.value()) {
                self.note(&cursor);
            }
        }
    }

    fn is_default(&self, key: &str, value: &Value) -> bool {
        let default = match key {
            // Two types of jobs have different defaults, and either one is accepted.
            "ReschedulePolicy" => return is_default_reschedule(value),
            "Interval" => {
                return [json!(1_800_000_000_000_i64), json!(86_400_000_000_000_i64)]
                    .contains(value);
            }
            key => self.defaults.get(key).unwrap_or(&Value::Null),
        };
        is_like(value, default)
    }

    pub(super) fn into_vec(self) -> Vec<String> {
        self.places.into_inner()
    }
}

fn is_default_reschedule(value: &Value) -> bool {
    let service = json!({"Delay": 30_000_000_000_i64, "DelayFunction": "exponential",
        "MaxDelay": 3_600_000_000_000_i64, "Unlimited": true});
    let batch = json!({"Attempts": 1, "Interval": 86_400_000_000_000_i64, "Delay": 5_000_000_000_i64,
        "DelayFunction": "constant"});
    is_like(value, &service) || is_like(value, &batch)
}

/// Whether a value asks for no more than a default: each part of it equals the default's, or is empty.
fn is_like(value: &Value, default: &Value) -> bool {
    if asks_nothing(value) || value == default {
        return true;
    }
    let (Some(map), Some(defaults)) = (value.as_object(), default.as_object()) else {
        return false;
    };
    map.iter().all(|(key, part)| is_like(part, defaults.get(key).unwrap_or(&Value::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_read() {
        assert_eq!(Ignored::new().defaults["Priority"], 50);
    }
}
