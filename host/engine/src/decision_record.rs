//! The one record of a decision. The thread that decides writes the record, unless the order is given up, or has waited too long, before
//! that: then the order's own task writes it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use qhost_model::{digest::Sha256, host_facts::HostFacts, job::Task, launch::Rules, masks::Masks};
use qhost_policy::{
    Actor, Input, Journal, Occasion, Outcome, Record, RecordError, Request, Verdict,
};

use qhost_sys::state::StateDir;

use crate::{error::Failure, generation::Generation};

/// Whether a decision is recorded. Every decision that leads to a launch is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Record,
    Nothing,
}

/// A decision under way, as far as its record goes.
pub(crate) struct DecisionRecord {
    keep: Keep,
    actor: Option<Actor>,
    journal: Journal,
    masks: Masks,
    /// How far the decision is; locked until its record is on disk, so that no process ends in the middle of writing it.
    stage: Mutex<Stage>,
}

enum Stage {
    /// The job is being read: there is nothing to decide yet.
    Reading,
    Deciding(Box<Input>),
    Ended,
}

impl DecisionRecord {
    pub(crate) fn new(
        generation: &Generation,
        state: &StateDir,
        keep: Keep,
        actor: Option<Actor>,
    ) -> Self {
        let (journal, masks) = (generation.journal(state), generation.masks());
        Self { keep, actor, journal, masks, stage: Mutex::new(Stage::Reading) }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a task is understood. From here on the decision is recorded, however it ends.
    pub(crate) fn begin(&self, rules: Rules, task: Task, occasion: Occasion) -> Input {
        let time = Timestamp::now();
        let input = Input { task, host: None, rules, time, occasion };
        let mut stage = self.stage();
        if let Stage::Reading = *stage {
            *stage = Stage::Deciding(Box::new(input.clone()));
        }
        input
    }

    /// Notes the facts about the host.
    pub(crate) fn learn(&self, facts: &HostFacts) {
        if let Stage::Deciding(input) = &mut *self.stage() {
            input.host = Some(facts.clone());
        }
    }

    /// Records a verdict. Gives the record's id, if the record is kept.
    pub(crate) fn decided(
        &self,
        request: Request,
        verdict: &Verdict,
    ) -> Result<Option<Sha256>, Failure> {
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Ended) {
            Stage::Deciding(_) => Ok(self.append(|| Record::of(request, verdict, &self.masks))?),
            // The order's end is recorded already, and does not wait for a verdict.
            Stage::Reading | Stage::Ended => Err(Failure::Cancelled),
        }
    }

    /// Records why there is no verdict, unless a verdict is recorded, or the task was not understood yet.
    pub(crate) fn ended(&self, error: &Failure) -> Result<(), RecordError> {
        let mut stage = self.stage();
        let Stage::Deciding(input) = std::mem::replace(&mut *stage, Stage::Ended) else {
            return Ok(());
        };
        let outcome = if matches!(error, Failure::Cancelled) {
            Outcome::Interrupted
        } else if matches!(error, Failure::Policy(_) | Failure::SlowDecision) {
            Outcome::Failed
        } else {
            Outcome::Undecided
        };
        let error = error.in_a_line();
        self.append(|| Record::undecided(*input, outcome, error, &self.masks)).map(drop)
    }

    fn append(&self, record: impl FnOnce() -> Record) -> Result<Option<Sha256>, RecordError> {
        match self.keep {
            Keep::Record => {
                let record = Record { actor: self.actor.clone(), ..record() };
                self.journal.append(&record).map(Some)
            }
            Keep::Nothing => Ok(None),
        }
    }
}
