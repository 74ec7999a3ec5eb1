//! Tries cases, compares the results with the expectations, and can write the results as new expectations.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table};

use qhost_model::printable;
use qhost_policy::{Answer, Loader, LogLine};
use qhost_sys::state::write_shared;

use super::{
    Case, CaseFile, Project, TrialError,
    answer::{CaseAnswer, ask},
    expect::{Expect, Reason, Said, Write},
};

/// A case that was tried.
#[derive(Debug, Serialize)]
pub struct Tried {
    /// The file.
    pub file: String,
    /// The line of the file where the case begins, from 1.
    pub line: usize,
    /// The case's name.
    pub name: String,
    /// Whether the result was as expected.
    pub passed: bool,
    /// Lines that were expected and did not come, after `-`, and that came and were not expected, after `+`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub diff: String,
    /// The contract's breaches in the policy's answers; a case with a breach does not pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contract_breaches: Vec<String>,
    /// The lines that the policy logged or printed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// The result.
    pub found: Expect,
    /// How long the decision took in µs.
    pub micros: u64,
}

/// Tries every case of a project. `progress` is called with each case first.
pub fn run(
    project: &Project,
    loader: &Loader,
    mut progress: impl FnMut(&Case),
) -> Result<Vec<Tried>, TrialError> {
    let mut tried = vec![];
    for file in &project.files {
        for case in &file.cases {
            progress(case);
            tried.push(case.compare(file, answered(project, loader, case)?));
        }
    }
    Ok(tried)
}

/// The result of a case.
struct Answered {
    found: Expect,
    contract_breaches: Vec<String>,
    log: Vec<LogLine>,
    micros: u64,
}

impl Answered {
    fn failed(error: String, micros: u64) -> Self {
        let found = Expect {
            verdict: Some(Said::Failed),
            violations: Some(vec![]),
            changes: Some(vec![]),
            error: Some(error),
        };
        Self { found, contract_breaches: vec![], log: vec![], micros }
    }
}

fn answered(project: &Project, loader: &Loader, case: &Case) -> Result<Answered, TrialError> {
    let chain = match project.chain(loader, case) {
        Ok(chain) => chain,
        // Refused settings are an answer of the policy; a policy that does not load has no answers.
        Err(error) if error.is_about_settings() => {
            return Ok(Answered::failed(error.to_string(), 0));
        }
        Err(error) => return Err(error.into()),
    };
    let CaseAnswer { decision, error, .. } = ask(&chain, case);
    let Some(policy) = decision.policies.first() else {
        return Ok(Answered::failed("no policy was asked".into(), 0));
    };
    let log = policy.log.clone();
    if let Some(error) = error {
        return Ok(Answered { log, ..Answered::failed(error.to_string(), policy.cost.micros) });
    }
    let reason = |violation: &qhost_model::launch::Violation| Reason {
        code: violation.code.clone(),
        field: violation.field.clone(),
    };
    let write = |change: &qhost_model::launch::Change| Write {
        field: change.field.clone(),
        to: change.to.clone(),
    };
    let refused = policy.answer == Answer::Refused;
    let found = Expect {
        verdict: Some(if refused { Said::Denied } else { Said::Allowed }),
        violations: Some(policy.violations.iter().map(reason).collect()),
        changes: Some(policy.changes.iter().map(write).collect()),
        error: None,
    };
    let (contract_breaches, micros) = (policy.contract_breaches.clone(), policy.cost.micros);
    Ok(Answered { found, contract_breaches, log, micros })
}

impl Case {
    fn compare(&self, file: &CaseFile, answered: Answered) -> Tried {
        let Answered { found, contract_breaches, log, micros } = answered;
        let looked_at = found.as_far_as(&self.expect);
        let diff = diff(&self.expect.lines(), &looked_at.lines());
        Tried {
            file: file.path.display().to_string(),
            line: self.line,
            name: self.name.clone(),
            passed: diff.is_empty() && contract_breaches.is_empty(),
            diff,
            contract_breaches,
            log,
            found,
            micros,
        }
    }
}

impl Expect {
    /// The changes, in the order of the expected ones: fields are written all at once.
    fn changes_like(&self, expected: &[Write]) -> Vec<Write> {
        let place = |write: &Write| expected.iter().position(|one| one.field == write.field);
        let mut changes = self.changes.clone().unwrap_or_default();
        changes.sort_by_key(|write| place(write).unwrap_or(expected.len()));
        changes
    }

