//! `qhost run` and `qhost plan` on another host: the job is read here, and decided, started and followed there.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use reqwest::Method;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use qhost_engine::{Plan, Until};
use qhost_model::{
    job::{DEFAULT_TENANT, Task},
    launch::Grace,
    printable,
};
use qhost_policy::Decision;
use qhost_sys::stop::Stop;
use qhost_vm::VmRecord;

use super::{Host, Operation};
use crate::{
    cli::{DecideArgs, RunArgs},
    client::ClientError,
    exit::Exit,
    outcome::VmReport,
    run::{
        RunError, interruptible, plan,
        show::{self, Shown},
        sources,
    },
};

/// The task that the service reads from a job.
#[derive(Deserialize)]
struct Understood {
    task: Task,
}

/// The decision and the plan that the service makes for a job.
#[derive(Deserialize)]
struct Planned {
    decision: Option<Decision>,
    plan: Plan,
}

/// The bytes of a job, and the query that names its tenant.
struct Job {
    bytes: Vec<u8>,
    query: Vec<(&'static str, Option<String>)>,
}

impl Job {
    async fn read(args: &DecideArgs) -> Result<Self, RunError> {
        if !args.policies.is_empty() || !args.settings.is_empty() {
            return Err(RunError::Usage(
                "--policy and --policy-settings name files of this machine, and the other host decides by the policies of its own configuration: leave them out, or leave out --host and QHOST_HOST".into(),
            ));
        }
        if !args.networks.image_allow.is_empty() {
            return Err(RunError::Usage(
                "the other host fetches images from the networks of its own configuration: leave out --image-allow, or --host and QHOST_HOST".into(),
            ));
        }
        let path = args.job.clone();
        let read = tokio::task::spawn_blocking(move || sources::job(&path));
        let job = read.await.unwrap_or_else(|panicked| Err(RunError::Runtime(panicked.into())))?;
        // Without a tenant's name, the service takes the token's tenant.
        let tenant = Some(args.tenant.clone()).filter(|tenant| tenant != DEFAULT_TENANT);
        let query = vec![("tenant", tenant), ("task", args.task.clone())];
        Ok(Self { bytes: job.bytes, query })
    }
}

impl Host<'_> {
    pub(super) async fn plan(&self, args: &DecideArgs) -> Result<Exit, RunError> {
        let shown = Shown::new(self.shared, args);
        let planned = self.planned(args, &shown).await;
        let mut report = shown.report();
        let (exit, launch) = match planned {
            Ok(launch) => (Exit::Done, Some(launch)),
            Err(error) => (report.fail(&error), None),
        };
        report.finish(exit);
        plan::told(self.shared, report, launch);
        Ok(exit)
    }

    async fn planned(&self, args: &DecideArgs, shown: &Shown) -> Result<Plan, RunError> {
        let job = Job::read(args).await?;
        self.understood(&job, shown).await?;
        let at = self.client.at(&["v1", "jobs", "plan"], &job.query);
        let planned: Result<Planned, _> = self.client.send(Method::POST, at, Some(job.bytes)).await;
        let Planned { decision, plan } = planned.inspect_err(|error| decided(shown, error))?;
        decision.into_iter().for_each(|decision| shown.decided_there(decision));
        Ok(plan)
    }

    async fn understood(&self, job: &Job, shown: &Shown) -> Result<(), RunError> {
        let at = self.client.at(&["v1", "jobs", "validate"], &job.query);
        let understood: Understood =
            self.client.send(Method::POST, at, Some(job.bytes.clone())).await?;
        shown.understood_there(&understood.task);
        Ok(())
    }

    /// Does `qhost run`, which always ends with a report.
    pub(super) async fn run(&self, args: &RunArgs) -> Result<Exit, RunError> {
        let shown = Shown::new(self.shared, &args.decide).detached(args.until() != Until::End);
        let done = Box::pin(self.followed(args, &shown)).await;
        let mut report = shown.report();
        let exit = match done {
            Ok(exit) => exit,
            Err(error) => report.fail(&error),
        };
        report.finish(exit);
        show::report(self.shared, &report);
        Ok(exit)
    }

