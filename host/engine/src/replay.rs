//! Makes past decisions again, by the policies in force or by others, and shows which would be decided otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use qhost_model::{
    digest::Sha256,
    job::Task,
    launch::{Change, Violation},
    printable,
};
use qhost_policy::{Asked, Chain, Cost, Deadline, Decision, Input, Outcome, Record, Table, Tables};

use crate::{engine::Engine, limits};

/// What became of all records.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Replay {
    /// How many there were.
    pub records: usize,
    /// Answered bit for bit as they were.
    pub identical: usize,
    /// Ended as they did with the same launch, but other policies were asked, or said other words.
    pub same: usize,
    /// Ended otherwise, or with another launch.
    pub differ: usize,
    /// Records that do not say all that a decision is made from.
    pub not_again: Vec<NotAgain>,
    /// Records in which something is masked, so that a policy may have been shown something else.
    pub masked: usize,
    /// What differs, counted.
    pub totals: Totals,
    /// What differs.
    pub differences: Vec<Difference>,
    /// Lines that are no record.
    pub unreadable: Vec<Unreadable>,
}

/// How many decisions differ, by what they are grouped by; the most first.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Totals {
    /// How it ended, and how it ends now.
    pub outcomes: Vec<Total>,
    /// Whose task it is.
    pub tenants: Vec<Total>,
    /// What makes the difference: a rule that refuses now, one that refused and does not any more, or a field of the launch.
    pub rules: Vec<Total>,
}

/// A count.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Total {
    /// What is counted.
    pub what: String,
    /// How many decisions.
    pub decisions: usize,
}

/// A decision that is another one now.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Difference {
    /// Its line in the log.
    pub line: String,
    /// When it was made.
    pub time: Timestamp,
    /// Whose task it is about.
    pub tenant: String,
    /// The job.
    pub job: String,
    /// The task.
    pub task: String,
    /// How it ended.
    pub was: Outcome,
    /// How it ends now.
    pub now: Outcome,
    /// What now differs in the launch.
    #[schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>")]
    pub launch: Vec<Change>,
    /// What is now held against it.
    pub violations: Vec<Why>,
    /// What was held against it, and is not any more.
    pub no_longer: Vec<Why>,
    /// Why it fails now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether something in its record is masked.
    pub masked: bool,
}

/// What is held against a launch.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Why {
    /// By which policy, or by the host.
    pub policy: String,
    /// Its name for the rule.
    pub code: String,
    /// The field that it is about.
    pub field: String,
}

/// A decision that cannot be made again.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NotAgain {
    /// Its line in the log.
    pub line: String,
    /// Whose task it is about.
    pub tenant: String,
    /// The task.
    pub task: String,
    /// Why not.
    pub reason: String,
}

/// A line that is no record.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Unreadable {
    /// The line.
    pub line: String,
    /// Why not.
    pub reason: String,
}

/// Makes decisions again, and counts what becomes of them.
pub struct Replaying {
    engine: Engine,
    replay: Replay,
    /// The tables that the decisions were made with, by their digests.
    tables: BTreeMap<Sha256, Arc<Table>>,
}

impl Engine {
    /// Begins a replay, in which tables are as they were when the decisions were made.
    pub fn replaying(&self) -> Replaying {
        Replaying { engine: self.clone(), replay: Replay::default(), tables: BTreeMap::new() }
    }
}

impl Replaying {
    /// Makes a record's decision again by the chain that `chain_of` gives for its tenant. `line` says where the record stands in the log.
    ///
    /// # Errors
    /// Fails with the error of `chain_of`.
    pub fn decide<E>(
        &mut self,
        line: String,
        record: Record,
        chain_of: impl FnOnce(&str) -> Result<Chain, E>,
    ) -> Result<(), E> {
        // A record of an order that was not launched follows the record of its decision, which is replayed by itself.
        if record.outcome == Outcome::NotLaunched {
            return Ok(());
        }
        self.replay.records += 1;
        let asked = record.asked().and_then(|asked| Ok((asked, self.tables_of(&record)?)));
        match asked {
            Ok((asked, tables)) => {
                let chain = chain_of(&record.input.task.tenant)?;
                let chain = if tables.is_empty() { chain } else { chain.with_tables(&tables) };
                self.decide_again(line, record, asked, &chain);
            }
            Err(reason) => {
                let Input { task, .. } = record.input;
                let (tenant, task) = (task.tenant, task.name);
                self.replay.not_again.push(NotAgain { line, tenant, task, reason });
            }
        }
        Ok(())
    }

    /// Counts a decision that cannot be made again.
    pub fn not_again(&mut self, line: String, task: &Task, reason: String) {
        self.replay.records += 1;
        let (tenant, task) = (task.tenant.clone(), task.name.clone());
        self.replay.not_again.push(NotAgain { line, tenant, task, reason });
    }

    /// Counts a line that is no record.
    pub fn unreadable(&mut self, line: String, reason: &str) {
        let reason = printable::line(reason, limits::SHOWN_REASON_CHARS).to_string();
        self.replay.unreadable.push(Unreadable { line, reason });
    }

