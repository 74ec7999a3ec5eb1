//! What is kept of a decision: all that it was made from and all that was said, so that it can be explained, and made
//! again. Secrets are masked here. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wildmatch::WildMatch;

use super::{Decision, PolicyError, Request, Verdict};
use crate::{digest::Sha256, limits};

/// One line of the log of decisions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The form of this record.
    pub version: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// When, for whom, what, where and under which rules.
    #[serde(flatten)]
    pub request: Request,
    /// The digest of the request as it stands here, masks and all.
    pub input_sha256: Sha256,
    /// Who said what.
    pub decision: Decision,
    /// Why there was none, where a policy failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was masked, as paths. A policy that looks at any of it may answer otherwise when it is asked again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<String>,
}

/// How a decision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every policy and the host's own rules allow it.
    Allowed,
    /// A policy, or a rule on what the host lets tenants do, refuses it.
    Denied,
    /// Allowed, but this host cannot do it.
    CannotRun,
    /// A policy failed.
    Failed,
}

impl Outcome {
    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::CannotRun => "cannot run",
            Self::Failed => "failed",
        }
    }
}

impl Verdict {
    /// In a word.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Approved(_) => Outcome::Allowed,
            Self::Denied(_) => Outcome::Denied,
            Self::CannotRun(_) => Outcome::CannotRun,
            Self::Failed(..) => Outcome::Failed,
        }
    }

    /// Why there was no decision.
    pub fn error(&self) -> Option<&PolicyError> {
        match self {
            Self::Failed(error, _) => Some(error),
            Self::Approved(_) | Self::Denied(_) | Self::CannotRun(_) => None,
        }
    }
}

/// The form that this host writes.
const VERSION: u32 = 1;

/// Patterns of what is secret in a task.
#[derive(Debug, Clone, Default)]
pub struct Masks {
    /// Keys of `meta`.
    pub meta: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
}

impl Record {
    /// What was decided about a request, secrets masked.
    pub fn of(request: Request, verdict: &Verdict, masks: &Masks) -> Self {
        let error = verdict.error().map(ToString::to_string);
        let decision = verdict.decision().clone();
        Self::new(request, verdict.outcome(), decision, error).masked(masks)
    }

    /// A request about which nobody could be asked, because a policy did not load.
    pub fn undecided(request: Request, error: &PolicyError, masks: &Masks) -> Self {
        let decision = Decision::none(&request.task);
        Self::new(request, Outcome::Failed, decision, Some(error.to_string())).masked(masks)
    }

    fn new(request: Request, outcome: Outcome, decision: Decision, error: Option<String>) -> Self {
        let input_sha256 = request.digest();
        Self { version: VERSION, outcome, request, input_sha256, decision, error, masked: vec![] }
    }

    /// Reads one line.
    pub fn parse(line: &str) -> Result<Self, String> {
        let record: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        match record.version {
            VERSION => Ok(record),
            other => Err(format!("a record of version {other}; this qhost reads {VERSION}")),
        }
    }

    fn masked(mut self, masks: &Masks) -> Self {
        let task = &mut self.request.task;
        let mut secrets: Vec<String> = vec![];
        for (key, value) in &mut task.meta {
            if matches(&masks.meta, key) {
                self.masked.push(format!("task.meta.{key}"));
                secrets.push(std::mem::replace(value, MASK.into()));
            }
        }
        for (index, argument) in task.args.iter_mut().enumerate() {
            if matches(&masks.args, argument) {
                self.masked.push(format!("task.args.{index}"));
                secrets.push(std::mem::replace(argument, MASK.into()));
            }
        }
        // A digest of a short secret would tell it to whoever tries them all.
        self.input_sha256 = self.request.digest();
        // A policy may repeat a secret in what it says or logs.
        secrets.retain(|secret| secret.len() >= limits::MASKED_BYTES);
        if secrets.is_empty() {
            return self;
        }
        // The longest first: one may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self.error = self.error.map(|error| without(&secrets, &error));
        self.decision = self.decision.without(&secrets);
        self
    }
}

/// What stands in a secret's place.
const MASK: &str = "***";

fn matches(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| WildMatch::new_case_insensitive(pattern).matches(text))
}

fn without(secrets: &[String], text: &str) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
}

impl Decision {
    fn without(mut self, secrets: &[String]) -> Self {
        let clean = |text: &mut String| *text = without(secrets, text);
        let violations = self.policies.iter_mut().flat_map(|policy| &mut policy.violations);
        for violation in violations.chain(&mut self.host.violations) {
            clean(&mut violation.code);
            clean(&mut violation.field);
            clean(&mut violation.message);
            violation.hint.iter_mut().for_each(clean);
        }
        for policy in &mut self.policies {
            policy.log.iter_mut().for_each(|line| clean(&mut line.message));
            policy.fault.iter_mut().for_each(clean);
            for change in &mut policy.changes {
                clean(&mut change.field);
                mask_value(&mut change.from, secrets);
                mask_value(&mut change.to, secrets);
            }
        }
        for conflict in &mut self.conflicts {
            clean(&mut conflict.field);
            conflict.writers.iter_mut().for_each(|writer| mask_value(&mut writer.to, secrets));
        }
        let launch = &mut self.launch;
        launch.warnings.iter_mut().for_each(clean);
        launch.ports.iter_mut().for_each(|port| clean(&mut port.label));
        for (key, value) in &mut launch.extensions {
            clean(key);
            clean(value);
        }
        self
    }
}

fn mask_value(value: &mut Value, secrets: &[String]) {
    match value {
        Value::String(text) => *text = without(secrets, text),
        Value::Array(items) => items.iter_mut().for_each(|item| mask_value(item, secrets)),
        Value::Object(map) => map.values_mut().for_each(|item| mask_value(item, secrets)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
