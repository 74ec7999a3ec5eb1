//! What the plugin's services share: the engine, as far as its configuration loads, the tasks, and what has happened to them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::SystemTime,
};

use tokio::{sync::broadcast, task::spawn_blocking};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use qhost_engine::{
    Engine, Options,
    config::{Config, default_state_dir},
};
use qhost_sys::state::StateDir;

use crate::{
    error::{in_a_line, status},
    events::Events,
    proto::driver::DriverTaskEvent,
    settings::Settings,
    tasks::Tasks,
};

pub(crate) struct Plugin {
    leave: CancellationToken,
    host: RwLock<Host>,
    /// One look at the configuration at a time.
    looking: tokio::sync::Mutex<()>,
    pub(crate) tasks: Tasks,
    pub(crate) events: Events,
}

/// The host that tasks are run on.
#[derive(Clone, Default)]
struct Host {
    settings: Settings,
    engine: Option<Engine>,
    /// Of what it is the engine.
    seen: Option<Seen>,
    /// Why no task can be started now.
    broken: Option<String>,
}

/// The files that a configuration is made of, as they were when it was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen(BTreeMap<PathBuf, Option<(SystemTime, u64)>>);

impl Seen {
    fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamp = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len()))
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

    /// Cancelled when the plugin leaves.
    pub(crate) fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    fn host(&self) -> Host {
        self.host.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn settings(&self) -> Settings {
        self.host().settings
    }

    /// Takes over what the agent says, and loads the configuration. One that does not load makes the node unhealthy, and keeps no agent
    /// from starting.
    pub(crate) async fn configure(&self, settings: Settings) {
        let host = Host { settings, ..Host::default() };
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = host;
        self.look().await;
    }

    /// Loads the configuration once more where a file of it has changed. Why no task can be started now, where that is so.
    pub(crate) async fn look(&self) -> Option<String> {
        let _one = self.looking.lock().await;
        let host = self.host();
        if host.broken.is_none() && host.seen.as_ref().is_some_and(Seen::is_as_it_was) {
            return None;
        }
        let settings = host.settings.clone();
        let loaded = spawn_blocking(move || loaded(&settings)).await;
        let next = match loaded.map_err(|panicked| panicked.to_string()).flatten() {
            Ok(loaded) => self.taken(&host, loaded).await,
            Err(why) => Host { broken: Some(why), ..host },
        };
        let broken = next.broken.clone();
        if let Some(why) = &broken {
            tracing::warn!(why, "no task can be started");
        }
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = next;
        broken
    }

    /// The host under a configuration that was read, if its policies load.
    async fn taken(&self, host: &Host, loaded: Loaded) -> Host {
        let Loaded { config, state, seen } = loaded;
        let settings = host.settings.clone();
        let engine = match &host.engine {
            Some(engine) => engine.reload(config).await.map(|()| engine.clone()),
            None => Engine::open(Options { config, state, programs: None }),
        };
        let checked = match engine {
            Ok(engine) => engine.policies().await.map(|_| engine),
            Err(error) => Err(error),
        };
        match checked {
            Ok(engine) => Host { settings, engine: Some(engine), seen: Some(seen), broken: None },
            Err(error) => Host { settings, broken: Some(in_a_line(&error)), ..host.clone() },
        }
    }

    /// The engine, to start something.
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

    /// The engine, to look at what runs and to end it: that works under a broken configuration too.
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

    /// What happens to tasks from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<DriverTaskEvent> {
        self.events.subscribe()
    }
}

struct Loaded {
    config: Config,
    state: StateDir,
    seen: Seen,
}

fn loaded(settings: &Settings) -> Result<Loaded, String> {
    let config = Config::load(settings.config.as_deref()).map_err(|error| in_a_line(&error))?;
    let state = state_dir(settings)?;
    let files = config.files().into_iter().chain(settings.config.clone());
    let seen = Seen::of(files);
    Ok(Loaded { config, state, seen })
}

fn state_dir(settings: &Settings) -> Result<StateDir, String> {
    let named = settings.state_dir.clone().or_else(default_state_dir);
    let named =
        named.ok_or("the agent's user has no home folder; set state_dir in the plugin's config")?;
    StateDir::new(&named).map_err(|error| in_a_line(&error))
}
