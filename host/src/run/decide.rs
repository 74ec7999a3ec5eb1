//! From the job file to a verdict.

use std::{io, thread};

use jiff::Timestamp;

use super::{Host, RunError, sources};
use crate::{
    cli::DecideArgs,
    facts,
    job::{self, Task},
    limits,
    outcome::{Exit, Report},
    policy::{Approved, Journal, Loader, Masks, Record, Request, Verdict},
    qemu::Fingerprint,
};

/// What comes of a decision.
pub(super) enum Decided {
    Approved(Box<Approved>),
    Not(Exit),
}

/// Whether a decision is recorded. One that is acted upon is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Record,
    Nothing,
}

/// Decides on a thread of its own: reading, compiling and asking policies wait for nothing, and a request to stop is
/// heard meanwhile. Downloads nothing: a denied task costs no fetch. `known` is the task where the job was read
/// already.
pub(super) async fn decide(
    host: &Host,
    fingerprint: &Fingerprint,
    args: &DecideArgs,
    (keep, known): (Keep, Option<Task>),
    report: &mut Report,
) -> Result<Decided, RunError> {
    let (host, fingerprint, args) = (host.clone(), fingerprint.clone(), args.clone());
    let judging =
        tokio::task::spawn_blocking(move || judge(&host, &fingerprint, &args, (keep, known)));
    let (task, verdict) = match tokio::time::timeout(limits::DECISION, judging).await {
        Ok(Ok(judged)) => judged,
        Ok(Err(panicked)) => return Err(RunError::Runtime(panicked.into())),
        Err(_) => return Err(RunError::SlowDecision),
    };
    report.task = task;
    let verdict = verdict?;
    report.decision = Some(verdict.decision().clone());
    match verdict {
        Verdict::Approved(approved) => Ok(Decided::Approved(approved)),
        Verdict::Denied(_) => Ok(Decided::Not(Exit::Denied)),
        Verdict::CannotRun(_) => Ok(Decided::Not(Exit::CannotRun)),
        Verdict::Failed(error, _) => Err(RunError::Policy(*error)),
    }
}

/// The task, once it is understood, and what comes of it.
fn judge(
    host: &Host,
    fingerprint: &Fingerprint,
    args: &DecideArgs,
    (keep, known): (Keep, Option<Task>),
) -> (Option<Task>, Result<Verdict, RunError>) {
    let read = || {
        let (name, bytes) = sources::job(&args.job)?;
        Ok(job::parse(&name, &bytes, &args.tenant, args.task.as_deref())?)
    };
    match known.map_or_else(read, Ok) {
        Ok(task) => (Some(task.clone()), verdict(host, fingerprint, args, keep, task)),
        Err(error) => (None, Err(error)),
    }
}

fn verdict(
    host: &Host,
    fingerprint: &Fingerprint,
    args: &DecideArgs,
    keep: Keep,
    task: Task,
) -> Result<Verdict, RunError> {
    let sources = sources::policies(&host.config, args)?;
    let load = || {
        let loader = match sources.is_empty() {
            // Nothing to compile, so nothing to keep.
            true => Loader::in_process()?,
            false => host.loader()?,
        };
        Ok::<_, RunError>(loader.chain(sources))
    };
    let gather = || facts::gather(fingerprint, &host.state, &args.tenant);
    // Each takes a millisecond, and neither needs the other.
    let (facts, chain) = thread::scope(|scope| {
        let gathering = thread::Builder::new().spawn_scoped(scope, gather)?;
        let chain = load();
        let panicked = |_| io::Error::other("gathering facts about this host failed");
        Ok((gathering.join().map_err(panicked)?, chain))
    })
    .map_err(RunError::Runtime)?;
    let request =
        Request { task, host: facts?, rules: host.config.rules(), time: Timestamp::now() };
    let decided = chain?.map(|chain| chain.decide(request.clone()));
    if keep == Keep::Record {
        let masks = host.masks();
        let record = match &decided {
            Ok(verdict) => Record::of(request, verdict, &masks),
            Err(error) => Record::undecided(request, error, &masks),
        };
        host.journal().append(&record)?;
    }
    Ok(decided?)
}

impl Host {
    fn masks(&self) -> Masks {
        let settings = &self.config.decisions;
        Masks { meta: settings.mask_meta.clone(), args: settings.mask_args.clone() }
    }

    fn journal(&self) -> Journal {
        let settings = &self.config.decisions;
        Journal {
            folder: self.state.decisions(),
            max_bytes: settings.max_bytes,
            files: settings.files,
        }
    }
}
