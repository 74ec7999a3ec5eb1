//! Makes a verdict from a job file.

use std::{io, sync::Arc, thread};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::{task::spawn_blocking, time};

use qhost_model::{
    digest::Sha256,
    job::{self, Task},
    kind::Kind,
    masks::Masks,
};
use qhost_policy::{Approved, Deadline, Decision, Input, Occasion, Outcome, Request, Verdict};

use crate::{
    decision_record::{DecisionRecord, Keep},
    engine::Engine,
    error::{EngineError, Failure},
    facts,
    fingerprint::Fingerprint,
    generation::Generation,
    limits,
    observer::{Context, Observation},
    order::{JobFile, Order},
    refusal::Understood,
};

/// What was decided about an order that is not started.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Decided {
    /// What came of it.
    pub outcome: Outcome,
    /// Who said what; none where no policy was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub decision: Option<Box<Decision>>,
    /// Why, where a policy failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Engine {
    /// Decides about an order, and records, fetches and starts nothing.
    ///
    /// # Errors
    /// Fails where the job is not understood, or this host cannot ask the policies. The policies' answers are no error, nor is a policy
    /// that failed.
    pub async fn decide(&self, order: Order, context: &Context) -> Result<Decided, EngineError> {
        let mut understood = Understood::default();
        match self.decided(order, context, &mut understood).await {
            Ok(approved) => {
                let decision =
                    qhost_policy::masked(&understood.secrets, approved.decision().clone());
                Ok(Decided {
                    outcome: Outcome::Allowed,
                    decision: Some(Box::new(decision)),
                    error: None,
                })
            }
            Err(failure) => {
                let outcome = match failure.kind() {
                    Kind::Denied => Outcome::Denied,
                    Kind::PolicyFailed => Outcome::Failed,
                    Kind::HostUnable if matches!(failure, Failure::CannotRun(_)) => {
                        Outcome::CannotRun
                    }
                    Kind::InvalidArgument
                    | Kind::InvalidJob
                    | Kind::Unavailable
                    | Kind::ChecksumMismatch
                    | Kind::ImageRejected
                    | Kind::HostUnable
                    | Kind::VmFailed
                    | Kind::Cancelled
                    | Kind::CheckFailed => {
                        return Err(understood.error(&self.generation(), failure));
                    }
                };
                let error = understood.error(&self.generation(), failure);
                let decision = error.verdict().cloned().map(Box::new);
                let why = decision.is_none().then(|| error.to_string());
                Ok(Decided { outcome, decision, error: why })
            }
        }
    }

    async fn decided(
        &self,
        order: Order,
        context: &Context,
        understood: &mut Understood,
    ) -> Result<Approved, Failure> {
        let deciding = Deciding {
            engine: self.clone(),
            generation: self.generation(),
            fingerprint: self.fingerprint(context).await?,
            order: Arc::new(order),
            keep: Keep::Nothing,
            occasion: Occasion::Launch,
            audited: None,
            context: context.clone(),
        };
        deciding.make(None, understood).await
    }

    /// The task that a job is understood as, without its secrets.
    ///
    /// # Errors
    /// Fails where the job is not understood, or its tenant is unknown.
    pub fn understood(&self, order: &Order) -> Result<Task, EngineError> {
        let Order { job: JobFile { name, bytes }, tenant, task, grace, .. } = order;
        let generation = self.generation();
        generation.config.chain(tenant)?;
        let mut task = job::parse(name, bytes, tenant, task.as_deref()).map_err(Failure::from)?;
        task.asked.grace_s = grace.or(task.asked.grace_s);
        Masks::default().mask(&mut task);
        Ok(task)
    }
}

/// What a decision is made from.
#[derive(Clone)]
pub(crate) struct Deciding {
    pub(crate) engine: Engine,
    pub(crate) generation: Arc<Generation>,
    pub(crate) fingerprint: Arc<Fingerprint>,
    pub(crate) order: Arc<Order>,
    pub(crate) keep: Keep,
    pub(crate) occasion: Occasion,
    /// The id of the VM that is audited; the host's facts leave out what that VM takes.
    pub(crate) audited: Option<String>,
    pub(crate) context: Context,
}

/// A task as its job has it, and the decision about it.
struct Judged {
    /// The task; absent where the job is not understood.
    task: Option<Task>,
    verdict: Result<Recorded, Failure>,
}

/// A verdict, with the id of its record if one is kept.
struct Recorded {
    verdict: Verdict,
    id: Option<Sha256>,
}

