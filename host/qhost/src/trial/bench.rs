//! The costs of a policy: many decisions one after the other, each in a fresh sandbox, as a run makes them.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use qhost_policy::Loader;

use super::{Case, Project, TrialError, answer::ask, expect::Said};
use crate::limits;

/// The costs of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The case.
    pub name: String,
    /// The number of decisions that were measured; absent from an earlier version's file.
    #[serde(default)]
    pub decisions: u32,
    /// Half of the decisions took at most this, in µs.
    pub p50_us: f64,
    /// Ninety-nine of a hundred decisions took at most this, in µs.
    pub p99_us: f64,
    /// The most memory that a decision's sandbox had, in bytes.
    pub peak_memory: u64,
    /// The size of the policy's log, in bytes.
    pub log_bytes: u64,
}

/// Measures every case of a project, `decisions` of each unless that takes longer than [`limits::BENCH_CASE`]. `progress` is called with each case first.
pub fn bench(
    project: &Project,
    loader: &Loader,
    decisions: u32,
    mut progress: impl FnMut(&Case),
) -> Result<Vec<Measured>, TrialError> {
    let mut measured = vec![];
    for case in project.all_cases()? {
        // A case in which the policy is to fail has no decision to measure.
        if case.expect.verdict == Some(Said::Failed) {
            continue;
        }
        progress(&case);
        match one(project, loader, &case, decisions) {
            Ok(costs) => measured.push(costs),
            // A case whose settings are refused has no decision to measure either.
            Err(TrialError::Policy(error)) if error.is_about_settings() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(measured)
}

pub(super) fn one(
    project: &Project,
    loader: &Loader,
    case: &Case,
    decisions: u32,
) -> Result<Measured, TrialError> {
    let chain = project.chain(loader, case)?;
    let mut took = vec![];
    let mut cost = qhost_policy::Cost::default();
    let case_began = Instant::now();
    for round in 0..limits::BENCH_WARM_UP + decisions {
        let began = Instant::now();
        let asked = ask(&chain, case);
        let micros = began.elapsed().as_secs_f64() * 1e6;
        cost = asked.decision.policies.first().map_or(cost, |policy| policy.cost);
        if let Some(source) = asked.error {
            return Err(TrialError::InCase { case: case.name.clone(), source });
        }
        if round >= limits::BENCH_WARM_UP || case_began.elapsed() > limits::BENCH_CASE {
            took.push(micros);
        }
        let is_enough = took.len() >= limits::BENCH_DECISIONS_LEAST as usize;
        if is_enough && case_began.elapsed() > limits::BENCH_CASE {
            break;
        }
    }
    took.sort_by(f64::total_cmp);
    let at = |hundredths: usize| took.get(took.len() * hundredths / 100).copied().unwrap_or(0.0);
    Ok(Measured {
        name: case.name.clone(),
        decisions: u32::try_from(took.len()).unwrap_or(u32::MAX),
        p50_us: at(50),
        p99_us: at(99),
        peak_memory: cost.peak_memory,
        log_bytes: cost.log_bytes,
    })
}
