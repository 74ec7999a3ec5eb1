//! The state that the plugin's services share: the engine, as far as its configuration loads, the tasks, and their events.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::Instant,
};

use futures_util::future::join_all;
use tokio::{sync::broadcast, task::spawn_blocking};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use qhost_engine::{
    Context, Engine, Options, Termination, Vm, Which,
    config::{Config, default_state_dir},
};
use qhost_sys::state::StateDir;
use qhost_vm::VmRecord;

use crate::{
    error::{in_a_line, of_engine, refused, status},
    events::Events,
    limits,
    proto::driver::DriverTaskEvent,
    settings::Settings,
    task::TASK_ID,
    tasks::Tasks,
};

pub(crate) struct Plugin {
    leave: CancellationToken,
    host: RwLock<Host>,
    /// A lock that is held during a look at the configuration, so that there is one look at a time.
    looking: tokio::sync::Mutex<()>,
    pub(crate) tasks: Tasks,
    pub(crate) events: Events,
}

/// The host that runs the tasks.
#[derive(Clone, Default)]
struct Host {
    settings: Settings,
    engine: Option<Engine>,
    /// The files of the configuration that the engine has, or that does not load.
    seen: Option<Seen>,
    /// The configuration's file, if there is one.
    file: Option<PathBuf>,
    /// The reason why no task can be started now.
    broken: Option<Broken>,
}

#[derive(Clone)]
struct Broken {
    why: String,
    since: Instant,
}

impl Broken {
    fn now(why: String) -> Self {
        Self { why, since: Instant::now() }
    }
}

/// The files of a configuration, as they were when it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen(BTreeMap<PathBuf, Option<Stamp>>);

/// The facts by which a file is known to be replaced, or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Seen {
    fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamp = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            let changed = (file.ctime(), file.ctime_nsec());
            Some(Stamp { inode: file.ino(), bytes: file.len(), changed })
        };
        Self(files.into_iter().map(|path| (path.clone(), stamp(&path))).collect())
    }

    fn is_as_it_was(&self) -> bool {
        *self == Self::of(self.0.keys().cloned())
    }
}

impl Plugin {
    pub(crate) fn new(leave: CancellationToken) -> Self {
        Self {
            leave,
            host: RwLock::default(),
            looking: tokio::sync::Mutex::default(),
            tasks: Tasks::default(),
            events: Events::default(),
        }
    }

