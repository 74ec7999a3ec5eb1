//! The record of a decision: everything that the decision was made from and everything that was said, so that the decision can
//! be explained and made again. Secrets are masked here, and texts that a tenant made too long are kept by their digest. Nothing
//! here does I/O.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use qhost_model::{
    digest::Sha256, host_facts::HostFacts, job::Task, launch::Rules, masks::Masks, secrets::Secrets,
};

use super::{
    Actor, Decision, Occasion, Operation, OperationRecord, OperationRequest, Permission,
    PolicyError, Request, Verdict, masked,
};
use crate::limits;

/// One line of the log of decisions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the record's form.
    pub version: u32,
    /// How the decision ended.
    pub outcome: Outcome,
    /// What the decision was made from.
    #[serde(flatten)]
    pub input: Input,
    /// The digest of the masked input, taken before texts that are too long were dropped from it.
    pub input_sha256: Sha256,
    /// What the policies and the host's own rules said.
    pub decision: Decision,
    /// What kept an allowed task from being launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_launched: Option<NotLaunched>,
    /// The actor that asked for the launch, where that is known; policies are not told. The record of an operation has its actor
    /// in `operation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The operation that the decision is about; absent where the decision is about a launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationRecord>,
    /// Why there was no decision, where a policy failed or none was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The paths of the values that were masked. A policy that looks at any of them may answer otherwise when it is asked again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<String>,
    /// The parts of the task that are kept by their digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Dropped>,
}

/// What a decision is made from: a request, as far as it was known when the decision ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// The task that is asked for.
    pub task: Task,
    /// The host that the task would run on; absent where its facts were not found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostFacts>,
    /// What the operator lets tenants do.
    pub rules: Rules,
    /// The time of the decision.
    pub time: Timestamp,
    /// Why policies are asked.
    #[serde(default, skip_serializing_if = "Occasion::is_launch")]
    pub occasion: Occasion,
}

impl From<Request> for Input {
    fn from(Request { task, host, rules, time, occasion }: Request) -> Self {
        Self { task, host: Some(host), rules, time, occasion }
    }
}

impl Input {
    /// The digest of the input, equal to that of [`Request::digest`] for the same values.
    fn digest(&self) -> Sha256 {
        let Self { task, host, rules, time: _, occasion: _ } = self;
        Sha256::of(&serde_json::to_vec(&(task, host, rules)).unwrap_or_default())
    }
}

/// What kept an allowed task from being launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLaunched {
    /// The name of the obstacle: the quota that was used up, the host's ports, the image's checksum, …
    pub by: String,
    /// The reason in words.
    pub reason: String,
}

/// The notes and arguments of a task that are too long for the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// The size in bytes of their JSON, `{"args":[…],"meta":{…}}`.
    pub bytes: usize,
    /// The digest of their JSON.
    pub sha256: Sha256,
}

/// How a decision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The command was stopped before it was decided.
    Interrupted,
    /// It could not be decided, for no fault of a policy's.
    Undecided,
    /// It was allowed, as a record before this has it, and what its launch needs could not be had.
    NotLaunched,
}

impl Outcome {
    /// Finds the outcome of a name as it is typed, such as `cannot-run`.
    ///
    /// # Errors
    /// There is no outcome of this name; the error lists the names.
    pub fn named(text: &str) -> Result<Self, String> {
        let name = |outcome: &Self| outcome.name().replace(' ', "-");
        Self::ALL.into_iter().find(|outcome| name(outcome) == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(name).collect();
            format!("expected one of {}", names.join(", "))
        })
    }

    /// All outcomes.
    pub const ALL: [Self; 7] = [
        Self::Allowed,
        Self::Denied,
        Self::CannotRun,
        Self::Failed,
        Self::Interrupted,
        Self::Undecided,
        Self::NotLaunched,
    ];

    /// The outcome's name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::CannotRun => "cannot run",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Undecided => "undecided",
            Self::NotLaunched => "not launched",
        }
    }
}

impl Permission {
    /// The outcome that a record has for this verdict.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Granted(_) => Outcome::Allowed,
            Self::Denied(_) => Outcome::Denied,
            Self::Failed(..) => Outcome::Failed,
        }
    }
}

impl Verdict {
    /// The outcome that a record has for this permission.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Approved(_) => Outcome::Allowed,
            Self::Denied(_) => Outcome::Denied,
            Self::CannotRun(_) => Outcome::CannotRun,
            Self::Failed(..) => Outcome::Failed,
        }
    }

    /// The error of the policy that did not answer.
    pub fn error(&self) -> Option<&PolicyError> {
        match self {
            Self::Failed(error, _) => Some(error),
            Self::Approved(_) | Self::Denied(_) | Self::CannotRun(_) => None,
        }
    }
}

/// The version of the form in which this qhost writes records.
const VERSION: u32 = 1;

impl Record {
    /// Records what was decided about a request, with secrets masked.
    pub fn of(request: Request, verdict: &Verdict, masks: &Masks) -> Self {
        let error = verdict.error().map(ToString::to_string);
        let (outcome, decision) = (verdict.outcome(), verdict.decision().clone());
        Self::new(request.into(), Ended { outcome, decision, error, not_launched: None }, masks)
    }

