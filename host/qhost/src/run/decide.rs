//! From the job file to a verdict.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::time;

use qhost_engine::{facts, fingerprint::Fingerprint};
use qhost_model::{
    job::{self, Task},
    masks::Masks,
};
use qhost_policy::{Approved, Deadline, Input, Journal, Loader, Request, Verdict};

use super::{
    Host, RunError,
    decision_record::{DecisionRecord, Keep},
    sources,
};
use crate::{
    cli::DecideArgs,
    limits,
    outcome::{Exit, Report},
};

/// What comes of a decision.
pub(super) enum Decided {
    Approved(Box<Approved>),
    Not(Exit),
}

/// What a decision is made from.
#[derive(Clone)]
pub(super) struct Deciding {
    pub(super) host: Host,
    pub(super) fingerprint: Fingerprint,
    pub(super) args: DecideArgs,
    pub(super) keep: Keep,
}

impl Deciding {
    /// Decides on a thread of its own: reading, compiling and asking policies wait for nothing, and an interruption is
    /// heard meanwhile. Downloads nothing: a denied task costs no fetch. `known` is the task where the job was read
    /// already.
    pub(super) async fn make(
        &self,
        known: Option<Task>,
        report: &mut Report,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Decided, RunError> {
        let record = Arc::new(DecisionRecord::new(&self.host, self.keep));
        let deadline = Deadline::after(qhost_policy::limits::DECISION);
        let judging = {
            let (judge, record) = (self.clone(), Arc::clone(&record));
            tokio::task::spawn_blocking(move || judge.judge(known, &record, deadline))
        };
        let ended = tokio::select! {
            judged = judging => judged.map_err(|panicked| RunError::Runtime(panicked.into())),
            () = time::sleep(qhost_policy::limits::DECISION + limits::DECISION_OVERDUE) => Err(RunError::SlowDecision),
            () = interrupted => Err(RunError::Interrupted),
        };
        let (task, verdict) = match ended {
            Ok(judged) => judged,
            Err(error) => return Err(record_end(record, error).await),
        };
        report.task(task);
        let verdict = verdict?;
        report.decision(verdict.decision());
        match verdict {
            Verdict::Approved(approved) => Ok(Decided::Approved(approved)),
            Verdict::Denied(_) => Ok(Decided::Not(Exit::Denied)),
            Verdict::CannotRun(_) => Ok(Decided::Not(Exit::CannotRun)),
            Verdict::Failed(error, _) => Err(RunError::Policy(*error)),
        }
    }

    /// Reads the job, and decides its task.
    fn judge(
        &self,
        known: Option<Task>,
        record: &DecisionRecord,
        deadline: Deadline,
    ) -> (Option<Task>, Result<Verdict, RunError>) {
        let task = match known.map_or_else(|| self.task(), Ok) {
            Ok(task) => task,
            Err(error) => return (None, Err(error)),
        };
        let input = record.begin(&self.host, task.clone());
        let verdict = self.verdict(input, record, deadline).or_else(|error| {
            record.ended(&error)?;
            Err(error)
        });
        (Some(task), verdict)
    }

    fn task(&self) -> Result<Task, RunError> {
        let Self { host, args, .. } = self;
        // A tenant that the configuration does not have gets no log of decisions.
        host.config.chain(&args.tenant).map_err(|error| RunError::Usage(error.to_string()))?;
        let (name, bytes) = sources::job(&args.job)?;
        Ok(job::parse(&name, &bytes, &args.tenant, args.task.as_deref())?)
    }

    fn verdict(
        &self,
        input: Input,
        record: &DecisionRecord,
        deadline: Deadline,
    ) -> Result<Verdict, RunError> {
        let Self { host, fingerprint, args, .. } = self;
        let sources = sources::policies(&host.config, args)?;
        let load = || {
            // Without policies nothing is compiled, so nothing is kept.
            let loader = if sources.is_empty() { Loader::in_process()? } else { host.loader()? };
            Ok::<_, RunError>(loader.until(deadline).chain(sources)?)
        };
        let gather = || {
            let facts = facts::gather(fingerprint, &host.state, &args.tenant)?;
            record.learn(&facts);
            Ok::<_, RunError>(facts)
        };
        // Each takes a millisecond, and neither needs the other.
        let (facts, chain) = thread::scope(|scope| {
            let gathering = thread::Builder::new().spawn_scoped(scope, gather)?;
            let chain = load();
            let panicked = |_| io::Error::other("gathering facts about this host failed");
            Ok((gathering.join().map_err(panicked)?, chain))
        })
        .map_err(RunError::Runtime)?;
        let Input { task, rules, time, .. } = input;
        let request = Request { task, host: facts?, rules, time };
        let verdict = chain?.decide_until(request.clone(), deadline);
        record.decided(request, &verdict)?;
        Ok(verdict)
    }
}

/// Records that the command has ended the decision. Waits where the thread that decides is recording just then. Returns the
/// error to report.
async fn record_end(record: Arc<DecisionRecord>, error: RunError) -> RunError {
    let recording = tokio::task::spawn_blocking(move || match record.ended(&error) {
        Ok(()) => error,
        Err(unrecorded) => unrecorded.into(),
    });
    recording.await.unwrap_or_else(|panicked| RunError::Runtime(panicked.into()))
}

impl Host {
    pub(super) fn masks(&self) -> Masks {
        let settings = &self.config.decisions;
        Masks { meta: settings.mask_meta.clone(), args: settings.mask_args.clone() }
    }

    pub(super) fn journal(&self) -> Journal {
        let settings = &self.config.decisions;
        Journal {
            folder: self.state.decisions(),
            max_bytes: settings.max_bytes,
            files: settings.files,
            max_age: Duration::from_secs(settings.max_days.saturating_mul(24 * 60 * 60)),
        }
    }
}
