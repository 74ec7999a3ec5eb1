//! `qhost policy test`, `lint` and `bench`.

use std::{fs, path::Path};

use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;

use qhost_model::printable;
use qhost_sys::state;

use super::{RunError, loader, show};
use crate::{
    cli::{BenchArgs, LintArgs, Shared, TestArgs},
    exit::Exit,
    limits,
    trial::{self, Case, Finding, Measured, Project, TrialError, Tried, example},
};

/// Ends a check, which has already printed its results.
fn end(shared: &Shared, checked: Result<bool, RunError>) -> Exit {
    match checked {
        Ok(true) => Exit::Done,
        Ok(false) => Exit::CheckFailed,
        Err(error) => show::failure(shared, &error),
    }
}

pub(super) fn test(shared: &Shared, args: &TestArgs) -> Exit {
    end(shared, try_test(shared, args))
}

fn try_test(shared: &Shared, args: &TestArgs) -> Result<bool, RunError> {
    if args.example {
        let example = json!({"job": example::job(), "host": example::host()});
        let pretty = serde_json::to_string_pretty(&example).unwrap_or_default() + "\n";
        show::print(&if shared.json { show::json(&example) } else { pretty });
        return Ok(true);
    }
    let project = Project::with_cases(&args.project)?;
    say_if_stale(shared, &project);
    let bar = spinner(shared);
    let tried = trial::run(&project, &loader(shared)?, |case| at(&bar, "trying", case))?;
    bar.finish_and_clear();
    if let Some(path) = &args.junit {
        trial::junit(path, &project.name, &tried)?;
    }
    let rewritten = if args.update { update(&project, &tried)? } else { 0 };
    let failed = tried.iter().filter(|tried| !tried.passed).count();
    if shared.json {
        #[derive(Serialize)]
        struct Tested<'a> {
            passed: usize,
            failed: usize,
            rewritten: usize,
            cases: &'a [Tried],
        }
        let passed = tried.len() - failed;
        show::print(&show::json(&Tested { passed, failed, rewritten, cases: &tried }));
    } else {
        show::tell(&tried.iter().map(told).collect::<String>());
        let passed = tried.len() - failed;
        let updated = if args.update { format!(", {rewritten} rewritten") } else { String::new() };
        show::print(&format!("{passed} passed, {failed} failed{updated}\n"));
    }
    // No expectation mends a breach of the contract.
    let contract_breaches = tried.iter().any(|tried| !tried.contract_breaches.is_empty());
    Ok(failed == 0 || (args.update && !contract_breaches))
}

/// Warns if a source is newer than the component, since the cases would try an old policy.
fn say_if_stale(shared: &Shared, project: &Project) {
    let Some(source) = trial::newer_source(project) else { return };
    let module = project.module.display();
    let folder = project.module.parent().filter(|folder| *folder != Path::new(""));
    let build = folder.map_or_else(String::new, |folder| format!(" {}", folder.display()));
    if !shared.json {
        show::say(&format!(
            "{} {module} is older than {}; to rebuild it: qhost policy build{build}",
            show::warning("warning  "),
            source.display()
        ));
    }
}

/// The spinner that a terminal shows while cases are tried.
fn spinner(shared: &Shared) -> ProgressBar {
    if !show::on_terminal(shared) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(limits::SPINNER);
    bar
}

fn at(bar: &ProgressBar, doing: &str, case: &Case) {
    bar.set_message(format!("{doing} {}", printable::line(&case.name, 60)));
}

fn update(project: &Project, tried: &[Tried]) -> Result<usize, TrialError> {
    let mut rest = tried;
    let mut rewritten = 0;
    for file in &project.files {
        let (of_file, others) = rest.split_at(file.cases.len().min(rest.len()));
        rewritten += trial::update(file, of_file)?;
        rest = others;
    }
    Ok(rewritten)
}

fn told(tried: &Tried) -> String {
    let word = if tried.passed { show::good("ok     ") } else { show::bad("FAILED ") };
    let name = printable::line(&tried.name, 100);
    let mut text = format!("{word}{name} ({}:{})\n", tried.file, tried.line);
    for line in tried.diff.lines() {
        text += &format!("       {line}\n");
    }
    for what in &tried.contract_breaches {
        text += &format!("       ! contract breach: {what}\n");
    }
    // The log of a case that passed is of no use.
    for line in tried.log.iter().filter(|_| !tried.passed) {
        text += &format!("       {} {}\n", line.level, line.message);
    }
    text
}

pub(super) fn lint(shared: &Shared, args: &LintArgs) -> Exit {
    end(shared, try_lint(shared, args))
}

