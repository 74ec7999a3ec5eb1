//! The one record of a decision. The thread that decides writes it, unless the command is interrupted or has waited too long
//! before: then the command does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use qhost_model::{host_facts::HostFacts, job::Task, masks::Masks};
use qhost_policy::{Input, Journal, Outcome, Record, RecordError, Request, Verdict};

use super::{Host, RunError};
use crate::outcome::ErrorReport;

/// Whether a decision is recorded. Every decision that a launch follows from is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Record,
    Nothing,
}

/// A decision under way, as far as its record goes.
pub(super) struct DecisionRecord {
    keep: Keep,
    journal: Journal,
    masks: Masks,
    /// Locked until the record is on disk, so that no process ends in the middle of writing it.
    stage: Mutex<Stage>,
}

enum Stage {
    /// The job is being read: there is nothing to decide yet.
    Reading,
    Deciding(Box<Input>),
    Ended,
}

impl DecisionRecord {
    pub(super) fn new(host: &Host, keep: Keep) -> Self {
        let stage = Mutex::new(Stage::Reading);
        Self { keep, journal: host.journal(), masks: host.masks(), stage }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task is understood. What is known of its decision is recorded however that ends.
    pub(super) fn begin(&self, host: &Host, task: Task) -> Input {
        let (rules, time) = (host.config.rules(), Timestamp::now());
        let input = Input { task, host: None, rules, time };
        let mut stage = self.stage();
        if let Stage::Reading = *stage {
            *stage = Stage::Deciding(Box::new(input.clone()));
        }
        input
    }

    /// Facts about the host are known.
    pub(super) fn learn(&self, facts: &HostFacts) {
        if let Stage::Deciding(input) = &mut *self.stage() {
            input.host = Some(facts.clone());
        }
    }

    /// Records a verdict.
    pub(super) fn decided(&self, request: Request, verdict: &Verdict) -> Result<(), RunError> {
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Ended) {
            Stage::Deciding(_) => Ok(self.append(|| Record::of(request, verdict, &self.masks))?),
            // The command has recorded the end already, and does not wait for a verdict.
            Stage::Reading | Stage::Ended => Err(RunError::Interrupted),
        }
    }

    /// Records why there is no verdict, unless there is one or nothing was to be decided yet.
    pub(super) fn ended(&self, error: &RunError) -> Result<(), RecordError> {
        let mut stage = self.stage();
        let Stage::Deciding(input) = std::mem::replace(&mut *stage, Stage::Ended) else {
            return Ok(());
        };
        let outcome = if matches!(error, RunError::Interrupted) {
            Outcome::Interrupted
        } else if matches!(error, RunError::Policy(_) | RunError::SlowDecision) {
            Outcome::Failed
        } else {
            Outcome::Undecided
        };
        let ErrorReport { message, causes, .. } = ErrorReport::new(error, &[]);
        let error = [vec![message], causes].concat().join(": ");
        self.append(|| Record::undecided(*input, outcome, error, &self.masks))
    }

    fn append(&self, record: impl FnOnce() -> Record) -> Result<(), RecordError> {
        match self.keep {
            Keep::Record => self.journal.append(&record()),
            Keep::Nothing => Ok(()),
        }
    }
}