    /// The token that is cancelled when the plugin leaves.
    pub(crate) fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    fn host(&self) -> Host {
        self.host.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn settings(&self) -> Settings {
        self.host().settings
    }

    /// Takes over the agent's settings, and loads the configuration. A configuration that does not load makes the node unhealthy, and
    /// keeps no agent from starting.
    pub(crate) async fn configure(&self, settings: Settings) {
        let one = self.looking.lock().await;
        let before = self.host();
        // VMs that run keep their engine, if the new settings have the same state folder.
        let is_same = before.settings.state_dir == settings.state_dir;
        let host = Host { engine: before.engine.filter(|_| is_same), settings, ..Host::default() };
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = host;
        drop(one);
        self.look().await;
    }

    /// Loads the configuration once more if one of its files has changed. Gives the reason why no task can be started now, if there is
    /// one.
    pub(crate) async fn look(&self) -> Option<String> {
        let _one = self.looking.lock().await;
        let host = self.host();
        let (settings, before) = (host.settings.clone(), host.clone());
        let looked = spawn_blocking(move || {
            let is_as_it_was = before.seen.as_ref().is_some_and(Seen::is_as_it_was);
            let is_due = |broken: &Broken| broken.since.elapsed() > limits::LOAD_AGAIN;
            if is_as_it_was && !before.broken.as_ref().is_some_and(is_due) {
                return Ok(None);
            }
            loaded(&settings, before.file.as_deref()).map(Some)
        });
        let next = match looked.await.map_err(|panicked| panicked.to_string()).flatten() {
            Ok(None) => return host.broken.map(|broken| broken.why),
            Ok(Some(loaded)) => self.taken(&host, loaded).await,
            Err(why) => {
                let known = host.seen.iter().flat_map(|seen| seen.0.keys().cloned());
                let files = known.chain(host.settings.config.clone());
                let (seen, broken) = (Some(Seen::of(files)), Some(Broken::now(why)));
                Host { seen, broken, ..host.clone() }
            }
        };
        let why = |host: &Host| host.broken.as_ref().map(|broken| broken.why.clone());
        let (before, broken) = (why(&host), why(&next));
        if let Some(why) = broken.as_ref().filter(|_| broken != before) {
            tracing::warn!(why, "no task can be started");
        }
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = next;
        broken
    }

    /// Gives the host with a configuration that was read, if the configuration's policies load.
    async fn taken(&self, host: &Host, loaded: Loaded) -> Host {
        let Loaded { config, state, seen } = loaded;
        let (settings, file) = (host.settings.clone(), config.file().map(Into::into));
        let engine = match &host.engine {
            Some(engine) => engine.reload(config).await.map(|()| engine.clone()),
            None => match Engine::open(Options { config, state, programs: None }) {
                Ok(engine) => engine.policies().await.map(|_| engine),
                Err(error) => Err(error),
            },
        };
        let seen = Some(seen);
        match engine {
            Ok(engine) => Host { settings, engine: Some(engine), seen, file, broken: None },
            Err(error) => {
                let broken = Some(Broken::now(in_a_line(&error)));
                Host { settings, seen, broken, ..host.clone() }
            }
        }
    }

    /// The engine, for a start.
    pub(crate) async fn engine_to_start(&self) -> Result<Engine, Status> {
        let broken = self.look().await;
        match (broken, self.host().engine) {
            (None, Some(engine)) => Ok(engine),
            (why, _) => {
                let why = why.unwrap_or_else(|| "the plugin was not configured yet".into());
                let message = format!("no task can be started on this host: {why}");
                Err(status(Code::Unavailable, message, true))
            }
        }
    }

    /// Finds VMs whose labels name a task. A tenant writes its VM's labels itself, so that a start compares the tenant as well.
    pub(crate) async fn left_over(
        &self,
        engine: &Engine,
        task_id: &str,
    ) -> Result<Vec<Vm>, Status> {
        let vms = engine.vms(Which::GoingOn).await;
        let task_id = task_id.to_owned();
        let found = spawn_blocking(move || {
            let is_its = |vm: &VmRecord| {
                let asked = vm.asked();
                asked.is_some_and(|task| task.meta.get(TASK_ID) == Some(&task_id))
            };
            vms.into_iter().filter(is_its).collect::<Vec<_>>()
        });
        let found =
            found.await.map_err(|panicked| refused(Code::Internal, panicked.to_string()))?;
        Ok(found.iter().map(|record| engine.handle(record)).collect())
    }

    /// Ends the VMs of a task that this plugin does not know, such as one that could not be recovered. Gives whether there were any.
    pub(crate) async fn end_left_over(
        &self,
        task_id: &str,
        ending: Termination,
    ) -> Result<bool, Status> {
        let engine = self.engine()?;
        let vms = self.left_over(&engine, task_id).await?;
        let context = Context::default();
        // All VMs are ended at once, so that one that ends late, or not at all, does not keep the others running.
        let ended = join_all(vms.iter().map(|vm| vm.end(ending, &context))).await;
        for ended in ended {
            ended.map_err(|error| of_engine(&error))?;
        }
        Ok(!vms.is_empty())
    }

    /// The engine under the host's configuration.
    pub(crate) fn configured_engine(&self) -> Result<Engine, Status> {
        let host = self.host();
        host.engine.ok_or_else(|| {
            let why = host.broken.map(|broken| broken.why);
            let why = why.unwrap_or_else(|| "the plugin was not configured yet".into());
            status(Code::Unavailable, format!("no policy can be asked: {why}"), true)
        })
    }

    /// The engine, to look at VMs and to end them, which works under a broken configuration too.
    pub(crate) fn engine(&self) -> Result<Engine, Status> {
        let host = self.host();
        if let Some(engine) = host.engine {
            return Ok(engine);
        }
        let unavailable = |why: String| status(Code::Unavailable, why, true);
        let state = state_dir(&host.settings).map_err(unavailable)?;
        let engine = Engine::open(Options { config: Config::default(), state, programs: None });
        engine.map_err(|error| unavailable(in_a_line(&error)))
    }

    /// The events of tasks from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<DriverTaskEvent> {
        self.events.subscribe()
    }
}

struct Loaded {
    config: Config,
    state: StateDir,
    seen: Seen,
}

/// Reads the configuration. `before` is the file that it was read from before; if that file is gone, this is taken for a fault.
fn loaded(settings: &Settings, before: Option<&Path>) -> Result<Loaded, String> {
    let state = state_dir(settings)?;
    let load = || Config::load(settings.config.as_deref()).map_err(|error| in_a_line(&error));
    // The files are known only once they have been read, and they may be written meanwhile.
    let mut seen = Seen::of(load()?.files());
    for _ in 0..limits::LOADS {
        let config = load()?;
        if let Some(gone) = before.filter(|_| config.file().is_none()) {
            return Err(format!("the configuration {} has gone", gone.display()));
        }
        let now = Seen::of(config.files());
        if now == seen {
            return Ok(Loaded { config, state, seen });
        }
        seen = now;
    }
    Err("the files of the configuration are being written; it is read again".into())
}

fn state_dir(settings: &Settings) -> Result<StateDir, String> {
    let named = settings.state_dir.clone().or_else(default_state_dir);
    let named =
        named.ok_or("the agent's user has no home folder; set state_dir in the plugin's config")?;
    StateDir::new(&named).map_err(|error| in_a_line(&error))
}