    /// The parts that `expect` names. If the verdict differs, the violations and the error are given too. The error is `expect`'s text if
    /// the found error contains it.
    fn as_far_as(&self, expect: &Self) -> Self {
        let is_other = expect.verdict.is_some() && expect.verdict != self.verdict;
        let words = |wanted: &String| match &self.error {
            Some(error) if error.contains(wanted.as_str()) => Some(wanted.clone()),
            error => Some(error.clone().unwrap_or_else(|| "none".into())),
        };
        Self {
            verdict: expect.verdict.and(self.verdict),
            violations: self.violations.clone().filter(|_| is_other || expect.violations.is_some()),
            changes: expect.changes.as_ref().map(|expected| self.changes_like(expected)),
            error: match &expect.error {
                Some(wanted) => words(wanted),
                None => self.error.clone().filter(|_| is_other),
            },
        }
    }

    /// A line for each part that can differ.
    fn lines(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| text = std::mem::take(&mut text) + &line + "\n";
        if let Some(verdict) = self.verdict {
            line(format!("verdict {}", verdict.name()));
        }
        for Reason { code, field } in self.violations.iter().flatten() {
            line(format!("violation {code} {field}"));
        }
        for Write { field, to } in self.changes.iter().flatten() {
            line(format!("change {field} → {to}"));
        }
        if let Some(error) = &self.error {
            line(format!("error {error}"));
        }
        text
    }
}

impl Said {
    fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// The difference of two texts; empty if there is none.
fn diff(expected: &str, found: &str) -> String {
    if expected == found {
        return String::new();
    }
    let mut text = String::new();
    for change in TextDiff::from_lines(expected, found).iter_all_changes() {
        let sign = match change.tag() {
            ChangeTag::Equal => ' ',
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
        };
        let line = printable::line(change.value().trim_end(), 300).to_string();
        // Writing to a string cannot fail.
        let written = writeln!(text, "{sign} {line}");
        debug_assert!(written.is_ok());
    }
    text
}

/// Writes the results of cases into a file as their expectations, and leaves the rest of the file as it is. Gives the number of cases that
/// were rewritten.
pub fn update(file: &CaseFile, tried: &[Tried]) -> Result<usize, TrialError> {
    let wrong =
        |reason: String| TrialError::Case { path: file.path.clone(), place: "1".into(), reason };
    let mut document: DocumentMut = file.text.parse().map_err(|error| wrong(format!("{error}")))?;
    let Some(cases) = document.get_mut("case").and_then(Item::as_array_of_tables_mut) else {
        return Err(wrong("expected cases as [[case]] tables".into()));
    };
    let mut rewritten = 0;
    for ((table, tried), case) in cases.iter_mut().zip(tried).zip(&file.cases) {
        if !tried.passed || case.expect == Expect::default() {
            table.insert("expect", Item::Table(tried.found.table()));
            rewritten += 1;
        }
    }
    if rewritten > 0 {
        write_shared(&file.path, document.to_string().as_bytes())
            .map_err(|source| TrialError::Unwritable { path: file.path.clone(), source })?;
    }
    Ok(rewritten)
}

impl Expect {
    fn table(&self) -> Table {
        let mut table = Table::new();
        if let Some(verdict) = self.verdict {
            table.insert("verdict", toml_edit::value(verdict.name()));
        }
        if let Some(error) = &self.error {
            table.insert("error", toml_edit::value(error));
            return table;
        }
        let violations = self.violations.iter().flatten().map(|Reason { code, field }| {
            InlineTable::from_iter([("code", code.as_str()), ("field", field.as_str())])
        });
        table.insert("violations", toml_edit::value(list(violations)));
        let changes = self.changes.iter().flatten().map(|Write { field, to }| {
            let mut one = InlineTable::from_iter([("field", field.as_str())]);
            if let Some(to) = toml_value(to) {
                one.insert("to", to);
            }
            one
        });
        table.insert("changes", toml_edit::value(list(changes)));
        table
    }
}

/// Makes a list, with one item a line if there are several.
fn list(items: impl Iterator<Item = InlineTable>) -> Array {
    let mut list: Array = items.collect();
    if list.len() > 1 {
        list.iter_mut().for_each(|item| item.decor_mut().set_prefix("\n  "));
        list.set_trailing("\n");
        list.set_trailing_comma(true);
    }
    list
}

/// A JSON value in TOML; none for null, which TOML does not have.
fn toml_value(value: &Value) -> Option<toml_edit::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.into(),
        Value::Array(items) => items.iter().filter_map(toml_value).collect::<Array>().into(),
        Value::Object(map) => {
            let pairs = map.iter().filter_map(|(key, value)| Some((key, toml_value(value)?)));
            toml_edit::Value::InlineTable(pairs.collect())
        }
    })
}