    /// The result of the replay.
    pub fn finish(mut self) -> Replay {
        self.replay.totals = Totals::of(&self.replay.differences);
        self.replay
    }

    /// The tables that a decision was made with.
    fn tables_of(&mut self, record: &Record) -> Result<Tables, String> {
        let mut found = Tables::new();
        for (name, sha256) in record.decision.policies.iter().flat_map(|policy| &policy.tables) {
            let table = match self.tables.get(sha256) {
                Some(table) => Arc::clone(table),
                None => {
                    let kept = self.engine.kept_table(*sha256).map_err(|reason| {
                        format!("its table {name} is not kept any more: {reason}")
                    });
                    let table = Arc::new(kept?);
                    self.tables.insert(*sha256, Arc::clone(&table));
                    table
                }
            };
            found.insert(name.clone(), table);
        }
        Ok(found)
    }

    fn decide_again(&mut self, line: String, record: Record, asked: Asked, chain: &Chain) {
        let replay = &mut self.replay;
        let masked = !record.masked.is_empty();
        replay.masked += usize::from(masked);
        let again = Again::decide(asked, chain);
        let (was, now, error) = (&record.decision, &again.decision, again.error);
        let launch = was.launch.changes_to(&now.launch);
        if record.outcome == again.outcome && launch.is_empty() {
            if without_cost(was) == without_cost(now) && record.error == error {
                replay.identical += 1
            } else {
                replay.same += 1
            }
            return;
        }
        replay.differ += 1;
        let (before, now_refused) = (why(was), why(now));
        let no_longer = before.into_iter().filter(|one| !now_refused.contains(one)).collect();
        let Input { task, time, .. } = record.input;
        replay.differences.push(Difference {
            line,
            time,
            tenant: task.tenant,
            job: task.job,
            task: task.name,
            was: record.outcome,
            now: again.outcome,
            launch,
            violations: now_refused,
            no_longer,
            error,
            masked,
        });
    }
}

/// A decision that was made again.
struct Again {
    outcome: Outcome,
    decision: Decision,
    error: Option<String>,
}

impl Again {
    fn decide(asked: Asked, chain: &Chain) -> Self {
        match asked {
            Asked::Launch(request) => {
                let verdict = chain.decide(*request);
                let error = verdict.error().map(ToString::to_string);
                Self { outcome: verdict.outcome(), decision: verdict.decision().clone(), error }
            }
            Asked::Operation(operation) => {
                let deadline = Deadline::after(qhost_policy::limits::DECISION);
                let permission = chain.permit(&operation, deadline);
                let error = permission.error().map(ToString::to_string);
                let decision = permission.decision().clone();
                Self { outcome: permission.outcome(), decision, error }
            }
        }
    }
}

impl Totals {
    fn of(differences: &[Difference]) -> Self {
        let outcome = |one: &Difference| vec![format!("{} → {}", one.was.name(), one.now.name())];
        Self {
            outcomes: totals(differences, outcome),
            tenants: totals(differences, |one| vec![one.tenant.clone()]),
            rules: totals(differences, Difference::rules),
        }
    }
}

fn totals(differences: &[Difference], what: impl Fn(&Difference) -> Vec<String>) -> Vec<Total> {
    let mut counts = BTreeMap::<String, usize>::new();
    for difference in differences {
        // A decision counts once for each rule, however often it broke the rule.
        for what in what(difference).into_iter().collect::<BTreeSet<_>>() {
            *counts.entry(what).or_default() += 1;
        }
    }
    let totals = counts.into_iter().map(|(what, decisions)| Total { what, decisions });
    let mut totals: Vec<_> = totals.collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.decisions));
    totals
}

impl Difference {
    /// The causes of the difference, by the names of rules and fields.
    fn rules(&self) -> Vec<String> {
        let now = self.violations.iter().map(|why| format!("{}: {}", why.policy, why.code));
        let gone =
            self.no_longer.iter().map(|why| format!("{}: {}, no longer", why.policy, why.code));
        let launch = self.launch.iter().map(|change| format!("launch: {}", change.field));
        let failed = self.error.iter().map(|_| "a policy fails".to_owned());
        now.chain(gone).chain(launch).chain(failed).collect()
    }
}

/// A decision without what asking its policies cost, which is never the same twice, so that decisions can be compared.
fn without_cost(decision: &Decision) -> Decision {
    let mut decision = decision.clone();
    let others = decision.places.iter_mut().flat_map(|other| &mut other.policies);
    for policy in decision.policies.iter_mut().chain(others) {
        policy.cost = Cost::default();
    }
    decision
}

fn why(decision: &Decision) -> Vec<Why> {
    let policies = decision.policies.iter().filter(|policy| policy.refuses());
    let policies = policies.map(|policy| (policy.name.as_str(), &policy.violations));
    let all = policies.chain([("host", &decision.host.violations)]);
    let why = |name: &str, violation: &Violation| Why {
        policy: name.into(),
        code: violation.code.clone(),
        field: violation.field.clone(),
    };
    all.flat_map(|(name, violations)| violations.iter().map(move |one| why(name, one))).collect()
}
