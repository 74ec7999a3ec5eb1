//! Policies: load components, ask a chain of them in sandboxes, apply the host's own rules to what they chose.
//!
//! ```text
//! Request ──▶ default launch ──choose, choose, …──▶ launch ──validate, validate, …──▶ rules ──▶ Verdict
//! ```
//!
//! A verdict is a value: [`Approved`], or refused with reasons, or failed because a policy trapped, overran its limits
//! or answered nonsense. Only an approved task is launched. This crate knows nothing of images, QEMU or VMs.

pub mod limits;
mod deadline;
mod log;
mod component;
mod slots;
mod host_state;
mod sandbox;
mod wasi;
mod loader;
mod module;
mod link;
mod chain;
mod places;
mod operation;
mod permit;
mod contract;
mod tables;
mod conflicts;
mod masking;
mod record;
mod settings;
mod journal;
pub mod signature;
mod sealed;
mod compile;
mod cache;
mod error;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::{
    digest::Sha256,
    host_facts::HostFacts,
    job::Task,
    launch::{Change, Launch, Rules, Violation},
};

pub use chain::Chain;
pub use compile::componentize;
pub use compile::{CompileLimits, Product, SUBCOMMAND as COMPILE, child as compile_child};
pub use component::Kind;
pub use conflicts::{Conflict, Writer};
pub use deadline::Deadline;
pub use error::{Fault, PolicyError};
pub use journal::{
    DecisionLog, Journal, Lines, RecordError, Recorded, lines, read_latest, read_log, record_id,
};
pub use loader::{Loader, Source};
pub use log::{Level, LogLine};
pub use masking::masked;
pub use module::read as read_file;
pub use module::{About, Facts, Inspection};
pub use operation::{Actor, Door, Operation, OperationRecord, OperationRequest};
pub use permit::Permission;
pub use record::{Asked, Dropped, Input, NotLaunched, Outcome, Record};
pub use sandbox::Cost;
pub use settings::settings;
pub use signature::{PublicKey, Signature, Signers};
pub use tables::{FindTable, Table, Tables};

/// A request, from which alone a decision is made. The same request gives the same answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The task that is asked for.
    pub task: Task,
    /// The host that the task would run on.
    pub host: HostFacts,
    /// What the operator lets tenants do.
    pub rules: Rules,
    /// The time of the decision, which a policy with a clock reads on it.
    pub time: Timestamp,
    /// Why policies are asked.
    #[serde(default, skip_serializing_if = "Occasion::is_launch")]
    pub occasion: Occasion,
}

/// Why policies are asked about a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// A task is to be launched.
    #[default]
    Launch,
    /// A VM that has ended is to be started again.
    Restart,
    /// A VM that runs is checked against the policies configured now.
    Audit,
    /// An operation on a VM that runs is asked for.
    Operation,
}

impl Occasion {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    fn is_launch(&self) -> bool {
        *self == Self::Launch
    }
}

impl Request {
    /// A request to launch a task, decided now.
    pub fn now(task: Task, host: HostFacts, rules: Rules) -> Self {
        Self { task, host, rules, time: Timestamp::now(), occasion: Occasion::Launch }
    }

    /// The digest of the task, the host and the rules. The time is not in it: the same question on another day has the
    /// same digest.
    pub fn digest(&self) -> Sha256 {
        let Self { task, host, rules, time: _, occasion: _ } = self;
        // The value is plain data with text keys, which JSON can always hold.
        Sha256::of(&serde_json::to_vec(&(task, host, rules)).unwrap_or_default())
    }
}

/// What a policy's word counts for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What it says is done.
    #[default]
    Enforce,
    /// What it would have said is recorded, and changes nothing.
    Monitor,
}

/// Whose policy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The operator's, for every tenant.
    Host,
    /// One tenant's own. It comes after the host's and can only tighten.
    Tenant,
}

/// What one policy may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The longest that one call may take.
    pub deadline: Duration,
    /// All memories and tables of a sandbox together, in bytes.
    pub memory: usize,
    /// Whether the policy gets a WASI with nothing in it but a frozen clock and seeded randomness.
    pub wasi: bool,
    /// Whether the policy is shown the texts of a seed, which may be secret.
    pub seed_text: bool,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            deadline: limits::POLICY_DEADLINE,
            memory: limits::POLICY_MEMORY_BYTES,
            wasi: false,
            seed_text: false,
        }
    }
}

