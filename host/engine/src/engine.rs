//! The engine that every door calls: the engine prints nothing, hears no signals and ends no process. Its work on orders is in `run.rs` and
//! `plan.rs`, and its work on VMs in `vm.rs`.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use qhost_image::Store;
use qhost_model::digest::Sha256;
use qhost_policy::{Chain, Journal, Loader, PolicyRecord, Table};
use qhost_sys::{
    spawn::{self, Programs},
    state::StateDir,
};
use qhost_vm::Scan;

use crate::{
    config::{Config, KnownClient},
    data::KeptTables,
    error::{EngineError, Failure},
    fingerprint::Fingerprint,
    generation::{Generation, Generations},
    observer::{Context, Observation},
    recover::{self, Recovered},
    tokens::{Token, Tokens},
};

/// What an engine is opened with.
#[derive(Debug)]
pub struct Options {
    /// What the operator allows.
    pub config: Config,
    /// Where images, VMs and records are kept.
    pub state: StateDir,
    /// The programs that the engine starts; absent: this program, and one beside it with `-supervisor` at the end of its name.
    pub programs: Option<Programs>,
}

/// The engine, which makes running VMs of jobs. A clone is the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    state: StateDir,
    generations: RwLock<Generations>,
    /// The process' one sandbox, made for the first decision.
    loader: OnceLock<Loader>,
    /// A lock that is held during a recovery, so that there is one at a time.
    recovering: tokio::sync::Mutex<()>,
    /// A lock that is held while a configuration is tried and taken over, so that this is done to one at a time.
    reloading: tokio::sync::Mutex<()>,
}

impl Engine {
    /// Opens a state folder under a configuration, and writes nothing yet.
    ///
    /// # Errors
    /// Fails where another engine of this process was opened with other programs.
    pub fn open(options: Options) -> Result<Self, EngineError> {
        let Options { config, state, programs } = options;
        if let Some(programs) = programs {
            spawn::use_programs(programs).map_err(Failure::Usage)?;
        }
        Ok(Self(Arc::new(Inner {
            generations: RwLock::new(Generations::begin(Generation::new(config, &state))),
            state,
            loader: OnceLock::new(),
            recovering: tokio::sync::Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
        })))
    }

    /// The state folder.
    pub fn state(&self) -> &StateDir {
        &self.0.state
    }

    /// The configuration that is in force now.
    pub fn config(&self) -> Config {
        self.generation().config.clone()
    }

    /// The tenant that a user of this host acts for on the API's socket.
    pub fn tenant_of_user(&self, uid: u32) -> Option<String> {
        self.generation().config.tenant_of_user(uid).map(str::to_owned)
    }

    /// The client of the API whose certificate has a digest.
    pub fn client_of_certificate(&self, sha256: Sha256) -> Option<KnownClient> {
        self.generation().config.client_of_certificate(sha256)
    }

    /// Whether the configuration allows a tenant of this name.
    pub fn may_be_tenant(&self, tenant: &str) -> bool {
        self.generation().config.knows(tenant).is_ok()
    }

