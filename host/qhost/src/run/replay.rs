//! `qhost policy replay`: past decisions made again.

mod chains;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use qhost_model::{
    launch::{Change, Violation},
    printable,
};
use qhost_policy::{Asked, Chain, Deadline, Decision, Input, Outcome, Record};

use super::{RunError, engine, loader_of, show};
use crate::{
    cli::{ReplayArgs, Shared},
    exit::Exit,
};

use chains::Chains;

/// What became of all records.
#[derive(Default, Serialize)]
struct Replay {
    records: usize,
    /// Answered bit for bit as they were.
    identical: usize,
    /// Ended as they did with the same launch, but other policies were asked, or said other words.
    same: usize,
    /// Ended otherwise, or with another launch.
    differ: usize,
    /// Records that do not say all that a decision is made from.
    not_again: Vec<NotAgain>,
    /// Records in which something is masked, so that a policy may have been shown something else.
    masked: usize,
    totals: Totals,
    differences: Vec<Difference>,
    /// Lines that are no record.
    unreadable: Vec<Unreadable>,
}

/// How many decisions differ, by what they are grouped by; the most first.
#[derive(Default, Serialize)]
struct Totals {
    /// How it ended, and how it ends now.
    outcomes: Vec<Total>,
    /// Whose task it is.
    tenants: Vec<Total>,
    /// What makes the difference: a rule that refuses now, one that refused and does not any more, or a field of the launch.
    rules: Vec<Total>,
}

#[derive(Serialize)]
struct Total {
    what: String,
    decisions: usize,
}

#[derive(Serialize)]
struct Difference {
    line: String,
    time: Timestamp,
    tenant: String,
    job: String,
    task: String,
    was: Outcome,
    now: Outcome,
    /// What now differs in the launch.
    launch: Vec<Change>,
    /// What is now held against it.
    violations: Vec<Why>,
    /// What was held against it, and is not any more.
    no_longer: Vec<Why>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    masked: bool,
}

#[derive(Clone, PartialEq, Serialize)]
struct Why {
    policy: String,
    code: String,
    field: String,
}

#[derive(Serialize)]
struct NotAgain {
    line: String,
    tenant: String,
    task: String,
    reason: String,
}

#[derive(Serialize)]
struct Unreadable {
    line: String,
    reason: String,
}

pub(super) fn replay(shared: &Shared, args: &ReplayArgs) -> Exit {
    match replay_all(shared, args) {
        Ok(replay) => {
            if shared.json {
                show::print(&show::json(&replay));
            } else {
                show::tell(&replay.table());
            }
            match replay.differ + replay.unreadable.len() {
                0 => Exit::Done,
                _ => Exit::CheckFailed,
            }
        }
        Err(error) => show::failure(shared, &error),
    }
}

