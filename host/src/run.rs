//! The spine: one run from its job file to its report, as prose. `plan` goes the same way and turns off before the
//! launch.

mod commands;
mod error;
mod plan;
mod show;
mod sources;

use std::process::ExitCode;

use clap::Parser as _;

pub use error::RunError;

use crate::{
    cli::{Cli, Command, DecideArgs, JobCommand, RunArgs, Shared},
    config::Config,
    facts,
    image::Store,
    job,
    outcome::{Exit, Report, VmReport},
    policy::{Approved, Chain, Verdict},
    qemu::{self, Fingerprint},
    state::StateDir,
    stop::Stop,
    vm::{self, End, Ended, VmDir},
};

/// The whole program: parse, run, exit code.
pub fn main() -> ExitCode {
    let Cli { shared, command } = Cli::parse();
    show::log(shared.verbose);
    let exit = match command {
        Command::Run(args) => wait(&shared, run(&shared, &args)),
        Command::Plan(args) => wait(&shared, plan::plan(&shared, &args.decide)),
        Command::Fingerprint => wait(&shared, commands::fingerprint(&shared)),
        Command::Job(JobCommand::Schema) => commands::job_schema(),
        Command::Policy(command) => commands::policy(&shared, &command),
        Command::Completions { shell } => commands::completions(shell),
        Command::Launch { parent, command } => return commands::launch(parent, &command),
    };
    ExitCode::from(exit.code())
}

/// One thread: `qemu::launcher` says why QEMU is to be started by the main one.
fn wait(shared: &Shared, command: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => show::failure(shared, &RunError::Runtime(error)),
    }
}

/// `qhost run`: always ends with a report, whatever happened on the way.
async fn run(shared: &Shared, args: &RunArgs) -> Exit {
    let mut report = Report::new();
    let exit = match stages(shared, args, &mut report).await {
        Ok(exit) => exit,
        Err(error) => report.fail(&error),
    };
    report.finish(exit);
    show::report(shared, &report);
    exit
}

async fn stages(shared: &Shared, args: &RunArgs, report: &mut Report) -> Result<Exit, RunError> {
    let mut stop = Stop::on_signals().map_err(RunError::Runtime)?;
    let steps = show::Steps::new(shared);
    let host = Host::new(shared, &args.decide)?;
    let fingerprint = tokio::select! {
        fingerprint = host.fingerprint() => fingerprint?,
        () = stop.asked(1) => return Err(RunError::Interrupted),
    };
    fingerprint.keep(&host.state.fingerprint());
    let approved = match decide(&host, &fingerprint, &args.decide, report)? {
        Decided::Approved(approved) => *approved,
        Decided::Not(exit) => return Ok(exit),
    };
    steps.decided(approved.decision());
    let ports = vm::reserve(approved.launch(), &host.config.rules().ports)?;
    let store = Store::new(host.state.path());
    let image = tokio::select! {
        image = store.ensure(&approved.task().image, &host.config.image, &steps) => image?,
        () = stop.asked(1) => return Err(RunError::Interrupted),
    };
    steps.verified(&image);
    report.image = Some(image.clone());
    let mut dir = VmDir::create(&host.state, &approved.task().name)?;
    let forwards = ports.forwards().to_vec();
    let plan = qemu::plan(dir.id(), fingerprint.qemu.path, approved, image, forwards);
    let ended = vm::run(&plan, &mut dir, ports, (&mut stop, args.grace()), &steps).await?;
    let exit = exit_of(&ended.end);
    report.vm = Some(vm_report(&dir, plan.forwards().to_vec(), ended));
    Ok(exit)
}

/// What every command that decides needs of this host.
struct Host {
    config: Config,
    state: StateDir,
}

impl Host {
    fn new(shared: &Shared, args: &DecideArgs) -> Result<Self, RunError> {
        let mut config = Config::load(shared.config.as_deref())?;
        config.image.network.allow.extend(&args.image_allow);
        let state = shared.state_dir.clone().unwrap_or_else(crate::config::default_state_dir);
        Ok(Self { config, state: StateDir::new(&state)? })
    }

    async fn fingerprint(&self) -> Result<Fingerprint, RunError> {
        Ok(Fingerprint::take(&self.state.fingerprint()).await?)
    }
}

enum Decided {
    Approved(Box<Approved>),
    Not(Exit),
}

/// From the job file to a verdict. Reads files, and downloads nothing: a denied task costs no fetch.
fn decide(
    host: &Host,
    fingerprint: &Fingerprint,
    args: &DecideArgs,
    report: &mut Report,
) -> Result<Decided, RunError> {
    let (name, bytes) = sources::job(&args.job)?;
    let task = job::parse(&name, &bytes, &args.tenant, args.task.as_deref())?;
    report.task = Some(task.clone());
    let chain = Chain::load(sources::policies(&args.policies, &args.settings)?)?;
    let facts = facts::gather(fingerprint, &vm::running(&host.state), &args.tenant)?;
    Ok(match chain.decide(task, &facts, &host.config.rules())? {
        Verdict::Approved(approved) => {
            report.decision = Some(approved.decision().clone());
            Decided::Approved(approved)
        }
        Verdict::Denied(decision) => {
            report.decision = Some(decision);
            Decided::Not(Exit::Denied)
        }
        Verdict::CannotRun(decision) => {
            report.decision = Some(decision);
            Decided::Not(Exit::CannotRun)
        }
    })
}

fn exit_of(end: &End) -> Exit {
    match end {
        End::ShutDown => Exit::Done,
        End::Stopped { .. } => Exit::Interrupted,
        End::Panicked | End::Failed { .. } => Exit::VmFailed,
    }
}

fn vm_report(dir: &VmDir, ports: Vec<qemu::Forward>, ended: Ended) -> VmReport {
    let failed = exit_of(&ended.end) == Exit::VmFailed;
    VmReport {
        id: dir.id().to_owned(),
        folder: dir.path().display().to_string(),
        console_log: dir.console_log().display().to_string(),
        ports,
        console_tail: if failed { ended.console_tail } else { String::new() },
        end: ended.end,
        started_at: ended.started_at,
        ended_at: ended.ended_at,
    }
}
