//! The spine: one run from its job file to its report, as prose. `plan` goes the same way and turns off before the
//! launch.

mod author;
mod commands;
mod config;
mod decide;
mod decision_record;
mod error;
mod follow;
mod images;
mod overlays;
mod plan;
mod replay;
mod show;
mod sources;
mod trial;
mod trust;
mod vms;

use std::process::ExitCode;

use clap::Parser as _;

use qhost_engine::{
    admission,
    config::Config,
    fingerprint::Fingerprint,
    overlays::KeptOverlay,
    ports, recover,
    start::{self, VmLocks},
    turn::Turn,
};

pub use error::RunError;
pub use trust::TrustError;

use qhost_image::{Fetcher, ImageError, Store};
use qhost_model::quota::Usage;
use qhost_policy::{Cache, Loader};
use qhost_sys::{state::StateDir, stop::Stop};

use crate::{
    cli::{Cli, Command, DecideArgs, JobCommand, RunArgs, Shared, Until},
    limits,
    outcome::{Exit, Report},
};

use decide::{Decided, Deciding};
use decision_record::Keep;

/// The whole program: parse, run, exit code.
pub fn main() -> ExitCode {
    let Cli { shared, command } = Cli::parse();
    show::log(shared.verbose);
    let exit = match command {
        Command::Run(args) => wait(&shared, run(&shared, &args)),
        Command::Plan(args) => wait(&shared, plan::plan(&shared, &args.decide)),
        Command::Vm(command) => wait(&shared, vms::command(&shared, &command)),
        Command::Doctor => wait(&shared, commands::doctor(&shared)),
        Command::Fingerprint => wait(&shared, commands::fingerprint(&shared)),
        Command::Job(JobCommand::Schema) => commands::job_schema(),
        Command::Config(command) => config::config(&shared, &command),
        Command::Image(command) => wait(&shared, images::image(&shared, &command)),
        Command::Overlay(command) => overlays::overlay(&shared, &command),
        Command::Policy(command) => commands::policy(&shared, &command),
        Command::Completions { shell } => commands::completions(shell),
        Command::Launch { parent, command } => return commands::launch(parent, &command),
        Command::Compile { product, memory, seconds } => {
            return commands::compile(product, memory, seconds);
        }
    };
    ExitCode::from(exit.code())
}

/// One thread: `spawn` says why QEMU is to be started by the main one.
fn wait(shared: &Shared, command: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(command);
            // A policy that is still being compiled when the run was stopped is not waited for; what was about to be written
            // of an image is.
            runtime.shutdown_timeout(limits::LEAVE);
            exit
        }
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
    report.image_allow.clone_from(&args.decide.networks.image_allow);
    let host = Host::new(shared)?.with_image_networks(&args.decide);
    let tenant = &args.decide.tenant;
    host.enter_share_of(tenant)?;
    let mut turn = tokio::select! {
        turn = host.turn(tenant, &steps) => turn?,
        () = stop.asked(1) => return Err(RunError::Interrupted),
    };
    recover::recover(&host.state).await;
    let fingerprint = tokio::select! {
        fingerprint = host.fingerprint(&steps) => fingerprint?,
        () = stop.asked(1) => return Err(RunError::Interrupted),
    };
    fingerprint.keep(&host.state.fingerprint());
    let decision = Deciding {
        host: host.clone(),
        fingerprint: fingerprint.clone(),
        args: args.decide.clone(),
        keep: Keep::Record,
    };
    let mut approved = match decision.make(None, report, stop.asked(1)).await? {
        Decided::Approved(approved) => *approved,
        Decided::Not(exit) => return Ok(exit),
    };
    let store = Store::new(host.state.path());
    let terms = host.config.terms(tenant);
    let fetcher = Fetcher::of_tenant(&host.config.image, tenant, &terms, &steps);
    if approved.task().image.checksum.sums().is_some() {
        let resolved = store.resolve(&approved.task().image, fetcher);
        let (sha256, again) = tokio::select! {
            resolved = host.between_turns(turn, tenant, &steps, resolved) => resolved?,
            () = stop.asked(1) => return Err(RunError::Interrupted),
        };
        turn = again;
        // Policies go by the image's own digest too, which is known only now.
        let known = Some(approved.task().with_image(sha256));
        approved = match decision.make(known, report, stop.asked(1)).await? {
            Decided::Approved(approved) => *approved,
            Decided::Not(exit) => return Ok(exit),
        };
    }
    if args.until() == Until::Ready && approved.task().ready.is_none() {
        let why = "the job has no ready check that --wait-ready could wait for: config.ready";
        return Err(RunError::Usage(why.into()));
    }
    steps.decided(approved.decision());
    let ports = ports::reserve(&host.state, approved.launch(), &host.config.rules().ports)?;
    // Held from here on, so that no image is fetched for a run that another one keeps from starting.
    let mut kept = KeptOverlay::hold(&host.state, approved.task())?;
    let overlay_bytes = host.config.overlay.max_bytes;
    let cage = {
        let (launch, forwards) = (approved.launch(), ports.forwards());
        let program = fingerprint.path();
        let unfiltered_internet = host.config.unfiltered_internet();
        let needs = qhost_cage::Requirements {
            tenant,
            launch,
            forwards,
            overlay_bytes,
            program,
            unfiltered_internet,
        };
        qhost_cage::Host::detect(&host.config.cage).cage(&host.config.cage, needs)?
    };
    let takes = Usage::of(approved.launch(), overlay_bytes);
    let dir = admission::admit_new(&host.state, approved.task(), takes, &terms)?;
    let stored = store.get(&approved.task().image, tenant, &host.config.image)?;
    let image = if let Some(stored) = stored {
        stored
    } else {
        let fetched = store.ensure(&approved.task().image, fetcher);
        let (image, again) = tokio::select! {
            fetched = host.between_turns(turn, tenant, &steps, fetched) => fetched?,
            () = stop.asked(1) => return Err(RunError::Interrupted),
        };
        turn = again;
        image
    };
    steps.verified(&image);
    report.image = Some(image.clone());
    let forwards = ports.forwards().to_vec();
    let program = fingerprint.path().to_owned();
    let overlay = match &mut kept {
        Some(kept) => {
            kept.over(&image)?;
            kept.path().to_owned()
        }
        None => qhost_vm::OVERLAY.into(),
    };
    let plan = qhost_engine::plan::plan(dir.id(), program, approved, image, forwards, overlay);
    let mut spec = plan.spec(args.grace().as_secs(), overlay_bytes, cage);
    let mut held = VmLocks::new(plan.image(), ports, kept)?;
    held.user(&mut spec.cage.user, host.config.cage.users)?;
    let folder = dir.path().to_owned();
    let attached = start::launch(dir, &spec, &report.masked(plan.decision()), held)?;
    drop(turn);
    let vm =
        follow::until(args.until(), &host, &folder, (attached, &spec), &steps, &mut stop).await;
    store.note_use(plan.image().sha256());
    report.vm = Some(follow::report(&vm, &spec));
    Ok(follow::exit(&vm, args.until()))
}