fn replay_all(shared: &Shared, args: &ReplayArgs) -> Result<Replay, RunError> {
    let engine = engine(shared)?;
    let loader = loader_of(shared, &engine)?;
    let mut chains = Chains::new(engine.clone(), args, loader);
    let log = args.log.clone().unwrap_or_else(|| engine.decisions().folder);
    let unreadable = |source| RunError::Log { path: log.clone(), source };
    let bar = progress(shared);
    let mut replay = Replay::default();
    for line in qhost_policy::lines(&log).map_err(unreadable)? {
        let (file, number, text) = line.map_err(unreadable)?;
        let line = format!("{}:{number}", name(&log, &file));
        match Record::parse(&text) {
            Ok(record) if args.filter.includes(&record) => {
                replay.record(line, record, &mut chains)?;
            }
            Ok(_) => {}
            // Of a tenant's decisions, only that tenant's files are read.
            Err(_) if !args.filter.of.includes_file(&file) => {}
            Err(reason) => {
                let reason = printable::line(&reason, 300).to_string();
                replay.unreadable.push(Unreadable { line, reason });
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    replay.totals = Totals::of(&replay.differences);
    Ok(replay)
}

/// A file of a log: its name, and its tenant's folder.
fn name(log: &Path, file: &Path) -> String {
    let below = file.strip_prefix(log).ok().filter(|below| !below.as_os_str().is_empty());
    let name = below.or(file.file_name().map(Path::new)).unwrap_or(file);
    printable::line(&name.to_string_lossy(), 120).to_string()
}

fn progress(shared: &Shared) -> ProgressBar {
    let style = ProgressStyle::with_template("replaying {spinner} {pos} decisions, {per_sec}");
    let bar =
        if show::on_terminal(shared) { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Replay {
    fn record(
        &mut self,
        line: String,
        record: Record,
        chains: &mut Chains<'_>,
    ) -> Result<(), RunError> {
        // The decision itself is in a record before it.
        if record.outcome == Outcome::NotLaunched {
            return Ok(());
        }
        self.records += 1;
        let task = &record.input.task;
        match record.asked() {
            Ok(asked) => {
                let tenant = task.tenant.clone();
                let tables = match chains.tables_of(&record) {
                    Ok(tables) => tables,
                    Err(reason) => {
                        let task = task.name.clone();
                        self.not_again.push(NotAgain { line, tenant, task, reason });
                        return Ok(());
                    }
                };
                let chain = chains.of(&tenant)?;
                if tables.is_empty() {
                    self.decide_again(line, record, asked, chain);
                } else {
                    self.decide_again(line, record, asked, &chain.with_tables(&tables));
                }
            }
            Err(reason) => {
                let (tenant, task) = (task.tenant.clone(), task.name.clone());
                self.not_again.push(NotAgain { line, tenant, task, reason });
            }
        }
        Ok(())
    }

    fn decide_again(&mut self, line: String, record: Record, asked: Asked, chain: &Chain) {
        let masked = !record.masked.is_empty();
        self.masked += usize::from(masked);
        let again = Again::decide(asked, chain);
        let (was, now, error) = (&record.decision, &again.decision, again.error);
        let launch = was.launch.changes_to(&now.launch);
        if record.outcome == again.outcome && launch.is_empty() {
            if without_cost(was) == without_cost(now) && record.error == error {
                self.identical += 1
            } else {
                self.same += 1
            }
            return;
        }
        self.differ += 1;
        let (before, now_refused) = (why(was), why(now));
        let no_longer = before.into_iter().filter(|one| !now_refused.contains(one)).collect();
        let Input { task, time, .. } = record.input;
        self.differences.push(Difference {
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

    fn table(&self) -> String {
        let mut text = String::new();
        if !self.differences.is_empty() {
            let header = ["LINE", "TASK", "WAS", "NOW", "WHY"].map(str::to_owned);
            let rows = self.differences.iter().map(Difference::row);
            text += &show::table(&[header].into_iter().chain(rows).collect::<Vec<_>>());
        }
        for NotAgain { line, tenant, task, reason } in &self.not_again {
            let task = printable::line(task, 24);
            text += &format!("{line}: {tenant}'s {task} cannot be decided again: {reason}\n");
        }
        for Unreadable { line, reason } in &self.unreadable {
            text += &format!("{line}: not a record: {reason}\n");
        }
        let Self { records, identical, same, differ, masked, totals, .. } = self;
        let Totals { outcomes, tenants, rules } = totals;
        for (name, totals) in [("OUTCOME", outcomes), ("TENANT", tenants), ("RULE", rules)] {
            text += &Totals::table(name, totals);
        }
        if !text.is_empty() {
            text += "\n";
        }
        text += &format!(
            "decisions: {records}, of which {identical} identical, {same} same, {differ} different"
        );
        if !self.not_again.is_empty() {
            text += &format!("; {} that cannot be made again", self.not_again.len());
        }
        if *masked > 0 {
            text += &format!("; {masked} with masked values, which policies saw masked this time");
        }
        text + "\n"
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

    fn table(name: &str, totals: &[Total]) -> String {
        if totals.is_empty() {
            return String::new();
        }
        let header = [name, "DIFFERENT"].map(str::to_owned);
        let rows = totals.iter().map(|Total { what, decisions }| {
            [printable::line(what, 100).to_string(), decisions.to_string()]
        });
        format!("\n{}", show::table(&[header].into_iter().chain(rows).collect::<Vec<_>>()))
    }
}

fn totals(differences: &[Difference], what: impl Fn(&Difference) -> Vec<String>) -> Vec<Total> {
    let mut counts = BTreeMap::<String, usize>::new();
    for difference in differences {
        // One decision counts once, however often a rule of it was broken.
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
    fn row(&self) -> [String; 5] {
        let shown = |text: &str| printable::line(text, 40).to_string();
        [
            self.line.clone(),
            format!("{}/{}", shown(&self.tenant), shown(&self.task)),
            self.was.name().to_owned(),
            self.now.name().to_owned(),
            self.why(),
        ]
    }

    /// What makes the difference, by the names of rules and fields.
    fn rules(&self) -> Vec<String> {
        let now = self.violations.iter().map(|why| format!("{}: {}", why.policy, why.code));
        let gone =
            self.no_longer.iter().map(|why| format!("{}: {}, no longer", why.policy, why.code));
        let launch = self.launch.iter().map(|change| format!("launch: {}", change.field));
        let failed = self.error.iter().map(|_| "a policy fails".to_owned());
        now.chain(gone).chain(launch).chain(failed).collect()
    }

    fn why(&self) -> String {
        let violations =
            self.violations.iter().map(|why| format!("{}: {} {}", why.policy, why.code, why.field));
        let gone = self
            .no_longer
            .iter()
            .map(|why| format!("no longer {}: {} {}", why.policy, why.code, why.field));
        let changes =
            self.launch.iter().map(|Change { field, from, to }| format!("{field} {from} → {to}"));
        let reasons: Vec<_> =
            violations.chain(gone).chain(self.error.clone()).chain(changes).collect();
        printable::line(&reasons.join("; "), 300).to_string()
    }
}

/// A decision as it can be compared: what asking cost is never the same twice.
fn without_cost(decision: &Decision) -> Decision {
    let mut decision = decision.clone();
    let others = decision.places.iter_mut().flat_map(|other| &mut other.policies);
    for policy in decision.policies.iter_mut().chain(others) {
        policy.cost = qhost_policy::Cost::default();
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