/// A decision: everything that was said on the way to a verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The records of the policies, in order.
    pub policies: Vec<PolicyRecord>,
    /// What the host's own rules said.
    pub host: HostRecord,
    /// Fields that policies wrote differently; the value of the last one held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// The mirror or list of checksums that was decided about after the image's source was approved; absent where the
    /// decision is about the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<url::Url>,
    /// The decisions about the image's other places, as far as they differ from this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<OtherPlace>,
    /// The launch as it stood at the end.
    pub launch: Launch,
}

/// The decision about another of an image's places, as far as it differs from the decision that holds this value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OtherPlace {
    /// The place: the source, a mirror or a list of checksums.
    pub place: url::Url,
    /// The policies that said something else about this place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyRecord>,
    /// The fields that policies wrote differently for this place alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// Remarks that policies made on this place alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Decision {
    /// Names what refuses the task: policies, and the host's own rules.
    pub fn refused_by(&self) -> Vec<&str> {
        let policies = self.policies.iter().filter(|policy| policy.refuses());
        let mut names: Vec<&str> = policies.map(|policy| policy.name.as_str()).collect();
        if self.host.answer == Answer::Refused {
            names.push("the host's own rules");
        }
        names
    }

    /// The decision about a task before any policy is asked.
    pub fn none(task: &Task) -> Self {
        Self {
            policies: vec![],
            host: HostRecord { answer: Answer::NotAsked, violations: vec![] },
            conflicts: vec![],
            place: None,
            places: vec![],
            launch: Launch::default_for(&task.asked),
        }
    }
}

/// The answer of a policy, or of the host's own rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// There is nothing against the launch.
    Allowed,
    /// There are violations.
    Refused,
    /// The policy did not answer as it must.
    Failed,
    /// The policy was not asked, because one before it refused to choose a launch, or failed.
    NotAsked,
}

impl Answer {
    fn of(violations: &[Violation]) -> Self {
        if violations.is_empty() { Self::Allowed } else { Self::Refused }
    }
}

/// The record of what the host's own rules said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The rules' answer.
    pub answer: Answer,
    /// What the rules have against the launch.
    pub violations: Vec<Violation>,
}

/// The record of what one policy did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// The name that the policy goes by on this host or command line.
    pub name: String,
    /// Whose policy it is.
    pub layer: Layer,
    /// What the policy's word counts for.
    pub mode: Mode,
    /// The version that the policy says it has.
    pub version: String,
    /// The digest of the policy's file.
    pub sha256: Sha256,
    /// The digest of the policy's settings.
    pub settings_sha256: Sha256,
    /// The digests of the tables that the policy looks things up in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, Sha256>,
    /// The policy's answer.
    pub answer: Answer,
    /// What the policy's `choose` changed, or would have changed in monitor mode.
    pub changes: Vec<Change>,
    /// The policy's reasons to refuse; a policy without any allows.
    pub violations: Vec<Violation>,
    /// How the policy failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Breaches of the contract in answers that were used all the same: texts that are empty, or were cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contract_breaches: Vec<String>,
    /// The lines that the policy logged.
    pub log: Vec<LogLine>,
    /// How many log lines were beyond the limit and are not kept.
    pub log_dropped: u64,
    /// What asking the policy cost.
    pub cost: Cost,
}

impl PolicyRecord {
    /// Whether the policy's word stands in the way of the launch.
    pub fn refuses(&self) -> bool {
        self.mode == Mode::Enforce && self.answer == Answer::Refused
    }
}

/// A task that every policy and the host's own rules allow. Only this crate makes one.
#[derive(Debug)]
pub struct Approved {
    task: Task,
    decision: Decision,
}

impl Approved {
    /// The task that was asked for.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// How the task will be launched.
    pub fn launch(&self) -> &Launch {
        &self.decision.launch
    }

    /// The decision that approved the task.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
}

/// A chain's verdict on a task.
#[derive(Debug)]
pub enum Verdict {
    /// The task may run.
    Approved(Box<Approved>),
    /// A policy, or a rule on what the host lets tenants do, refuses the task.
    Denied(Decision),
    /// The task would be allowed, but this host cannot run it.
    CannotRun(Decision),
    /// A policy did not answer as it must, or the policies do not agree; the decision holds what had been said until
    /// then.
    Failed(Box<PolicyError>, Decision),
}

impl Verdict {
    /// The decision behind the verdict.
    pub fn decision(&self) -> &Decision {
        match self {
            Self::Approved(approved) => approved.decision(),
            Self::Denied(decision) | Self::CannotRun(decision) | Self::Failed(_, decision) => {
                decision
            }
        }
    }
}