/// What every command that decides needs of this host.
#[derive(Clone)]
struct Host {
    config: Config,
    state: StateDir,
    /// Whether progress may be shown.
    terminal: bool,
}

impl Host {
    fn new(shared: &Shared) -> Result<Self, RunError> {
        let config = Config::load(shared.config.as_deref())?;
        Ok(Self { config, state: state_dir(shared)?, terminal: show::on_terminal(shared) })
    }

    /// What this process does from here on comes out of the tenant's share of the CPUs, where there are several tenants. While it
    /// has one thread: the kernel moves the others' only at a price.
    fn enter_share_of(&self, tenant: &str) -> Result<(), RunError> {
        if !self.config.has_tenant(tenant) {
            // The decision says that there is no such tenant; with a single one there is nothing to share.
            return Ok(());
        }
        qhost_cage::enter_command(&self.config.cage, tenant).map_err(RunError::Cgroup)
    }

    /// The tenant's turn to decide and launch, where there are several tenants.
    async fn turn(&self, tenant: &str, steps: &show::Steps) -> Result<Option<Turn>, RunError> {
        if !self.config.has_tenant(tenant) {
            return Ok(None);
        }
        let waiting = || steps.doing("waiting", &format!("for other starts of tenant {tenant}"));
        Ok(Some(Turn::wait(&self.state, tenant, waiting).await?))
    }

    /// Does what waits for the network, for which the turn is given up, and takes the next one.
    async fn between_turns<T>(
        &self,
        turn: Option<Turn>,
        tenant: &str,
        steps: &show::Steps,
        waits: impl Future<Output = Result<T, ImageError>>,
    ) -> Result<(T, Option<Turn>), RunError> {
        drop(turn);
        Ok((waits.await?, self.turn(tenant, steps).await?))
    }

    fn with_image_networks(mut self, args: &DecideArgs) -> Self {
        self.config.image.network.allow.extend(&args.networks.image_allow);
        self
    }

    async fn fingerprint(&self, steps: &show::Steps) -> Result<Fingerprint, RunError> {
        match Fingerprint::kept(&self.state.fingerprint())? {
            Some(kept) => Ok(kept),
            None => {
                steps.looking();
                Ok(Fingerprint::take().await?)
            }
        }
    }

    /// What loads policies: compiled once in processes of their own, kept in the state folder.
    fn loader(&self) -> Result<Loader, RunError> {
        let terminal = self.terminal;
        let cache = Cache {
            folder: self.state.compiled(),
            limits: self.config.compile.limits(),
            compiling: Box::new(move |name| show::compiling(terminal, name)),
        };
        Ok(Loader::with_cache(cache)?)
    }
}

/// The folder that was named, or the default one.
fn state_dir(shared: &Shared) -> Result<StateDir, RunError> {
    let named = shared.state_dir.clone().or_else(qhost_engine::config::default_state_dir);
    let no_home = || RunError::Usage("this user has no home folder; give --state-dir".into());
    Ok(StateDir::new(&named.ok_or_else(no_home)?)?)
}