    /// Records what was said to an operation, with secrets masked.
    pub fn of_operation(asked: OperationRequest, permission: &Permission, masks: &Masks) -> Self {
        let error = permission.error().map(ToString::to_string);
        let (outcome, decision) = (permission.outcome(), permission.decision().clone());
        let ended = Ended { outcome, decision, error, not_launched: None };
        let mut of = asked.of;
        let secrets = match &mut of.operation {
            Operation::Exec(command) => masks.mask_command(&asked.request.task, command),
            Operation::Console
            | Operation::Screenshot
            | Operation::Stop
            | Operation::Restart
            | Operation::Pause
            | Operation::Snapshot => Secrets::default(),
        };
        let mut record = Self::new(asked.request.into(), ended, masks);
        record.decision = masked(&secrets, record.decision);
        record.error = record.error.map(|error| secrets.without(&error));
        record.masked.extend(secrets.places().iter().cloned());
        Self { operation: Some(of), ..record }
    }

    /// Records that an allowed task was not launched.
    pub fn not_launched(input: Input, decision: Decision, why: NotLaunched, masks: &Masks) -> Self {
        let (outcome, not_launched) = (Outcome::NotLaunched, Some(why));
        Self::new(input, Ended { outcome, decision, error: None, not_launched }, masks)
    }

    /// Records that no verdict was reached about an input.
    pub fn undecided(input: Input, outcome: Outcome, error: String, masks: &Masks) -> Self {
        let decision = Decision::none(&input.task);
        let (error, not_launched) = (Some(error), None);
        Self::new(input, Ended { outcome, decision, error, not_launched }, masks)
    }

    fn new(mut input: Input, ended: Ended, masks: &Masks) -> Self {
        let Ended { outcome, decision, error, not_launched } = ended;
        let secrets = masks.mask(&mut input.task);
        // The digest is of the masked input: a reader could find a short secret from an unmasked digest by trying all values.
        let input_sha256 = input.digest();
        let dropped = drop_what_is_long(&mut input.task);
        Self {
            version: VERSION,
            outcome,
            input,
            input_sha256,
            decision: masked(&secrets, decision),
            error: error.map(|error| secrets.without(&error)),
            not_launched: not_launched.map(|NotLaunched { by, reason }| NotLaunched {
                by,
                reason: secrets.without(&reason),
            }),
            actor: None,
            operation: None,
            masked: secrets.places().to_vec(),
            dropped,
        }
    }

    /// Reads a record from its line.
    pub fn parse(line: &str) -> Result<Self, String> {
        let record: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        match record.version {
            VERSION => Ok(record),
            other => Err(format!("a record of version {other}; this qhost reads {VERSION}")),
        }
    }

    /// Writes the record as a line. From a line that would be longer than readers read, the policies' logs and the decisions
    /// about other places are left out.
    pub(super) fn line(&self) -> serde_json::Result<String> {
        let line = serde_json::to_string(self)?;
        if (line.len() as u64) < limits::DECISION_RECORD_BYTES {
            return Ok(line + "\n");
        }
        let mut short = self.clone();
        short.decision.places.clear();
        for policy in &mut short.decision.policies {
            policy.log_dropped += std::mem::take(&mut policy.log).len() as u64;
        }
        Ok(serde_json::to_string(&short)? + "\n")
    }

    /// Gives the question that was asked, to decide it again, or why it cannot be decided again.
    pub fn asked(&self) -> Result<Asked, String> {
        let request = self.request()?;
        Ok(match self.operation.clone() {
            Some(of) => {
                let launch = self.decision.launch.clone();
                Asked::Operation(Box::new(OperationRequest { request, launch, of }))
            }
            None => Asked::Launch(Box::new(request)),
        })
    }

    fn request(&self) -> Result<Request, String> {
        let Input { task, host, rules, time, occasion } = self.input.clone();
        if let Some(Dropped { bytes, sha256 }) = &self.dropped {
            return Err(format!(
                "its task's meta and args, {bytes} bytes with sha256:{sha256}, were too long to be kept"
            ));
        }
        match (self.outcome, host) {
            (Outcome::Interrupted, _) => Err("it was interrupted before it was decided".into()),
            (Outcome::Undecided, _) => Err("it was not decided".into()),
            (Outcome::NotLaunched, _) => Err("it was decided before".into()),
            (_, None) => Err("it has no facts about its host".into()),
            (_, Some(host)) => Ok(Request { task, host, rules, time, occasion }),
        }
    }
}

/// What a past decision was about.
#[derive(Debug)]
pub enum Asked {
    /// A launch, a restart or an audit.
    Launch(Box<Request>),
    /// An operation on a VM that ran.
    Operation(Box<OperationRequest>),
}

/// How a decision ended, and what was said until then.
struct Ended {
    outcome: Outcome,
    decision: Decision,
    error: Option<String>,
    not_launched: Option<NotLaunched>,
}

/// Takes the notes and arguments out of a task whose record would be too long. Every other field of a task has a bound of its
/// own.
fn drop_what_is_long(task: &mut Task) -> Option<Dropped> {
    // The value is plain data with text keys, which JSON can always hold.
    let all = serde_json::to_vec(task).unwrap_or_default();
    if all.len() <= limits::DECISION_TASK_BYTES {
        return None;
    }
    let (args, meta) = (std::mem::take(&mut task.args), std::mem::take(&mut task.meta));
    let bytes = json!({ "args": args, "meta": meta }).to_string();
    Some(Dropped { bytes: bytes.len(), sha256: Sha256::of(bytes.as_bytes()) })
}
