//! The expectations of a case.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The expectations of a case; parts that are left out are not compared.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The policy's verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Said>,
    /// The policy's reasons to refuse, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violations: Option<Vec<Reason>>,
    /// The changes that the policy's `choose` makes, in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Write>>,
    /// A part of the error's text, if the policy fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A policy's verdict in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// The policy allows the task.
    Allowed,
    /// The policy refuses the task.
    Denied,
    /// The policy fails, or refuses its settings.
    Failed,
}

/// A violation, by the parts that programs compare.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// The violation's code.
    pub code: String,
    /// The violation's field.
    pub field: String,
}

/// A field of the launch and its new value.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The field.
    pub field: String,
    /// The value; absent if the field was removed.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub to: Value,
}
