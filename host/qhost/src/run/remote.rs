//! Commands about another host: each does through that host's service what it does here through the engine, and prints the same.

mod console;
mod guest;
mod order;
mod stored;
mod vms;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use qhost_policy::{Decision, Recorded};
use qhost_sys::stop::Stop;

use super::{RunError, decisions, quotas, show};
use crate::{
    cli::{Cli, Command, DecisionsArgs, OfTenant, RecordFilter, Shared, VmCommand},
    client::{Access, Client, ClientError, HostAddress, Problem, Reader},
    exit::{Exit, ExitStatus},
    limits,
    outcome::Shown,
};

/// The other host that a command is about.
pub(super) fn host_of<'a>(shared: &'a Shared, command: &Command) -> Option<&'a HostAddress> {
    shared.host.as_ref().filter(|_| is_about_a_host(command))
}

/// Does a command through the service of another host.
pub(super) async fn command(
    shared: &Shared,
    address: &HostAddress,
    command: &Command,
) -> ExitStatus {
    match Box::pin(done(shared, address, command)).await {
        Ok(exit) => exit,
        Err(error) => {
            // The decision refused the command; JSON has it beside the error.
            if let Some(decision) = error.verdict().filter(|_| !shared.json) {
                show::say(Shown(decision).to_string().trim_end());
            }
            show::failure(shared, &error).into()
        }
    }
}

/// Whether a command is about VMs, or about what a host keeps. Other commands are about files of this machine, or are this machine's
/// programs.
fn is_about_a_host(command: &Command) -> bool {
    !matches!(
        command,
        Command::Job(_)
            | Command::Policy(_)
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::NomadPlugin
            | Command::Launch { .. }
            | Command::Compile { .. }
    )
}

async fn done(
    shared: &Shared,
    address: &HostAddress,
    command: &Command,
) -> Result<ExitStatus, RunError> {
    let reader = if shared.json { Reader::Program } else { Reader::Person };
    let host = Host { client: Client::new(address, &access(), reader)?, shared };
    let exit = match command {
        Command::Exec(args) => return host.exec(args).await,
        Command::Run(args) => Box::pin(host.run(args)).await?,
        Command::Plan(args) => host.plan(&args.decide).await?,
        Command::Vm(VmCommand::Drain(_)) => return Err(only_there("drain")),
        Command::Vm(VmCommand::Recover) => return Err(only_there("recover")),
        Command::Vm(command) => host.vm(command).await?,
        Command::Quota(of) => host.quotas(of).await?,
        Command::Decisions(args) => host.decisions(args).await?,
        Command::Fingerprint => host.fingerprint().await?,
        Command::Image(command) => host.image(command).await?,
        Command::Volume(command) => host.volume(command).await?,
        Command::Doctor { .. } => return Err(only_there("doctor")),
        Command::Config(_) => return Err(only_there("config")),
        Command::Overlay(_) => return Err(only_there("overlay")),
        Command::Serve(_) => return Err(only_there("serve")),
        Command::Token(_) => return Err(only_there("token")),
        Command::Job(_)
        | Command::Policy(_)
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::NomadPlugin
        | Command::Launch { .. }
        | Command::Compile { .. } => return Err(only_there("this")),
    };
    Ok(exit.into())
}

/// The error for a command that a service does not do for a client.
fn only_there(command: &str) -> RunError {
    RunError::Usage(format!(
        "qhost {command} works on the host itself: run it there, without --host and QHOST_HOST"
    ))
}

/// Reads the client's credentials and the authority to trust from the environment, since all users of a machine can see a command line.
fn access() -> Access {
    let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let path = |name| text(name).map(PathBuf::from);
    Access {
        token: text("QHOST_TOKEN"),
        ca: path("QHOST_CACERT"),
        certificate: path("QHOST_CLIENT_CERT"),
        key: path("QHOST_CLIENT_KEY"),
    }
}

/// The other host, for one command.
struct Host<'a> {
    client: Client,
    shared: &'a Shared,
}

/// The status of an operation of the service.
#[derive(Debug, Deserialize)]
struct Operation {
    id: String,
    state: String,
    step: Option<String>,
    vm: Option<String>,
    decision: Option<String>,
    error: Option<Problem>,
}

