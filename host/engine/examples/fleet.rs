//! Starts 20 VMs at once in one process, gives half of the orders up, each at another stage, checks which files the other VMs'
//! supervisors have open, kills and removes these VMs, and fails if anything is left. The image of `SLOW-JOB` takes long to fetch.
//! `fleet QHOST-PROGRAM STATE-DIR CONFIG.toml JOB.json SLOW-JOB.json`, with the tenants `waiting` and `tenant-0` to
//! `tenant-19` in the configuration.

use std::{collections::BTreeSet, error::Error, fs, path::PathBuf, sync::Arc, time::Duration};

use qhost_engine::{
    Context, Engine, JobFile, Observation, Observer, Options, Order, Programs, Termination, Until,
    Which, config::Config,
};
use qhost_image::{Progress, Step};
use qhost_model::kind::Kind;
use qhost_sys::state::StateDir;
use tokio_util::sync::CancellationToken;

/// An observer that gives its order up at a stage.
struct GivesUp {
    stage: Option<&'static str>,
    cancel: CancellationToken,
}

impl GivesUp {
    fn reached(&self, stage: &str) {
        if self.stage == Some(stage) {
            self.cancel.cancel();
        }
    }
}

impl Observer for GivesUp {
    fn observe(&self, observation: Observation<'_>) {
        match observation {
            Observation::Understood { .. } => self.reached("understood"),
            Observation::Decided { .. } => self.reached("decided"),
            Observation::Allowed(_) => self.reached("allowed"),
            Observation::Admitted { .. } => self.reached("admitted"),
            Observation::Verified(_) => self.reached("verified"),
            Observation::Waiting { .. } => self.reached("waiting"),
            Observation::Turn
            | Observation::Fingerprinting
            | Observation::Compiling { .. }
            | Observation::Launched { .. }
            | Observation::Status(_)
            | Observation::Stopping(_)
            | Observation::Silent { .. } => {}
        }
    }
}

impl Progress for GivesUp {
    fn begins(&self, step: Step, _: Option<u64>) {
        if step == Step::Fetching {
            self.reached("fetching");
        }
    }
}

/// The stages at which orders are given up.
const STAGES: [&str; 10] = [
    "waiting",
    "understood",
    "decided",
    "allowed",
    "admitted",
    "fetching",
    "verified",
    "waiting",
    "fetching",
    "verified",
];

/// The files that the supervisors which this process has started have open, without the image, which VMs share.
fn supervisors() -> Result<Vec<BTreeSet<PathBuf>>, Box<dyn Error>> {
    let this = std::process::id().to_string();
    let mut all = vec![];
    for process in fs::read_dir("/proc")?.flatten() {
        // The file has the process id, name, state and parent: `1 (name) S 0`. The program chooses the name, so that the last parenthesis
        // counts.
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        if parent != Some(&this) {
            continue;
        }
        let files = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        let is_own = |file: &PathBuf| {
            let shared = ["/dev/", "/images/"];
            file.is_absolute() && !shared.iter().any(|one| file.to_string_lossy().contains(one))
        };
        all.push(files.filter(is_own).collect());
    }
    Ok(all)
}

/// The files that several supervisors have open. A VM's file that another VM's supervisor has open would stay locked after the VM's end.
fn files_of_several(supervisors: &[BTreeSet<PathBuf>]) -> Vec<&PathBuf> {
    let counts = |file: &PathBuf| supervisors.iter().filter(|files| files.contains(file)).count();
    let mut shared: Vec<_> = supervisors.iter().flatten().filter(|file| counts(file) > 1).collect();
    shared.sort();
    shared.dedup();
    shared
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [qhost, state, config, job, slow_job] = args.as_slice() else {
        return Err("fleet QHOST-PROGRAM STATE-DIR CONFIG.toml JOB.json SLOW-JOB.json".into());
    };
    let programs = Programs {
        qhost: PathBuf::from(qhost),
        supervisor: PathBuf::from(format!("{qhost}-supervisor")),
    };
    let engine = Engine::open(Options {
        config: Config::load(Some(config.as_ref()))?,
        state: StateDir::new(state.as_ref())?,
        programs: Some(programs),
    })?;
    // The lock stands for another start of the tenant's, whose turn it is until the lock is dropped.
    let turns = PathBuf::from(state).join("turns");
    fs::create_dir_all(&turns)?;
    let turn = fs::File::create(turns.join("waiting.lock"))?;
    turn.lock()?;
    let mut starts = tokio::task::JoinSet::new();
    for number in 0..20 {
        let stage = if number % 2 == 0 { STAGES.get(number / 2).copied() } else { None };
        let cancel = CancellationToken::new();
        let observer = Arc::new(GivesUp { stage, cancel: cancel.clone() });
        let context = Context { cancel, observer };
        let name = if stage == Some("fetching") { slow_job } else { job };
        let file = JobFile { name: name.clone(), bytes: fs::read(name)? };
        let tenant = match stage {
            Some("waiting") => "waiting".into(),
            Some(_) | None => format!("tenant-{number}"),
        };
        let order = Order::new(file, tenant);
        let engine = engine.clone();
        starts.spawn(async move { (stage, engine.start(order, &context).await) });
    }
    let mut vms = vec![];
    while let Some(started) = starts.join_next().await {
        match started? {
            (None, Ok(vm)) => vms.push(vm),
            (Some(_), Err(error)) if error.kind() == Kind::Cancelled => {}
            (Some(stage), Ok(vm)) => {
                return Err(format!("{} was given up at {stage}, and started", vm.id()).into());
            }
            (stage, Err(error)) => return Err(format!("given up at {stage:?}: {error}").into()),
        }
    }
    drop(turn);
    println!("{} started, {} given up", vms.len(), 20 - vms.len());
    let context = Context::default();
    for vm in &vms {
        let running =
            tokio::time::timeout(Duration::from_secs(60), vm.wait(Until::Running, &context));
        let state = running.await??.status.state();
        if state.is_final() {
            return Err(format!("{} is {}", vm.id(), state.name()).into());
        }
    }
    let listed = engine.vms(Which::GoingOn).await.len();
    if listed != vms.len() {
        return Err(format!("{listed} VMs are listed of {}", vms.len()).into());
    }
    let supervisors = supervisors()?;
    if supervisors.len() != vms.len() || supervisors.iter().any(BTreeSet::is_empty) {
        return Err(format!(
            "{} supervisors of {} VMs: {supervisors:?}",
            supervisors.len(),
            vms.len()
        )
        .into());
    }
    let shared = files_of_several(&supervisors);
    if !shared.is_empty() {
        return Err(format!("several supervisors have open: {shared:?}").into());
    }
    for vm in &vms {
        vm.end(Termination::Kill, &context).await?;
        vm.remove().await?;
    }
    let left = engine.vms(Which::All).await.len();
    println!("{left} left");
    if left == 0 { Ok(()) } else { Err("something is left".into()) }
}