impl Deciding {
    /// Decides on a thread of its own, since reading, compiling and asking policies block, so that a cancellation is heard meanwhile. No
    /// image is fetched: a denied task costs no download. `known` is the task, if the job was read already.
    pub(crate) async fn make(
        &self,
        known: Option<Task>,
        understood: &mut Understood,
    ) -> Result<Approved, Failure> {
        understood.allowed = None;
        let record = DecisionRecord::new(
            &self.generation,
            self.engine.state(),
            self.keep,
            self.order.actor.clone(),
        );
        let record = Arc::new(record);
        let deadline = Deadline::after(qhost_policy::limits::DECISION);
        let judging = {
            let (judge, record) = (self.clone(), Arc::clone(&record));
            spawn_blocking(move || {
                qhost_cage::follow();
                judge.judge(known, &record, deadline)
            })
        };
        let ended = tokio::select! {
            judged = judging => judged.map_err(|panicked| Failure::Runtime(panicked.into())),
            () = time::sleep(qhost_policy::limits::DECISION + limits::DECISION_OVERDUE) => Err(Failure::SlowDecision),
            () = self.context.cancel.cancelled() => Err(Failure::Cancelled),
        };
        let Judged { task, verdict } = match ended {
            Ok(judged) => judged,
            Err(error) => return Err(record_end(record, error).await),
        };
        if let Some(mut task) = task {
            understood.secrets = Masks::default().mask(&mut task);
            self.observe(Observation::Understood { task: &task, secrets: &understood.secrets });
            understood.task = Some(task);
        }
        let Recorded { verdict, id } = verdict?;
        let masked = qhost_policy::masked(&understood.secrets, verdict.decision().clone());
        self.observe(Observation::Decided { decision: &masked, record: id });
        match verdict {
            Verdict::Approved(approved) => {
                understood.allowed = Some(masked);
                Ok(*approved)
            }
            Verdict::Denied(decision) => Err(Failure::Denied(Box::new(decision))),
            Verdict::CannotRun(decision) => Err(Failure::CannotRun(Box::new(decision))),
            Verdict::Failed(error, _) => Err(Failure::Policy(*error)),
        }
    }

    fn observe(&self, observation: Observation<'_>) {
        self.context.observer.observe(observation);
    }

    /// Reads the job, and decides its task.
    fn judge(&self, known: Option<Task>, record: &DecisionRecord, deadline: Deadline) -> Judged {
        let known = known.map(|task| self.generation.config.chain(&task.tenant).map(|_| task));
        let task = match known.map_or_else(|| self.task(), |known| Ok(known?)) {
            Ok(task) => task,
            Err(error) => return Judged { task: None, verdict: Err(error) },
        };
        let input = record.begin(self.generation.config.rules(), task.clone(), self.occasion);
        let verdict = self.verdict(input, record, deadline).or_else(|error| {
            record.ended(&error)?;
            Err(error)
        });
        Judged { task: Some(task), verdict }
    }

    fn task(&self) -> Result<Task, Failure> {
        let Order { job: JobFile { name, bytes }, tenant, task, grace, .. } = &*self.order;
        // An unknown tenant is refused here, so that it gets no log of decisions.
        self.generation.config.chain(tenant)?;
        let mut task = job::parse(name, bytes, tenant, task.as_deref())?;
        task.asked.grace_s = grace.or(task.asked.grace_s);
        Ok(task)
    }

    fn verdict(
        &self,
        input: Input,
        record: &DecisionRecord,
        deadline: Deadline,
    ) -> Result<Recorded, Failure> {
        let Self { engine, generation, fingerprint, order, .. } = self;
        let load = || {
            let observer = Arc::clone(&self.context.observer);
            let telling = move |policy: &str| observer.observe(Observation::Compiling { policy });
            let loader = engine.shared_loader()?.until(deadline).telling(telling);
            generation.chain(&loader, &order.policies, &order.tenant)
        };
        let gather = || {
            let audited = self.audited.as_deref();
            let (state, config) = (engine.state(), &generation.config);
            let facts = facts::gather(fingerprint, state, config, &order.tenant, audited)?;
            record.learn(&facts);
            Ok::<_, Failure>(facts)
        };
        // Gathering facts and loading the chain take a millisecond each, and neither needs the other.
        let (facts, chain) = thread::scope(|scope| {
            let gathering = thread::Builder::new().spawn_scoped(scope, gather)?;
            let chain = load();
            let panicked = |_| io::Error::other("gathering facts about this host failed");
            Ok((gathering.join().map_err(panicked)?, chain))
        })
        .map_err(Failure::Runtime)?;
        let Input { task, rules, time, occasion, .. } = input;
        let request = Request { task, host: facts?, rules, time, occasion };
        let verdict = chain?.decide_until(request.clone(), deadline);
        let id = record.decided(request, &verdict)?;
        Ok(Recorded { verdict, id })
    }
}

/// Records that the decision has been given up, and returns the error to report. If the thread that decides is just recording, this waits
/// for it.
async fn record_end(record: Arc<DecisionRecord>, error: Failure) -> Failure {
    let recording = spawn_blocking(move || match record.ended(&error) {
        Ok(()) => error,
        Err(unrecorded) => unrecorded.into(),
    });
    recording.await.unwrap_or_else(|panicked| Failure::Runtime(panicked.into()))
}