    async fn followed(&self, args: &RunArgs, shown: &Shown) -> Result<Exit, RunError> {
        let mut stop = Stop::on_signals().map_err(RunError::Runtime)?;
        let job = interruptible(&mut stop, Job::read(&args.decide)).await?;
        interruptible(&mut stop, self.understood(&job, shown)).await?;
        let (until, grace) = (args.until(), args.grace());
        let mut query = job.query;
        query.push(("grace_s", grace.map(|Grace { seconds }| seconds.to_string())));
        query.push(("ready_check", (until == Until::Ready).then(|| "true".to_owned())));
        let at = self.client.at(&["v1", "vms"], &query);
        let give_up = CancellationToken::new();
        let starting = async {
            let begun: Operation = self.client.begin(at, job.bytes).await?;
            self.finished(begun, &give_up, |step| shown.doing(step)).await
        };
        let mut starting = std::pin::pin!(starting);
        let started = tokio::select! {
            started = &mut starting => started?,
            () = stop.asked(1) => {
                give_up.cancel();
                tokio::select! {
                    started = &mut starting => started?,
                    // The interrupts came while the service did not answer.
                    () = stop.asked(2) => return Err(RunError::Interrupted),
                }
            }
        };
        shown.clear();
        // A VM of a start that was given up is stopped if it has a supervisor already.
        if give_up.is_cancelled()
            && let Some(vm) = &started.vm
            && let Some(details) = self.patient_details(vm).await?
            && !details.vm.status.state().is_final()
        {
            details.decision.into_iter().for_each(|decision| shown.decided_there(decision));
            self.ask_of(vm, "stop", grace.map(|grace| grace.seconds)).await?;
            let ended = self.until(shown, vm, Until::End, grace, &mut stop).await?;
            self.report(shown, &ended).await;
            return Ok(Exit::of_vm(&ended, until));
        }
        if let Some(problem) = started.error {
            let error = ClientError::Problem(Box::new(problem));
            decided(shown, &error);
            if error.problem().is_some_and(|problem| problem.decision.is_none())
                && let Some(decision) = self.decision(started.decision.as_ref()).await
            {
                shown.decided_there(decision);
            }
            // A VM that was never launched is not reported.
            if let Some(vm) = &started.vm
                && let Some(details) = self.patient_details(vm).await?
                && details.vm.takes.get().is_some()
            {
                self.report(shown, &details.vm).await;
            }
            return Err(error.into());
        }
        let vm = started.vm.ok_or(RunError::Interrupted)?;
        let gone = || self.client.malformed(format!("the VM {vm} is not there"));
        let details = self.patient_details(&vm).await?.ok_or_else(gone)?;
        details.decision.into_iter().for_each(|decision| shown.decided_there(decision));
        if until == Until::End && !self.shared.json {
            running(&details.vm);
        }
        let ended = self.until(shown, &vm, until, grace, &mut stop).await?;
        self.report(shown, &ended).await;
        Ok(Exit::of_vm(&ended, until))
    }

    /// Follows a VM. One Ctrl-C stops it, a second hastens that, a third kills it, and a fourth leaves it running.
    async fn until(
        &self,
        shown: &Shown,
        vm: &str,
        until: Until,
        grace: Option<Grace>,
        stop: &mut Stop,
    ) -> Result<VmRecord, RunError> {
        let coming = self.come_to(vm, until);
        let mut coming = std::pin::pin!(coming);
        // Signals are heard while the service has not answered the request before.
        let mut asking = FuturesUnordered::new();
        let mut asked = 0;
        loop {
            tokio::select! {
                record = &mut coming => return record,
                Some(done) = asking.next(), if !asking.is_empty() => {
                    // The VM may have ended at this very moment.
                    let done: Result<(), RunError> = done;
                    if let Err(error) = done {
                        shown.say("stopping", &error.to_string());
                    }
                }
                () = stop.asked(asked + 1) => {
                    asked += 1;
                    let (verb, grace) = match asked {
                        1 => ("stop", grace.map(|grace| grace.seconds)),
                        2 => ("stop", Some(0)),
                        3 => ("kill", None),
                        // The service does not answer the requests before.
                        _ => return Err(RunError::Interrupted),
                    };
                    asking.push(self.ask_of(vm, verb, grace));
                }
            }
        }
    }

    async fn report(&self, shown: &Shown, vm: &VmRecord) {
        let failed = vm.status.ended.as_ref().is_some_and(|ended| ended.end.is_failure());
        let bytes = Some(qhost_vm::limits::CONSOLE_TAIL_BYTES.to_string());
        let at = self.client.at(&["v1", "vms", &vm.id, "logs"], &[("bytes", bytes)]);
        let read = async { self.client.bytes(Method::GET, at, None).await.unwrap_or_default() };
        let tail = if failed { qhost_vm::console_text(&read.await) } else { String::new() };
        shown.ended_there(VmReport::new(vm, tail).on(self.client.host()));
    }
}

/// Shows the decision that refused the task.
fn decided(shown: &Shown, error: &ClientError) {
    let decision = error.problem().and_then(|problem| problem.decision.as_deref());
    decision.into_iter().for_each(|decision| shown.decided_there(decision.clone()));
}

/// Says that the guest runs, and where its ports are forwarded.
fn running(vm: &VmRecord) {
    let name = printable::line(&vm.task, 40);
    show::say(&format!("running   {name} as VM {}", vm.id));
    let takes = vm.takes.get();
    for forward in takes.into_iter().flat_map(|takes| &takes.forwards) {
        show::say(&format!("port      {forward}"));
    }
    if let Some(cage) = takes.and_then(|takes| takes.cage.as_ref()) {
        show::say(&format!("cage      {}", cage.summary()));
    }
}
