//! What a case expects.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a case expects; what it leaves out is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What the policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Said>,
    /// Its reasons to refuse, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violations: Option<Vec<Reason>>,
    /// What its `choose` changes, in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Write>>,
    /// Words of the error, where it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A policy's word on a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// It allows the task.
    Allowed,
    /// It refuses it.
    Denied,
    /// It fails, or refuses its settings.
    Failed,
}

/// A violation, by what programs go by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Its code.
    pub code: String,
    /// Its field.
    pub field: String,
}

/// A field of the launch and what was written there.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The field.
    pub field: String,
    /// Its value; absent where the field is gone.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub to: Value,
}
