//! I/O limits of a disk.

use std::{fmt, num::NonZeroU32};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::job::cursor::Cursor;

/// I/O limits of a disk, on reads and writes together. An absent number is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The most operations per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<NonZeroU32>,
    /// The most KiB per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kib_per_s: Option<NonZeroU32>,
}

impl Rate {
    /// Whether there is no limit.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Whether these limits allow more of anything than others.
    pub fn is_wider_than(&self, other: &Self) -> bool {
        let wider = |this: Option<NonZeroU32>, other: Option<NonZeroU32>| match (this, other) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(this), Some(other)) => this > other,
        };
        wider(self.iops, other.iops) || wider(self.kib_per_s, other.kib_per_s)
    }

    /// The JSON Schema of a job's key.
    pub(crate) fn schema() -> Value {
        let number = json!({ "type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX });
        json!({
            "type": ["object", "null"],
            "additionalProperties": false,
            "properties": { "iops": number, "kib_per_s": number }
        })
    }

    /// Reads a job's key.
    pub(crate) fn read(cursor: Cursor<'_>) -> Option<Self> {
        let object = cursor.object(&["iops", "kib_per_s"])?;
        let number = |key: &str, what: &str| match object.optional(key) {
            Some(number) => number.number(1..=u32::MAX, what).map(NonZeroU32::new),
            None => Some(None),
        };
        let iops = number("iops", "operations per second");
        let kib_per_s = number("kib_per_s", "KiB per second");
        Some(Self { iops: iops?, kib_per_s: kib_per_s? })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.iops, self.kib_per_s) {
            (Some(iops), Some(kib)) => write!(f, "{iops} operations/s and {kib} KiB/s"),
            (Some(iops), None) => write!(f, "{iops} operations/s"),
            (None, Some(kib)) => write!(f, "{kib} KiB/s"),
            (None, None) => f.write_str("unlimited"),
        }
    }
}
