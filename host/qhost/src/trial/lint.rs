//! Checks what the cases of a policy do not show by themselves: that the policy gives one answer, soon, with room to spare, and imports
//! nothing that it does not use.

use std::{collections::BTreeSet, fs, time::Duration};

use jiff::ToSpan as _;
use serde::Serialize;
use wasmparser::{
    ElementItems, ExternalKind, ImportSectionReader, Operator, Parser, Payload, TypeRef,
};

use qhost_policy::{About, Answer, Chain, Cost, Decision, Facts, Loader, PolicyError};

use super::{
    Case, Project, TrialError,
    answer::{CaseAnswer, ask},
    bench, unreadable,
};
use crate::limits;

/// A problem of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name for programs.
    pub code: &'static str,
    /// The case that shows the problem, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// The problem.
    pub message: String,
    /// What can be done about the problem.
    pub hint: &'static str,
}

/// Checks a policy, and gives all that is found. `progress` is called with each case first.
pub fn lint(
    project: &Project,
    loader: &Loader,
    mut progress: impl FnMut(&Case),
) -> Result<Vec<Finding>, TrialError> {
    let cases = project.all_cases()?;
    let wasi = cases.iter().any(|case| case.wasi);
    let allowance = qhost_policy::Allowance { wasi, ..Default::default() };
    let facts = loader.inspect(&project.name, &project.module, &allowance)?.facts;
    let mut findings = unused(project, &facts)?;
    findings.extend(nameless(&facts.about));
    findings.extend(settings(project, loader, &facts, cases.first())?);
    for case in &cases {
        progress(case);
        match project.chain(loader, case) {
            Ok(chain) => findings.extend(looked_at(project, loader, case, &chain)?),
            // A case whose settings are refused has nothing more to check.
            Err(error) if error.is_about_settings() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(findings)
}

fn looked_at(
    project: &Project,
    loader: &Loader,
    case: &Case,
    chain: &Chain,
) -> Result<Vec<Finding>, TrialError> {
    let found =
        |code, message, hint| Finding { code, case: Some(case.name.clone()), message, hint };
    let first = ask(chain, case);
    let mut findings = vec![];
    if let Some(error) = &first.error {
        let (code, hint) = if matches!(**error, PolicyError::Unsettled { .. }) {
            (
                "not-idempotent",
                "choose must return its own result unchanged: set values, do not add to them",
            )
        } else {
            ("fails", FAILS)
        };
        findings.push(found(code, error.to_string(), hint));
        return Ok(findings);
    }
    if let Some(message) = differs(project, loader, case, &first)? {
        let hint = "the same request must give the same answer: look at nothing but the arguments";
        findings.push(found("not-deterministic", message, hint));
    }
    let record = first.decision.policies.first();
    for message in record.map_or(&[][..], |record| &record.contract_breaches) {
        findings.push(found("contract-breach", message.clone(), CONTRACT));
    }
    let measured = match bench::one(project, loader, case, limits::LINT_DECISIONS) {
        Err(TrialError::InCase { source, .. }) => {
            findings.push(found("fails", format!("it fails now and then: {source}"), FAILS));
            return Ok(findings);
        }
        measured => measured?,
    };
    let slow = measured.p50_us > limits::LINT_SLOW.as_secs_f64() * 1e6;
    if slow {
        let message = format!("half of the decisions take more than {:.0} µs", measured.p50_us);
        findings.push(found("slow", message, "qhost policy bench says what each case costs"));
    }
    let grown = record.map_or(0, |record| record.cost.grown_memory);
    if grown > 0 {
        let message = format!("its memory grows by {} KiB in a decision", grown >> 10);
        let hint = "decisions of other threads wait for it; let the heap lie in the initial memory: Rust's SDK has room for 256 KiB, wasm-ld has --initial-memory";
        findings.push(found("grows-its-memory", message, hint));
    }
    if let Some(message) = record.and_then(|record| near(&record.cost, record.log_dropped)) {
        let hint = "raise the limit in the configuration, or do less; more input takes more";
        findings.push(found("near-its-limits", message, hint));
    }
    Ok(findings)
}

const FAILS: &str =
    "a run under a policy that fails ends in exit code 12; return a violation instead";
const CONTRACT: &str =
    "what a person or a program goes by is missing; wit/policy.wit has the lengths of each text";

/// Finds a policy that has no name or no version.
fn nameless(about: &About) -> Vec<Finding> {
    let texts = [("name", &about.name), ("version", &about.version)];
    let nameless = texts.into_iter().filter(|(_, text)| text.is_empty());
    let finding = |(what, _)| Finding {
        code: "contract-breach",
        case: None,
        message: format!("its {what} in describe is empty"),
        hint: CONTRACT,
    };
    nameless.map(finding).collect()
}

/// Decides a case again in a sandbox of its own, and with WASI on another day; gives the first difference.
fn differs(
    project: &Project,
    loader: &Loader,
    case: &Case,
    first: &CaseAnswer,
) -> Result<Option<String>, TrialError> {
    let mut later = case.clone();
    if case.wasi {
        later.request.time =
            later.request.time.checked_add(30.hours()).unwrap_or(case.request.time);
    }
    let when = if case.wasi { "a day later" } else { "asked again" };
    let second = ask(&project.chain(loader, &later)?, &later);
    let (before, after) = (answers(&first.decision), answers(&second.decision));
    Ok((before != after || first.outcome != second.outcome)
        .then(|| format!("{when}, it answers otherwise: {before} became {after}")))
}

/// The answers of a decision, without their costs.
fn answers(decision: &Decision) -> String {
    let policies = decision.policies.iter().map(|policy| {
        let violations: Vec<_> = policy.violations.iter().map(|one| &one.code).collect();
        let refused = if policy.answer == Answer::Refused { "refused" } else { "allowed" };
        format!("{refused} {violations:?} {}", serde_json::json!(policy.changes))
    });
    policies.collect()
}

/// Says how near a decision came to a limit.
fn near(cost: &Cost, log_dropped: u64) -> Option<String> {
    let deadline = qhost_policy::limits::POLICY_DEADLINE;
    let memory = qhost_policy::limits::POLICY_MEMORY_BYTES as u64;
    if Duration::from_micros(cost.micros) > deadline / 2 {
        return Some(format!("it takes {} ms of {} ms", cost.micros / 1000, deadline.as_millis()));
    }
    if cost.peak_memory > memory / 4 * 3 {
        return Some(format!("it takes {} MiB of {} MiB", cost.peak_memory >> 20, memory >> 20));
    }
    (log_dropped > 0).then(|| format!("{log_dropped} lines of its log are dropped"))
}

/// Finds settings that a policy takes and does not describe, or lets pass although it does not know them.
fn settings(
    project: &Project,
    loader: &Loader,
    facts: &Facts,
    case: Option<&Case>,
) -> Result<Vec<Finding>, TrialError> {
    let found =
        |code, message: &str, hint| Finding { code, case: None, message: message.into(), hint };
    let Some(case) = case else { return Ok(vec![]) };
    let accepts = |settings: serde_json::Value| match project
        .chain(loader, &Case { settings, ..case.clone() })
    {
        Ok(_) => Ok(true),
        Err(error) if error.is_about_settings() => Ok(false),
        Err(error) => Err(error),
    };
    let none = serde_json::json!({});
    let takes_some =
        !accepts(none.clone())? || (case.settings != none && accepts(case.settings.clone())?);
    let passes = accepts(serde_json::json!({"qhost-lint-no-such-setting": true}))?;
    Ok(match &facts.about.settings_schema {
        None if takes_some => vec![found(
            "settings-without-schema",
            "it takes settings and describes none",
            "return a JSON Schema in describe, so that operators and qhost config check know them",
        )],
        Some(serde_json::Value::String(_)) => vec![found(
            "schema-is-no-json",
            "its settings schema is not JSON",
            "return the JSON Schema as text in describe",
        )],
        Some(_) if passes => vec![found(
            "misspelt-settings-pass",
            "it accepts a setting that it does not know, so a misspelt one is ignored",
            "refuse unknown keys in check-settings; in Rust, #[serde(deny_unknown_fields)]",
        )],
        Some(_) | None => vec![],
    })
}

/// Finds interfaces that the component imports and none of its modules calls.
fn unused(project: &Project, facts: &Facts) -> Result<Vec<Finding>, TrialError> {
    let bytes = fs::read(&project.module).map_err(unreadable(&project.module))?;
    // The component loads, so that it can be parsed; a core module becomes a component only with what it uses.
    let called = called(&bytes).unwrap_or_default();
    let is_called = |interface: &String| {
        let plain = interface.split('@').next().unwrap_or(interface);
        called.iter().any(|name| name.split('@').next() == Some(plain))
    };
    let unused = facts.imports.iter().filter(|interface| !is_called(interface));
    let finding = |interface: &String| Finding {
        code: "unused-import",
        case: None,
        message: format!("it imports {interface} and never calls it"),
        hint: "build it without; what a policy cannot reach cannot be used against it",
    };
    Ok(unused.map(finding).collect())
}

/// The names of modules whose imported functions a core module calls, refers to or exports.
fn called(component: &[u8]) -> wasmparser::Result<BTreeSet<String>> {
    let mut uses = Uses::default();
    for payload in Parser::new(0).parse_all(component) {
        uses.read(payload?)?;
    }
    Ok(uses.called)
}

#[derive(Default)]
struct Uses {
    called: BTreeSet<String>,
    /// The module that each imported function of the core module at hand is from.
    imported: Vec<String>,
}

impl Uses {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the other kinds of section name no function"
    )]
    fn read(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::ModuleSection { .. } => self.imported.clear(),
            Payload::ImportSection(section) => self.imports(section)?,
            Payload::ExportSection(section) => {
                for export in section.into_iter().filter_map(Result::ok) {
                    self.function((export.kind == ExternalKind::Func).then_some(export.index));
                }
            }
            Payload::ElementSection(section) => {
                for element in section {
                    self.element(element?.items);
                }
            }
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader()? {
                    self.function(function_of(&operator?));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn imports(&mut self, section: ImportSectionReader<'_>) -> wasmparser::Result<()> {
        for import in section.into_imports() {
            let import = import?;
            if matches!(import.ty, TypeRef::Func(_)) {
                self.imported.push(import.module.to_owned());
            }
        }
        Ok(())
    }

    fn element(&mut self, items: ElementItems<'_>) {
        if let ElementItems::Functions(functions) = items {
            functions.into_iter().for_each(|function| self.function(function.ok()));
        }
    }

    fn function(&mut self, function: Option<u32>) {
        let index = function.and_then(|function| usize::try_from(function).ok());
        let name = index.and_then(|index| self.imported.get(index));
        self.called.extend(name.cloned());
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "some hundred operators name no function")]
fn function_of(operator: &Operator<'_>) -> Option<u32> {
    match operator {
        Operator::Call { function_index }
        | Operator::ReturnCall { function_index }
        | Operator::RefFunc { function_index } => Some(*function_index),
        _ => None,
    }
}
