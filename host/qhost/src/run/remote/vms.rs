//! VMs of another host: `ps`, `inspect`, `logs`, `events`, `stats`, `stop`, `kill`, `pause`, `resume`, `restart`, `wait` and `rm`.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use qhost_engine::{GuestInfo, Until, VmDetails};
use qhost_vm::{Event, State, VmError, VmRecord};

use super::{Host, Operation, only_there, time};
use crate::{
    cli::{
        EventsArgs, LogsArgs, PsArgs, StatsArgs, StopArgs, VmArgs, VmCommand, VmsArgs, WaitArgs,
    },
    client::ClientError,
    exit::Exit,
    limits,
    run::{
        RunError, show,
        vms::{
            events,
            inspect::{Inspected, inspect},
            logs::Shown,
            ps,
            stats::{Sample, Silent, Used, sampled},
            stop,
        },
    },
};

/// A console's output, in Base64.
#[derive(Deserialize)]
struct Said {
    bytes: String,
}

impl Host<'_> {
    pub(super) async fn vm(&self, command: &VmCommand) -> Result<Exit, RunError> {
        match command {
            VmCommand::Ps(args) => self.ps(args).await,
            VmCommand::Inspect(args) => self.inspect(args).await,
            VmCommand::Logs(args) => self.logs(args).await,
            VmCommand::Console(args) => self.console(args).await,
            VmCommand::Screenshot(args) => self.screenshot(args).await,
            VmCommand::Stats(args) => self.stats(args).await,
            VmCommand::Events(args) => self.events(args).await,
            VmCommand::Stop(args) => self.end(&args.which, "stop", args.grace).await,
            VmCommand::Kill(args) => self.end(args, "kill", None).await,
            VmCommand::Pause(args) => self.each(args, "paused", Method::POST, Some("pause")).await,
            VmCommand::Resume(args) => {
                self.each(args, "running", Method::POST, Some("resume")).await
            }
            VmCommand::Restart(args) => self.restart(args).await,
            VmCommand::Wait(args) => self.wait(args).await,
            VmCommand::Rm(args) => self.each(args, "removed", Method::DELETE, None).await,
            VmCommand::Drain(_) => Err(only_there("drain")),
            VmCommand::Recover => Err(only_there("recover")),
        }
    }

    async fn ps(&self, args: &PsArgs) -> Result<Exit, RunError> {
        let ended_too = args.all || args.state.is_some_and(State::is_final);
        let first = args.meta.first().map(|pair| format!("{}={}", pair.key, pair.value));
        let mut query = vec![
            ("tenant", args.of.tenant.clone()),
            ("task", args.task.clone()),
            ("state", args.state.map(|state| state.name().to_owned())),
            ("all", Some(ended_too.to_string())),
            ("meta", first),
        ];
        let mut vms: Vec<VmRecord> = self.client.list("vms", &query).await?;
        // Each further pair leaves fewer VMs.
        for pair in args.meta.iter().skip(1) {
            query.retain(|(name, _)| *name != "meta");
            query.push(("meta", Some(format!("{}={}", pair.key, pair.value))));
            let too: Vec<VmRecord> = self.client.list("vms", &query).await?;
            let too: BTreeSet<_> = too.into_iter().map(|vm| vm.id).collect();
            vms.retain(|vm| too.contains(&vm.id));
        }
        Ok(ps::listed(self.shared, args, &vms))
    }

    pub(super) async fn details(&self, name: &str) -> Result<VmDetails, ClientError> {
        self.client.get(self.client.at(&["v1", "vms", name], &[])).await
    }

    /// Reads a VM's details from a service that may be absent for a while; none of a VM that is not there any more.
    pub(super) async fn patient_details(&self, vm: &str) -> Result<Option<VmDetails>, ClientError> {
        match self.client.get_patiently(self.client.at(&["v1", "vms", vm], &[])).await {
            Ok(details) => Ok(Some(details)),
            Err(ClientError::Problem(problem)) if problem.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn inspect(&self, args: &VmArgs) -> Result<Exit, RunError> {
        let details = self.details(&args.name()).await?;
        let guest = self.client.at(&["v1", "vms", &details.vm.id, "guest"], &[]);
        let guest: Option<GuestInfo> = self.client.get(guest).await?;
        inspect(self.shared, &Inspected { details, guest })
    }

    async fn logs(&self, args: &LogsArgs) -> Result<Exit, RunError> {
        let vm = self.details(&args.which.name()).await?.vm.id;
        let since = time(args.since.map(|since| since.0));
        let at = |follow: bool| {
            let query = [("since", since.clone()), ("follow", Some(follow.to_string()))];
            self.client.at(&["v1", "vms", &vm, "console"], &query)
        };
        let mut shown = Shown::of(args);
        // If only the end of the log is asked for, its lines are counted in what is there now.
        let mut told = self.client.follow(at(false));
        while let Some(said) = told.next().await? {
            if shown.push(&self.bytes_of(&said)?).is_err() {
                return Ok(Exit::Done);
            }
        }
        if shown.caught_up().is_err() {
            return Ok(Exit::Done);
        }
        if args.follow {
            let mut told = self.client.follow_after(at(true), told);
            while let Some(said) = told.next().await? {
                // A closed pipe is the reader's choice and no error of ours.
                if shown.push(&self.bytes_of(&said)?).is_err() {
                    return Ok(Exit::Done);
                }
            }
        }
        shown.finish();
        Ok(Exit::Done)
    }

    fn bytes_of(&self, said: &Said) -> Result<Vec<u8>, RunError> {
        let decoded = BASE64_STANDARD.decode(&said.bytes);
        Ok(decoded.map_err(|error| self.client.malformed(error.to_string()))?)
    }

    async fn events(&self, args: &EventsArgs) -> Result<Exit, RunError> {
        let since = time(args.since.map(|since| since.0));
        let at = |follow: bool| {
            let query = [
                ("tenant", args.of.tenant.clone()),
                ("since", since.clone()),
                ("follow", Some(follow.to_string())),
            ];
            self.client.at(&["v1", "events"], &query)
        };
        let mut latest = VecDeque::new();
        let mut told = self.client.follow(at(false));
        while let Some(event) = told.next::<Event>().await? {
            if !args.includes(&event) {
                continue;
            }
            if let Some(most) = args.tail {
                latest.push_back(event);
                if latest.len() > most {
                    latest.pop_front();
                }
            } else if events::tell(self.shared, &event).is_err() {
                return Ok(Exit::Done);
            }
        }
        if latest.iter().any(|event| events::tell(self.shared, event).is_err()) || !args.follow {
            return Ok(Exit::Done);
        }
        let mut told = self.client.follow_after(at(true), told);
        while let Some(event) = told.next::<Event>().await? {
            // A closed pipe is the reader's choice and no error of ours.
            if args.includes(&event) && events::tell(self.shared, &event).is_err() {
                break;
            }
        }
        Ok(Exit::Done)
    }

    async fn stats(&self, args: &StatsArgs) -> Result<Exit, RunError> {
        let vms = match args.names().as_slice() {
            [] => self.client.list("vms", &[("tenant", args.of.tenant.clone())]).await?,
            names => self.named(names).await?,
        };
        let is_named = !args.names().is_empty();
        let take = async |silent: Silent| {
            let now = if is_named {
                None
            } else {
                Some(self.client.list("vms", &[("tenant", args.of.tenant.clone())]).await?)
            };
            let at = Instant::now();
            let is_left_out = !is_named || silent == Silent::IsLeftOut;
            let asked = now.as_ref().unwrap_or(&vms).iter().map(async |vm: &VmRecord| {
                let stats = self.client.at(&["v1", "vms", &vm.id, "stats"], &[]);
                match self.client.get(stats).await {
                    Ok(stats) => Ok(Some(Used { id: vm.id.clone(), task: vm.task.clone(), stats })),
                    // The VM is only beginning, or has just ended.
                    Err(ClientError::Problem(_)) if is_left_out => Ok(None),
                    Err(error) => Err(error),
                }
            });
            let asked = stream::iter(asked).buffered(limits::HOST_REQUESTS);
            let used: Vec<Option<Used>> = asked.try_collect().await?;
            Ok(Sample { at, used: used.into_iter().flatten().collect() })
        };
        let has_ended = async || {
            let asked = vms.iter().map(async |vm| self.details(&vm.id).await);
            let asked = stream::iter(asked).buffered(limits::HOST_REQUESTS);
            let now: Result<Vec<VmDetails>, _> = asked.try_collect().await;
            now.is_ok_and(|now| now.iter().all(|one| one.vm.status.state().is_final()))
        };
        sampled(self.shared, args, take, has_ended).await
    }

    /// Finds the VMs of these names, each once.
    async fn named(&self, names: &[String]) -> Result<Vec<VmRecord>, RunError> {
        let mut known = BTreeSet::new();
        let mut vms = vec![];
        for name in names {
            let vm = self.details(name).await?.vm;
            if known.insert(vm.id.clone()) {
                vms.push(vm);
            }
        }
        Ok(vms)
    }

    /// Ends VMs at once, and waits for their ends.
    async fn end(
        &self,
        which: &VmsArgs,
        verb: &'static str,
        grace: Option<u64>,
    ) -> Result<Exit, RunError> {
        let vms = self.named(&which.names()).await?;
        // Nothing is done if one of the VMs has ended.
        if let Some(vm) = vms.iter().find(|vm| vm.status.state().is_final()) {
            let (id, state) = (vm.id.clone(), vm.status.state().name());
            return Err(VmError::HasEnded { id, state }.into());
        }
        let grace = grace.map(|seconds| seconds.to_string());
        let goes_on = CancellationToken::new();
        let ended = vms.iter().map(async |vm| {
            let at = self.client.at(&["v1", "vms", &vm.id, verb], &[("grace_s", grace.clone())]);
            self.succeeded(self.client.send(Method::POST, at, None).await?, &goes_on).await?;
            let vm = self.details(&vm.id).await?.vm;
            if !self.shared.json {
                show::tell(&stop::summary(&vm));
            }
            Ok::<_, RunError>(vm)
        });
        // A VM that does not end keeps no other from being ended.
        let all: Vec<_> = stream::iter(ended).buffered(limits::HOST_REQUESTS).collect().await;
        let (mut done, mut failed) = (vec![], None);
        for one in all {
            match one {
                Ok(vm) => done.push(vm),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if failed.is_none() || !done.is_empty() {
            stop::done_with(self.shared, &done);
        }
        failed.map_or(Ok(Exit::Done), Err)
    }

    /// Does one operation to each VM, and prints its word.
    async fn each(
        &self,
        which: &VmsArgs,
        word: &str,
        method: Method,
        verb: Option<&str>,
    ) -> Result<Exit, RunError> {
        let mut ids = vec![];
        for VmRecord { id, .. } in self.named(&which.names()).await? {
            let path: Vec<_> = ["v1", "vms", &id].into_iter().chain(verb).collect();
            self.client.bytes(method.clone(), self.client.at(&path, &[]), None).await?;
            stop::done(self.shared, word, &id);
            ids.push(id);
        }
        stop::done_with_each(self.shared, word, &ids);
        Ok(Exit::Done)
    }

    async fn restart(&self, args: &StopArgs) -> Result<Exit, RunError> {
        let grace = args.grace.map(|seconds| seconds.to_string());
        let mut vms = vec![];
        for vm in self.named(&args.which.names()).await? {
            let query = [("grace_s", grace.clone())];
            let at = self.client.at(&["v1", "vms", &vm.id, "restart"], &query);
            let begun: Operation = self.client.send(Method::POST, at, None).await?;
            self.succeeded(begun, &CancellationToken::new()).await?;
            let vm = self.details(&vm.id).await?.vm;
            if !self.shared.json {
                show::tell(&stop::summary(&vm));
            }
            vms.push(vm);
        }
        let failed = vms.iter().any(|vm| vm.status.state().is_final());
        stop::done_with(self.shared, &vms);
        Ok(if failed { Exit::VmFailed } else { Exit::Done })
    }

    async fn wait(&self, args: &WaitArgs) -> Result<Exit, RunError> {
        let vm = self.details(&args.which.name()).await?.vm;
        let most = std::time::Duration::from_secs(args.timeout);
        let waited = tokio::time::timeout(most, self.come_to(&vm.id, Until::End)).await;
        let stays = |_| VmError::Stays { id: vm.id.clone(), seconds: args.timeout };
        Ok(stop::waited(self.shared, &waited.map_err(stays)??))
    }

    /// Waits until a VM has reached a state, or has ended.
    pub(super) async fn come_to(&self, vm: &str, until: Until) -> Result<VmRecord, RunError> {
        let word = match until {
            Until::Running => "running",
            Until::Ready => "ready",
            Until::End => "end",
        };
        let seconds = Some(limits::HOST_WAIT_S.to_string());
        let query = [("until", Some(word.to_owned())), ("timeout_s", seconds)];
        let at = self.client.at(&["v1", "vms", vm, "wait"], &query);
        loop {
            let now: VmRecord = self.client.get_patiently(at.clone()).await?;
            let has_come = match until {
                Until::Running => now.status.state() == State::Running,
                Until::Ready => now.status.ready_at.is_some(),
                Until::End => false,
            };
            if has_come || now.status.state().is_final() {
                return Ok(now);
            }
        }
    }

    /// Asks for an operation on a VM; the answer's body is not needed.
    pub(super) async fn ask_of(
        &self,
        vm: &str,
        verb: &str,
        grace: Option<u32>,
    ) -> Result<(), RunError> {
        let query = [("grace_s", grace.map(|seconds| seconds.to_string()))];
        let at = self.client.at(&["v1", "vms", vm, verb], &query);
        let _accepted: Value = self.client.send(Method::POST, at, None).await?;
        Ok(())
    }
}