impl Host<'_> {
    /// Waits until an operation is over, and says what it does meanwhile. The operation is given up when the token is cancelled.
    async fn finished(
        &self,
        begun: Operation,
        give_up: &CancellationToken,
        tell: impl Fn(&str),
    ) -> Result<Operation, RunError> {
        let id = begun.id.clone();
        let mut now = begun;
        let (mut told, mut is_given_up) = (None, false);
        loop {
            if now.state != "running" {
                return Ok(now);
            }
            if now.step != told {
                now.step.iter().for_each(|step| tell(step));
                told.clone_from(&now.step);
            }
            // A terminal shows progress, which is asked for more often.
            let seconds = if show::on_terminal(self.shared) { 1 } else { limits::HOST_WAIT_S };
            let query = [("timeout_s", Some(seconds.to_string()))];
            let wait = self.client.at(&["v1", "operations", &id, "wait"], &query);
            tokio::select! {
                next = self.client.get_patiently(wait) => now = next?,
                () = give_up.cancelled(), if !is_given_up => {
                    is_given_up = true;
                    self.client.give_up(self.client.at(&["v1", "operations", &id], &[])).await?;
                }
            }
        }
    }

    /// Waits until an operation has succeeded; Ctrl-C gives it up.
    async fn succeeded_or_given_up(&self, begun: Operation) -> Result<Operation, RunError> {
        let mut stop = Stop::on_signals().map_err(RunError::Runtime)?;
        let give_up = CancellationToken::new();
        let succeeded = self.succeeded(begun, &give_up);
        let mut succeeded = std::pin::pin!(succeeded);
        tokio::select! {
            done = &mut succeeded => return done,
            () = stop.asked(1) => give_up.cancel(),
        }
        tokio::select! {
            done = &mut succeeded => done,
            () = stop.asked(2) => Err(RunError::Interrupted),
        }
    }

    /// Waits until an operation has succeeded; only the token gives it up.
    async fn succeeded(
        &self,
        begun: Operation,
        give_up: &CancellationToken,
    ) -> Result<Operation, RunError> {
        let progress = show::Shown::progress(self.shared);
        let over = self.finished(begun, give_up, |step| progress.doing(step)).await?;
        progress.clear();
        match over.error {
            Some(problem) => Err(ClientError::Problem(Box::new(problem)).into()),
            None => Ok(over),
        }
    }

    async fn quotas(&self, of: &OfTenant) -> Result<Exit, RunError> {
        let all = self.client.list("quotas", &[("tenant", of.tenant.clone())]).await?;
        quotas::listed(self.shared, &all);
        Ok(Exit::Done)
    }

    async fn fingerprint(&self) -> Result<Exit, RunError> {
        let host: serde_json::Value = self.client.get(self.client.at(&["v1", "host"], &[])).await?;
        if self.shared.json {
            show::print(&show::json(&host));
            return Ok(Exit::Done);
        }
        let text = |value: &serde_json::Value| {
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        };
        let attributes = host.get("attributes").and_then(serde_json::Value::as_object);
        let mut lines: Vec<_> = attributes.into_iter().flatten().collect();
        lines.extend(
            ["cpus", "memory_mib"].iter().filter_map(|name| host.as_object()?.get_key_value(*name)),
        );
        for (name, value) in lines {
            show::tell(&format!("{name:<26} {}\n", text(value)));
        }
        Ok(Exit::Done)
    }

    async fn decisions(&self, args: &DecisionsArgs) -> Result<Exit, RunError> {
        if let Some(id) = &args.id {
            let one = self.client.get(self.client.at(&["v1", "decisions", id], &[])).await?;
            decisions::told_one(self.shared, &one);
            return Ok(Exit::Done);
        }
        let RecordFilter { of, task, outcome, since } = &args.filter;
        let query = [
            ("tenant", of.tenant.clone()),
            ("task", task.clone()),
            ("outcome", outcome.map(|outcome| outcome.name().to_owned())),
            ("since", since.map(|since| since.0.to_string())),
            ("policy", args.policy.clone()),
        ];
        let most = if args.all { usize::MAX } else { args.tail };
        let found = self.client.list_most("decisions", &query, most).await?;
        decisions::listed(self.shared, args, &found);
        Ok(Exit::Done)
    }

    /// The decision about an operation, if it can be had.
    async fn decision(&self, id: Option<&String>) -> Option<Decision> {
        let at = self.client.at(&["v1", "decisions", id?], &[]);
        let recorded: Recorded = self.client.get(at).await.ok()?;
        Some(recorded.record.decision)
    }
}

/// A time in the API's form.
fn time(since: Option<Timestamp>) -> Option<String> {
    since.map(|since| since.to_string())
}

impl Cli {
    /// Takes `QHOST_HOST` if `--host` is not given.
    ///
    /// # Errors
    /// The variable's value is no place of a service.
    pub(super) fn with_host(mut self) -> Result<Self, String> {
        let named = std::env::var("QHOST_HOST").ok().filter(|text| !text.is_empty());
        if let (None, Some(text)) = (&self.shared.host, named) {
            let host = text.parse().map_err(|expected| format!("QHOST_HOST: {expected}"))?;
            self.shared.host = Some(host);
        }
        Ok(self)
    }
}
