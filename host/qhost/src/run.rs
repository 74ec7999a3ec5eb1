//! The command as a door of the engine: makes an order from its arguments, shows what it observes, and turns kinds of errors into exit
//! codes.

mod audit;
mod author;
mod commands;
mod config;
mod decisions;
mod error;
mod images;
mod overlays;
mod plan;
mod quotas;
mod remote;
mod replay;
mod serve;
mod cpu_share;
mod show;
mod sources;
mod tokens;
mod trial;
mod trust;
mod vms;
mod volumes;

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::Parser as _;
use tokio_util::sync::CancellationToken;

use qhost_engine::{Context, Engine, Options, Order, Termination, Until, config::Config};

pub use error::RunError;
pub use trust::TrustError;

use qhost_policy::Loader;
use qhost_sys::{state::StateDir, stop::Stop};

use crate::{
    cli::{Cli, Command, DecideArgs, JobCommand, RunArgs, Shared},
    exit::Exit,
    limits,
};

use cpu_share::Starting;
use show::Shown;

/// The whole program: parse, run, exit code.
pub fn main() -> ExitCode {
    if let Some(completed) = commands::complete() {
        return completed;
    }
    // An agent of Nomad starts the programs in its plugin folder without arguments.
    let cli = if qhost_nomad::is_by_agent() && std::env::args_os().len() == 1 {
        Cli { shared: Shared::default(), command: Command::NomadPlugin }
    } else {
        Cli::parse()
    };
    if !matches!(cli.command, Command::NomadPlugin) {
        show::log(cli.shared.verbose);
    }
    let Cli { shared, command } = match cli.with_host().and_then(Cli::with_environment) {
        Ok(cli) => cli,
        Err(wrong) => {
            return ExitCode::from(show::usage(&wrong).code());
        }
    };
    if let Some(host) = remote::host_of(&shared, &command) {
        return wait(&shared, remote::command(&shared, host, &command)).into();
    }
    let exit = match command {
        Command::Run(args) => wait(&shared, run(&shared, &args)),
        Command::Plan(args) => wait(&shared, plan::plan(&shared, &args.decide)),
        Command::Vm(command) => wait(&shared, vms::command(&shared, &command)),
        Command::Exec(args) => return wait(&shared, vms::exec(&shared, &args)).into(),
        Command::Doctor { nomad } => wait(&shared, commands::doctor(&shared, nomad.as_deref())),
        Command::Decisions(args) => decisions::decisions(&shared, &args),
        Command::Quota(of) => wait(&shared, quotas::quotas(&shared, &of)),
        Command::Fingerprint => wait(&shared, commands::fingerprint(&shared)),
        Command::Job(JobCommand::Schema) => commands::job_schema(),
        Command::Config(command) => config::config(&shared, &command),
        Command::Image(command) => wait(&shared, images::image(&shared, &command)),
        Command::Overlay(command) => overlays::overlay(&shared, &command),
        Command::Volume(command) => wait(&shared, volumes::volume(&shared, &command)),
        Command::Policy(command) => commands::policy(&shared, &command),
        Command::Completions { shell } => commands::completions(&shared, shell),
        Command::Man { folder } => commands::man_pages(&shared, &folder),
        Command::Serve(args) => wait(&shared, serve::serve(&shared, &args)),
        Command::Token(command) => tokens::token(&shared, &command),
        Command::NomadPlugin => nomad(&shared),
        Command::Launch { parent, command } => return commands::launch(parent, &command),
        Command::Compile { product, memory, seconds } => {
            return commands::compile(product, memory, seconds);
        }
    };
    ExitCode::from(exit.code())
}

/// Serves an agent of Nomad until the agent asks the plugin to leave.
fn nomad(shared: &Shared) -> Exit {
    wait(shared, async {
        match qhost_nomad::serve().await {
            Ok(()) => Exit::Done,
            Err(error) => show::failure(shared, &RunError::Usage(error.to_string())),
        }
    })
}

/// Runs a command on one thread: `spawn` says why the main thread must start QEMU.
fn wait<T: From<Exit>>(shared: &Shared, command: impl Future<Output = T>) -> T {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(command);
            // A policy that is still being compiled when the run was stopped is not waited for, but the last write to an image is.
            runtime.shutdown_timeout(limits::LEAVE);
            exit
        }
        Err(error) => show::failure(shared, &RunError::Runtime(error)).into(),
    }
}

/// Does `qhost run`, which always ends with a report.
async fn run(shared: &Shared, args: &RunArgs) -> Exit {
    let shown = Shown::new(shared, &args.decide).detached(args.until() != Until::End);
    let shown = Arc::new(shown);
    let done = follow(shared, args, &shown).await;
    let mut report = shown.report();
    let exit = match done {
        Ok(exit) => exit,
        Err(error) => report.fail(&error),
    };
    report.finish(exit);
    show::report(shared, &report);
    exit
}