fn try_lint(shared: &Shared, args: &LintArgs) -> Result<bool, RunError> {
    let project = Project::open(&args.project)?;
    say_if_stale(shared, &project);
    let bar = spinner(shared);
    let findings = trial::lint(&project, &loader(shared)?, |case| at(&bar, "looking at", case))?;
    bar.finish_and_clear();
    if shared.json {
        show::print(&show::json(&serde_json::json!({"findings": findings})));
        return Ok(findings.is_empty());
    }
    let mut text = String::new();
    for Finding { code, case, message, hint } in &findings {
        let case = case
            .as_ref()
            .map_or(String::new(), |case| format!(" ({})", printable::line(case, 100)));
        text += &format!("{}{case}: {}\n", show::bad(code), printable::line(message, 500));
        text += &format!("    hint: {hint}\n");
    }
    text += &match findings.len() {
        0 => format!("{}: nothing found\n", project.name),
        1 => "1 finding\n".into(),
        count => format!("{count} findings\n"),
    };
    show::tell(&text);
    Ok(findings.is_empty())
}

pub(super) fn bench(shared: &Shared, args: &BenchArgs) -> Exit {
    end(shared, try_bench(shared, args).map(|()| true))
}

/// The costs of a case beside its baseline.
#[derive(Serialize)]
struct Compared {
    #[serde(flatten)]
    now: Measured,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Measured>,
    /// The median divided by the baseline's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

fn try_bench(shared: &Shared, args: &BenchArgs) -> Result<(), RunError> {
    let project = Project::open(&args.project)?;
    let folder = project.module.parent().unwrap_or(Path::new(""));
    let path = args.baseline.clone().unwrap_or_else(|| folder.join("bench.json"));
    let before = baseline(&path, args.baseline.is_some() && !args.save)?;
    say_if_stale(shared, &project);
    let (bar, loader) = (spinner(shared), loader(shared)?);
    let progress = |case: &Case| at(&bar, "measuring", case);
    let measured = trial::bench(&project, &loader, args.decisions, progress)?;
    bar.finish_and_clear();
    if args.save {
        let text = serde_json::json!({"cases": measured}).to_string() + "\n";
        state::write_shared(&path, text.as_bytes()).map_err(|source| unwritable(&path, source))?;
    }
    let compared: Vec<_> = measured.into_iter().map(|now| compare(now, &before)).collect();
    if shared.json {
        show::print(&show::json(&serde_json::json!({"cases": compared})));
    } else {
        show::print(&table(&compared));
    }
    Ok(())
}

fn unwritable(path: &Path, source: std::io::Error) -> TrialError {
    TrialError::Unwritable { path: path.into(), source }
}

#[derive(serde::Deserialize)]
struct Baseline {
    cases: Vec<Measured>,
}

/// Reads the baseline; empty if there is none and none was asked for.
fn baseline(path: &Path, asked_for: bool) -> Result<Vec<Measured>, TrialError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => {
            return Ok(vec![]);
        }
        Err(source) => return Err(TrialError::Unreadable { path: path.into(), source }),
    };
    let parsed: Result<Baseline, _> = serde_json::from_slice(&text);
    parsed.map(|baseline| baseline.cases).map_err(|error| TrialError::Case {
        path: path.into(),
        place: error.line().to_string(),
        reason: format!("not a baseline: {error}; qhost policy bench --save writes one"),
    })
}

fn compare(now: Measured, before: &[Measured]) -> Compared {
    let baseline = before.iter().find(|before| before.name == now.name).cloned();
    let ratio = baseline.as_ref().map(|before| now.p50_us / before.p50_us);
    Compared { now, baseline, ratio }
}

fn table(compared: &[Compared]) -> String {
    let mut text = format!(
        "{:<40} {:>9} {:>9} {:>10} {:>9}  BASELINE\n",
        "CASE", "P50 µs", "P99 µs", "MEMORY KiB", "LOG bytes"
    );
    for Compared { now, baseline, ratio } in compared {
        let name = printable::line(&now.name, 40).to_string();
        text += &format!(
            "{name:<40} {:>9.1} {:>9.1} {:>10} {:>9}",
            now.p50_us,
            now.p99_us,
            now.peak_memory >> 10,
            now.log_bytes
        );
        text += &match (baseline, ratio) {
            (Some(before), Some(ratio)) => format!("  {:.1} µs, {ratio:.2} of it\n", before.p50_us),
            (_, _) => "  none\n".into(),
        };
    }
    text
}
