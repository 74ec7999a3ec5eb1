//! `qhost policy replay`: past decisions made again.

mod chains;

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use qhost_engine::replay::{Difference, NotAgain, Replay, Total, Totals, Unreadable};
use qhost_model::{launch::Change, printable};
use qhost_policy::Record;

use super::{RunError, engine, loader_of, show};
use crate::{
    cli::{ReplayArgs, Shared},
    exit::Exit,
};

use chains::Chains;

pub(super) fn replay(shared: &Shared, args: &ReplayArgs) -> Exit {
    match replay_all(shared, args) {
        Ok(replay) => {
            if shared.json {
                show::print(&show::json(&replay));
            } else {
                show::tell(&table(&replay));
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
    let mut chains = Chains::new(&engine, args, loader);
    let log = args.log.clone().unwrap_or_else(|| engine.decisions().folder);
    let unreadable = |source| RunError::Log { path: log.clone(), source };
    let bar = progress(shared);
    let mut replaying = engine.replaying();
    for line in qhost_policy::lines(&log).map_err(unreadable)? {
        let (file, number, text) = line.map_err(unreadable)?;
        let line = format!("{}:{number}", name(&log, &file));
        match Record::parse(&text) {
            Ok(record) if args.filter.includes(&record) => {
                replaying.decide(line, record, |tenant| chains.of(tenant).cloned())?;
            }
            Ok(_) => {}
            // A tenant's own replay needs that tenant's files alone, so that other files may be unreadable.
            Err(_) if !args.filter.of.includes_file(&file) => {}
            Err(reason) => {
                replaying.unreadable(line, &reason);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(replaying.finish())
}

/// A log file's name, with its tenant's folder.
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

fn table(replay: &Replay) -> String {
    let mut text = String::new();
    if !replay.differences.is_empty() {
        let header = ["LINE", "TASK", "WAS", "NOW", "WHY"].map(str::to_owned);
        let rows = replay.differences.iter().map(row);
        text += &show::table(&[header].into_iter().chain(rows).collect::<Vec<_>>());
    }
    for NotAgain { line, tenant, task, reason } in &replay.not_again {
        let task = printable::line(task, 24);
        text += &format!("{line}: {tenant}'s {task} cannot be decided again: {reason}\n");
    }
    for Unreadable { line, reason } in &replay.unreadable {
        text += &format!("{line}: not a record: {reason}\n");
    }
    let Replay { records, identical, same, differ, masked, totals, .. } = replay;
    let Totals { outcomes, tenants, rules } = totals;
    for (name, totals) in [("OUTCOME", outcomes), ("TENANT", tenants), ("RULE", rules)] {
        text += &counts(name, totals);
    }
    if !text.is_empty() {
        text += "\n";
    }
    text += &format!(
        "decisions: {records}, of which {identical} identical, {same} same, {differ} different"
    );
    if !replay.not_again.is_empty() {
        text += &format!("; {} that cannot be made again", replay.not_again.len());
    }
    if *masked > 0 {
        text += &format!("; {masked} with masked values, which policies saw masked this time");
    }
    text + "\n"
}

fn counts(name: &str, totals: &[Total]) -> String {
    if totals.is_empty() {
        return String::new();
    }
    let header = [name, "DIFFERENT"].map(str::to_owned);
    let rows = totals.iter().map(|Total { what, decisions }| {
        [printable::line(what, 100).to_string(), decisions.to_string()]
    });
    format!("\n{}", show::table(&[header].into_iter().chain(rows).collect::<Vec<_>>()))
}

fn row(one: &Difference) -> [String; 5] {
    let shown = |text: &str| printable::line(text, 40).to_string();
    [
        one.line.clone(),
        format!("{}/{}", shown(&one.tenant), shown(&one.task)),
        one.was.name().to_owned(),
        one.now.name().to_owned(),
        why(one),
    ]
}

fn why(one: &Difference) -> String {
    let violations =
        one.violations.iter().map(|why| format!("{}: {} {}", why.policy, why.code, why.field));
    let gone = one
        .no_longer
        .iter()
        .map(|why| format!("no longer {}: {} {}", why.policy, why.code, why.field));
    let changes =
        one.launch.iter().map(|Change { field, from, to }| format!("{field} {from} → {to}"));
    let reasons: Vec<_> = violations.chain(gone).chain(one.error.clone()).chain(changes).collect();
    printable::line(&reasons.join("; "), 300).to_string()
}