/// Starts the VM, and follows it until the state that the command waits for.
async fn follow(shared: &Shared, args: &RunArgs, shown: &Arc<Shown>) -> Result<Exit, RunError> {
    let mut stop = Stop::on_signals().map_err(RunError::Runtime)?;
    let engine = engine(shared)?;
    let share = cpu_share::of(&engine, &args.decide.tenant);
    share.enter_before_start().map_err(RunError::Cgroup)?;
    let until = args.until();
    let mut order = interruptible(&mut stop, order(&args.decide, args.grace())).await?;
    order.ready_check = until == Until::Ready;
    let (mut context, cancel) = context(shown);
    context.observer = Starting::new(share, context.observer);
    let started = engine.start(order, &context);
    let mut started = std::pin::pin!(started);
    let vm = tokio::select! {
        vm = &mut started => vm?,
        () = stop.asked(1) => {
            cancel.cancel();
            // The start leaves nothing half done; a VM that has a supervisor already is stopped below.
            started.await?
        }
    };
    let (unending, _) = self::context(shown);
    let waiting = vm.wait(until, &unending);
    let mut waiting = std::pin::pin!(waiting);
    let mut asked = 0;
    let record = loop {
        tokio::select! {
            record = &mut waiting => break record?,
            () = stop.asked(asked + 1) => {
                asked += 1;
                let ending = match asked {
                    1 => Termination::Stop(None),
                    2 => Termination::Stop(Some(std::time::Duration::ZERO)),
                    _ => Termination::Kill,
                };
                let (vm, context) = (vm.clone(), unending.clone());
                tokio::spawn(async move { vm.ask_to_end(ending, &context).await });
            }
        }
    };
    shown.ended(&record);
    Ok(Exit::of_vm(&record, until))
}

/// Makes the order, from the files that were named.
async fn order(
    args: &DecideArgs,
    grace: Option<qhost_model::launch::Grace>,
) -> Result<Order, RunError> {
    let args = args.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut order = Order::new(sources::job(&args.job)?, args.tenant);
        order.task = args.task;
        order.actor = Some(vms::actor(None));
        order.policies = sources::named(&args.policies, &args.settings)?;
        order.image_networks = args.networks.image_allow;
        order.grace = grace;
        Ok(order)
    });
    read.await.unwrap_or_else(|panicked| Err(RunError::Runtime(panicked.into())))
}

async fn interruptible<T>(
    stop: &mut Stop,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<T, RunError> {
    tokio::select! {
        done = work => done,
        () = stop.asked(1) => Err(RunError::Interrupted),
    }
}

fn context(shown: &Arc<Shown>) -> (Context, CancellationToken) {
    let cancel = CancellationToken::new();
    let observer: Arc<Shown> = Arc::clone(shown);
    (Context { cancel: cancel.clone(), observer }, cancel)
}

/// Opens the engine on the configuration and the state folder that were named, or the default ones.
fn engine(shared: &Shared) -> Result<Engine, RunError> {
    engine_under(shared, Config::load(shared.config.as_deref())?)
}

fn engine_under(shared: &Shared, config: Config) -> Result<Engine, RunError> {
    Ok(Engine::open(Options { config, state: state_dir(shared)?, programs: None })?)
}

/// Opens an engine without the configuration, to look at VMs and stop them, which works under a broken configuration too.
fn unconfigured(shared: &Shared) -> Result<Engine, RunError> {
    named_are_there(shared)?;
    engine_under(shared, Config::default())
}

/// Checks that a state folder and a configuration that were named are there, for commands that only look; they must be there even if the
/// command has no use for them.
fn named_are_there(shared: &Shared) -> Result<(), RunError> {
    if let Some(named) = &shared.state_dir {
        is_there("state folder", named, "--state-dir and QHOST_STATE_DIR")?;
    }
    if let Some(named) = &shared.config {
        is_there("configuration", named, "--config and QHOST_CONFIG")?;
    }
    Ok(())
}

/// Checks that a path that was named is there; if it is absent, its name is a mistake.
fn is_there(what: &str, named: &Path, check: &str) -> Result<(), RunError> {
    std::fs::metadata(named).map(drop).map_err(|error| {
        RunError::Usage(format!(
            "cannot read the {what} {}: {error}; check {check}",
            named.display()
        ))
    })
}

/// The loader of policies under the configuration, which tells of each policy that it compiles.
fn loader(shared: &Shared) -> Result<Loader, RunError> {
    loader_of(shared, &engine(shared)?)
}

fn loader_of(shared: &Shared, engine: &Engine) -> Result<Loader, RunError> {
    let terminal = show::on_terminal(shared);
    Ok(engine.loader()?.telling(move |name| show::compiling(terminal, name)))
}

/// The state folder that was named, or the default one.
fn state_dir(shared: &Shared) -> Result<StateDir, RunError> {
    let named = shared.state_dir.clone().or_else(qhost_engine::config::default_state_dir);
    let no_home = || RunError::Usage("this user has no home folder; give --state-dir".into());
    Ok(StateDir::new(&named.ok_or_else(no_home)?)?)
}
