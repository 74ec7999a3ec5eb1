//! `qhost policy replay`: past decisions made again.

use std::{collections::BTreeMap, path::Path};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use qhost_engine::config::Config;
use qhost_model::{
    launch::{Change, Violation},
    printable,
};
use qhost_policy::{Chain, Decision, Input, Loader, Outcome, Record, Request, Source};

use super::{RunError, engine, loader_of, show, sources};
use crate::{
    cli::{ReplayArgs, Shared},
    outcome::Exit,
};

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
    differences: Vec<Difference>,
    /// Lines that are no record.
    unreadable: Vec<Unreadable>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    masked: bool,
}

#[derive(Serialize)]
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
            show::print(&if shared.json { show::json(&replay) } else { replay.table() });
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
    let (config, loader) = (engine.config(), loader_of(shared, &engine)?);
    let mut chains = Chains { config, args, loader, by_tenant: BTreeMap::new() };
    let unreadable = |source| RunError::Log { path: args.log.clone(), source };
    let bar = progress(shared);
    let mut replay = Replay::default();
    for line in qhost_policy::lines(&args.log).map_err(unreadable)? {
        let (file, number, text) = line.map_err(unreadable)?;
        let line = format!("{}:{number}", name(&args.log, &file));
        match Record::parse(&text) {
            Ok(record) => {
                replay.record(line, record, &mut chains)?;
            }
            Err(reason) => {
                let reason = printable::line(&reason, 300).to_string();
                replay.unreadable.push(Unreadable { line, reason });
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
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

/// The policies to ask about each tenant's tasks, loaded once.
struct Chains<'a> {
    config: Config,
    args: &'a ReplayArgs,
    loader: Loader,
    by_tenant: BTreeMap<String, Chain>,
}

impl Chains<'_> {
    fn of(&mut self, tenant: &str) -> Result<&Chain, RunError> {
        if !self.by_tenant.contains_key(tenant) {
            let chain = self.loader.chain(self.sources(tenant)?)?;
            self.by_tenant.insert(tenant.into(), chain);
        }
        let lost = || RunError::Usage(format!("no policies for tenant {tenant}"));
        self.by_tenant.get(tenant).ok_or_else(lost)
    }

    /// The configuration's chain, with what the command line puts in its place or before it.
    fn sources(&self, tenant: &str) -> Result<Vec<Source>, RunError> {
        let usage = |error: qhost_engine::config::UnknownTenant| RunError::Usage(error.to_string());
        let configured = self.config.chain(tenant).map_err(usage)?;
        let mut chain = configured
            .iter()
            .map(qhost_engine::sources::of_configuration)
            .collect::<Result<Vec<_>, _>>()?;
        let mut front = vec![];
        for file in &self.args.policies {
            qhost_engine::sources::relied_upon(&file.name, &file.path)?;
            match chain.iter_mut().find(|source| source.name == file.name) {
                Some(source) => (source.path, source.pin) = (file.path.clone(), None),
                None => front.push(file.clone()),
            }
        }
        let (inside, outside): (Vec<_>, Vec<_>) = self
            .args
            .settings
            .iter()
            .cloned()
            .partition(|given| chain.iter().any(|source| source.name == given.name));
        for given in inside {
            let source = chain.iter_mut().find(|source| source.name == given.name);
            if let Some(source) = source {
                source.settings = sources::given_settings(&given.name, &given.value)?;
            }
        }
        Ok([sources::named(&front, &outside)?, chain].concat())
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
        match record.request() {
            Ok(request) => {
                let chain = chains.of(&task.tenant)?;
                self.decide_again(line, record, request, chain);
            }
            Err(reason) => {
                let (tenant, task) = (task.tenant.clone(), task.name.clone());
                self.not_again.push(NotAgain { line, tenant, task, reason });
            }
        }
        Ok(())
    }

    fn decide_again(&mut self, line: String, record: Record, request: Request, chain: &Chain) {
        let masked = !record.masked.is_empty();
        self.masked += usize::from(masked);
        let verdict = chain.decide(request);
        let (was, now) = (&record.decision, verdict.decision());
        let error = verdict.error().map(ToString::to_string);
        let launch = was.launch.changes_to(&now.launch);
        if record.outcome == verdict.outcome() && launch.is_empty() {
            if without_cost(was) == without_cost(now) && record.error == error {
                self.identical += 1
            } else {
                self.same += 1
            }
            return;
        }
        self.differ += 1;
        let Input { task, time, .. } = record.input;
        self.differences.push(Difference {
            line,
            time,
            tenant: task.tenant,
            job: task.job,
            task: task.name,
            was: record.outcome,
            now: verdict.outcome(),
            launch,
            violations: why(now),
            error,
            masked,
        });
    }

    fn table(&self) -> String {
        let mut text = String::new();
        if !self.differences.is_empty() {
            text += &row(["LINE", "TENANT", "TASK", "WAS", "NOW", "WHY"]);
        }
        for difference in &self.differences {
            let task = printable::line(&difference.task, 24).to_string();
            text += &row([
                &difference.line,
                &difference.tenant,
                &task,
                difference.was.name(),
                difference.now.name(),
                &difference.why(),
            ]);
        }
        for NotAgain { line, tenant, task, reason } in &self.not_again {
            let task = printable::line(task, 24);
            text += &format!("{line}: {tenant}'s {task} cannot be decided again: {reason}\n");
        }
        for Unreadable { line, reason } in &self.unreadable {
            text += &format!("{line}: not a record: {reason}\n");
        }
        let Self { records, identical, same, differ, masked, .. } = self;
        text +=
            &format!("{records} decisions: {identical} identical, {same} same, {differ} different");
        if !self.not_again.is_empty() {
            text += &format!("; {} that cannot be made again", self.not_again.len());
        }
        if *masked > 0 {
            text += &format!("; {masked} with masked values, which policies saw masked this time");
        }
        text + "\n"
    }
}

fn row([line, tenant, task, was, now, why]: [&str; 6]) -> String {
    format!("{line:<32} {tenant:<12} {task:<24} {was:<10} {now:<10} {why}\n")
}

impl Difference {
    fn why(&self) -> String {
        let violations =
            self.violations.iter().map(|why| format!("{}: {} {}", why.policy, why.code, why.field));
        let changes =
            self.launch.iter().map(|Change { field, from, to }| format!("{field} {from} → {to}"));
        let reasons: Vec<_> = violations.chain(self.error.clone()).chain(changes).collect();
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
