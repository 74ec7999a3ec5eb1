//! Policies: load components, ask a chain of them in sandboxes, apply the host's own rules to what they chose.
//!
//! ```text
//! Request ──▶ default launch ──choose, choose, …──▶ launch ──validate, validate, …──▶ rules ──▶ Verdict
//! ```
//!
//! A verdict is a value: [`Approved`], or refused with reasons, or failed, because a policy trapped, overran its limits
//! or answered nonsense; then nothing is launched. This room knows nothing of images, QEMU or VMs.

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
mod masked;
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
pub use masked::masked;
pub use module::read as read_file;
pub use module::{About, Facts, Inspection};
pub use operation::{Actor, Door, Operation, OperationRecord, OperationRequest};
pub use permit::Permission;
pub use record::{Asked, Dropped, Input, NotLaunched, Outcome, Record};
pub use sandbox::Cost;
pub use settings::settings;
pub use signature::{PublicKey, Signature, Signers};
pub use tables::{FindTable, Table, Tables};

/// All that a decision is made from. The same request gives the same answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What is asked for.
    pub task: Task,
    /// Where it would run.
    pub host: HostFacts,
    /// What the operator lets tenants do.
    pub rules: Rules,
    /// When it is decided: what a policy that is granted a clock reads on it.
    pub time: Timestamp,
    /// Why it is asked.
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
    /// A task that is to be launched, decided now.
    pub fn now(task: Task, host: HostFacts, rules: Rules) -> Self {
        Self { task, host, rules, time: Timestamp::now(), occasion: Occasion::Launch }
    }

    /// The digest of what is asked, where, and under which rules. The time is not in it: the same question on another
    /// day has the same digest.
    pub fn digest(&self) -> Sha256 {
        let Self { task, host, rules, time: _, occasion: _ } = self;
        // Plain data with text keys, which JSON can always hold.
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
    /// Whether it gets a WASI with nothing in it but a frozen clock and seeded randomness.
    pub wasi: bool,
    /// Whether it is shown the texts of a seed, which may be secret.
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

/// Everything that was said on the way to a verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Each policy, in order.
    pub policies: Vec<PolicyRecord>,
    /// The host's own rules.
    pub host: HostRecord,
    /// Fields that policies wrote differently; the last one's word held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// The mirror or list of checksums that this decision is about, where the image's source itself was let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<url::Url>,
    /// What was decided about the image's other places that were looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<OtherPlace>,
    /// The launch as it stood at the end.
    pub launch: Launch,
}

/// What was decided about another of an image's places, as far as it differs from the decision that it stands in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OtherPlace {
    /// The place: the source, a mirror or a list of checksums.
    pub place: url::Url,
    /// The policies that said something else about this place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyRecord>,
    /// Fields that policies wrote differently for it alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// Policies' remarks on it alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Decision {
    /// What refuses the task, by name: policies, and the host's own rules.
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

/// What a policy, or the host's own rules, said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing against it.
    Allowed,
    /// Violations.
    Refused,
    /// It did not answer as it must.
    Failed,
    /// Not asked: a policy before refused to choose a launch, or failed.
    NotAsked,
}

impl Answer {
    fn of(violations: &[Violation]) -> Self {
        if violations.is_empty() { Self::Allowed } else { Self::Refused }
    }
}

/// What the host's own rules said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostRecord {
    /// In a word.
    pub answer: Answer,
    /// What they have against the launch.
    pub violations: Vec<Violation>,
}

/// What one policy did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// The name it goes by on this host or command line.
    pub name: String,
    /// Whose it is.
    pub layer: Layer,
    /// What its word counts for.
    pub mode: Mode,
    /// The version it says it has.
    pub version: String,
    /// Its file's digest.
    pub sha256: Sha256,
    /// Its settings' digest.
    pub settings_sha256: Sha256,
    /// The digests of the tables that it looks things up in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, Sha256>,
    /// In a word.
    pub answer: Answer,
    /// What its `choose` changed, or in monitor mode would have changed.
    pub changes: Vec<Change>,
    /// Its reasons to refuse; empty: it allows.
    pub violations: Vec<Violation>,
    /// How it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// What of its answers the contract does not allow, and was taken all the same: texts that are empty, or were cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contract_breaches: Vec<String>,
    /// What it logged.
    pub log: Vec<LogLine>,
    /// Log lines beyond the limit, counted and not kept.
    pub log_dropped: u64,
    /// What asking it cost.
    pub cost: Cost,
}

impl PolicyRecord {
    /// Whether its word stands in the way of the launch.
    pub fn refuses(&self) -> bool {
        self.mode == Mode::Enforce && self.answer == Answer::Refused
    }
}

/// A task that every policy and the host's own rules allow. Made only here.
#[derive(Debug)]
pub struct Approved {
    task: Task,
    decision: Decision,
}

impl Approved {
    /// What was asked.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// How it will be launched.
    pub fn launch(&self) -> &Launch {
        &self.decision.launch
    }

    /// How it came about.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
}

/// A chain's answer.
#[derive(Debug)]
pub enum Verdict {
    /// It may run.
    Approved(Box<Approved>),
    /// A policy, or a rule on what the host lets tenants do, refuses it.
    Denied(Decision),
    /// It would be allowed, but this host cannot do it.
    CannotRun(Decision),
    /// A policy did not answer as it must, or the policies do not agree; what had been said until then.
    Failed(Box<PolicyError>, Decision),
}

impl Verdict {
    /// How it came about.
    pub fn decision(&self) -> &Decision {
        match self {
            Self::Approved(approved) => approved.decision(),
            Self::Denied(decision) | Self::CannotRun(decision) | Self::Failed(_, decision) => {
                decision
            }
        }
    }
}
