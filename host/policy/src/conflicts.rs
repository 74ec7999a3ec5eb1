//! Fields to which several policies wrote different values.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use qhost_model::launch::Change;

use super::PolicyRecord;

/// A field to which several policies wrote different values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The field's name.
    pub field: String,
    /// The policies that wrote the field, in order; the value of the last one held.
    pub writers: Vec<Writer>,
}

/// A policy that wrote a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The policy's name.
    pub policy: String,
    /// The value that the policy wrote.
    pub to: Value,
}

/// Finds the fields to which several of these policies wrote different values.
pub(super) fn conflicts<'a>(records: impl Iterator<Item = &'a PolicyRecord>) -> Vec<Conflict> {
    let records: Vec<_> = records.filter(|record| !record.changes.is_empty()).collect();
    if records.len() < 2 {
        return vec![];
    }
    let mut written: Vec<Conflict> = vec![];
    for record in records {
        for Change { field, from: _, to } in &record.changes {
            let writer = Writer { policy: record.name.clone(), to: to.clone() };
            match written.iter_mut().find(|one| one.field == *field) {
                Some(one) => one.writers.push(writer),
                None => written.push(Conflict { field: field.clone(), writers: vec![writer] }),
            }
        }
    }
    written.retain(|one| one.writers.windows(2).any(|pair| matches!(pair, [a, b] if a.to != b.to)));
    written
}