    pub(crate) fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.generations().read().unwrap_or_else(PoisonError::into_inner).now)
    }

    pub(crate) fn reloading(&self) -> &tokio::sync::Mutex<()> {
        &self.0.reloading
    }

    pub(crate) fn generations(&self) -> &RwLock<Generations> {
        &self.0.generations
    }

    /// The stored images.
    pub fn images(&self) -> Store {
        Store::new(self.state().path())
    }

    /// The log of decisions.
    pub fn decisions(&self) -> Journal {
        self.generation().journal(self.state())
    }

    /// Gives another supervisor to VMs whose supervisor was killed, if their QEMU lives. This is done before every look at VMs.
    pub async fn recover(&self) -> Recovered {
        self.recover_and_scan().await.0
    }

    /// Recovers VMs, and also returns the scan of VMs' folders.
    pub(crate) async fn recover_and_scan(&self) -> (Recovered, Scan) {
        let _one = self.0.recovering.lock().await;
        recover::recover(self.state()).await
    }

    /// The loader of policies. Policies are compiled once, in processes of their own, and the compiled code is kept in the state folder.
    ///
    /// # Errors
    /// Fails where the sandbox cannot be set up.
    pub fn loader(&self) -> Result<Loader, EngineError> {
        let generation = self.generation();
        let loader = self.shared_loader()?.within(generation.config.compile.limits());
        Ok(loader.with_tables(generation.find_table()))
    }

    /// A table of the operator's as it was when a decision was made with it, by its digest.
    ///
    /// # Errors
    /// Says why there is no such table.
    pub fn kept_table(&self, sha256: Sha256) -> Result<Table, String> {
        KeptTables::of(self.state(), self.generation().config.decisions.max_age()).get(sha256)
    }

    pub(crate) fn shared_loader(&self) -> Result<Loader, Failure> {
        if let Some(loader) = self.0.loader.get() {
            return Ok(loader.clone());
        }
        let loader = Loader::with_cache(self.state().compiled())?;
        Ok(self.0.loader.get_or_init(|| loader).clone())
    }

    /// The policies that are asked about any tenant's tasks, all of them loaded, by their names.
    ///
    /// # Errors
    /// Fails where a policy does not load.
    pub async fn policies(&self) -> Result<BTreeMap<String, PolicyRecord>, EngineError> {
        let (engine, generation) = (self.clone(), self.generation());
        let loaded = blocking(move || {
            let chains = generation.load_all(&engine.shared_loader()?)?;
            let records = chains.iter().flat_map(Chain::records);
            Ok(records.map(|one| (one.name.clone(), one)).collect())
        });
        Ok(loaded.await?)
    }

    /// The tokens by which clients of the API prove who they are.
    pub fn tokens(&self) -> Tokens {
        Tokens::of(self.state())
    }

    /// Makes a token, and returns it with its secret text, which is kept nowhere else.
    ///
    /// # Errors
    /// Fails where the name is no token's name or is taken, the tenant is unknown, or the token cannot be written.
    pub fn make_token(
        &self,
        name: &str,
        tenant: Option<String>,
        days: Option<u32>,
    ) -> Result<(Token, String), EngineError> {
        if let Some(tenant) = &tenant {
            self.generation().config.knows(tenant)?;
        }
        Ok(self.tokens().make(name, tenant, days)?)
    }

    /// The free space on the state folder's disk, in bytes; absent where the kernel does not tell.
    pub fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(self.state().path()).ok()?;
        disk.f_bavail.checked_mul(disk.f_frsize)
    }

    /// The size of the state folder's disk, in bytes; absent where the kernel does not tell.
    pub fn disk_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(self.state().path()).ok()?;
        disk.f_blocks.checked_mul(disk.f_frsize)
    }

    /// The fingerprint of QEMU here, as it is kept, or taken now and kept.
    ///
    /// # Errors
    /// Fails where QEMU is not installed, or cannot be asked.
    pub async fn host(&self) -> Result<Arc<Fingerprint>, EngineError> {
        let found = self.fingerprint(&Context::default()).await?;
        let (path, keeping) = (self.state().fingerprint(), Arc::clone(&found));
        let kept = blocking(move || {
            if Fingerprint::kept(&path)?.is_none() {
                keeping.keep(&path);
            }
            Ok(())
        });
        kept.await?;
        Ok(found)
    }

    /// The fingerprint of QEMU here, as it is kept, or taken now.
    pub(crate) async fn fingerprint(&self, context: &Context) -> Result<Arc<Fingerprint>, Failure> {
        let path: PathBuf = self.state().fingerprint();
        let kept = {
            let path = path.clone();
            blocking(move || Ok(Fingerprint::kept(&path)?)).await?
        };
        if let Some(kept) = kept {
            return Ok(Arc::new(kept));
        }
        context.observer.observe(Observation::Fingerprinting);
        tokio::select! {
            taken = Fingerprint::take() => Ok(Arc::new(taken?)),
            () = context.cancel.cancelled() => Err(Failure::Cancelled),
        }
    }
}

/// Does work that waits for the disk or for other processes on a thread that may block. The work ends by itself: if this future is dropped,
/// the work goes on, and nothing waits for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(move || {
        qhost_cage::follow();
        work()
    });
    let done = done.await;
    done.unwrap_or_else(|panicked| Err(Failure::Runtime(panicked.into())))
}
