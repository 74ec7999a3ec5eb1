//! A candidate, which is a configuration whose policies are loaded beside those in force. It can be tried on past decisions, and is taken
//! over whole or not at all. The previous configuration is kept for a step back.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use tempfile::NamedTempFile;

use qhost_model::digest::Sha256;
use qhost_policy::Outcome;

use crate::{
    config::Config,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    generation::{Generation, InForce},
    replay::{Difference, Replay},
};

/// A configuration that is not in force, with the policies of all its tenants loaded.
pub struct Candidate {
    generation: Arc<Generation>,
    /// The file of a component that no configuration names.
    _component: Option<NamedTempFile>,
}

impl Engine {
    /// Loads the policies of a configuration, for all its tenants.
    ///
    /// # Errors
    /// Fails where a policy does not load.
    pub async fn load(&self, config: Config) -> Result<Candidate, EngineError> {
        let engine = self.clone();
        Ok(blocking(move || engine.candidate(config, None)).await?)
    }

    fn candidate(
        &self,
        config: Config,
        component: Option<NamedTempFile>,
    ) -> Result<Candidate, Failure> {
        let generation = Generation::new(config, self.state());
        generation.load_all(&self.shared_loader()?)?;
        Ok(Candidate { generation: Arc::new(generation), _component: component })
    }

    /// Loads the configuration in force with another component in place of a policy's own.
    ///
    /// # Errors
    /// Fails where there is no such policy, or the component does not load.
    pub async fn load_with(
        &self,
        policy: String,
        component: Vec<u8>,
    ) -> Result<Candidate, EngineError> {
        let (engine, mut config) = (self.clone(), self.config());
        let loaded = blocking(move || {
            let failed = |source: io::Error| Failure::Runtime(source);
            let folder = engine.tried();
            qhost_sys::state::create_private(&folder).map_err(failed)?;
            let file = NamedTempFile::with_suffix_in(".wasm", &folder).map_err(failed)?;
            fs::write(file.path(), &component).map_err(failed)?;
            config
                .replace_component(&policy, file.path(), Sha256::of(&component))
                .map_err(Failure::Usage)?;
            engine.candidate(config, Some(file))
        });
        Ok(loaded.await?)
    }

    /// Removes components that a killed process left, which it had loaded in place of a policy's own.
    pub fn sweep_components(&self) {
        let folder = self.tried();
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "what was tried is left");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn tried(&self) -> PathBuf {
        self.state().path().join("tried")
    }

    /// Makes the latest decisions again, at most so many, by the policies in force or by a candidate's.
    ///
    /// # Errors
    /// Fails where the log cannot be read, or a policy does not load.
    pub async fn replay(&self, by: Option<&Candidate>, most: usize) -> Result<Replay, EngineError> {
        let generation = by.map_or_else(|| self.generation(), |by| Arc::clone(&by.generation));
        let engine = self.clone();
        let replayed = blocking(move || {
            let loader = engine.shared_loader()?;
            let log = qhost_policy::read_latest(&engine.decisions().folder, most, |_| true);
            let log = log.map_err(Failure::Runtime)?;
            let mut replaying = engine.replaying();
            for one in log.records {
                let line = one.id.to_string();
                let task = &one.record.input.task;
                if let Err(unknown) = generation.config.knows(&task.tenant) {
                    replaying.not_again(line, task, unknown.to_string());
                    continue;
                }
                let chain = |tenant: &str| generation.chain(&loader, &[], tenant);
                replaying.decide(line, one.record, chain)?;
            }
            Ok(replaying.finish())
        });
        Ok(replayed.await?)
    }

    /// Goes over to a configuration whose policies are loaded. Work that has begun under the previous configuration ends under that.
    pub fn take(&self, candidate: Candidate) -> InForce {
        let mut generations = self.generations().write().unwrap_or_else(PoisonError::into_inner);
        generations.take(candidate.generation);
        generations.in_force()
    }

    /// Goes over to another configuration. The policies of all its tenants are loaded first, and nothing is changed unless all load. Work
    /// that has begun under the previous configuration ends under that.
    ///
    /// # Errors
    /// Fails where a policy does not load. Then the present configuration stays.
    pub async fn reload(&self, config: Config) -> Result<(), EngineError> {
        let candidate = self.load(config).await?;
        self.take(candidate);
        Ok(())
    }

    /// Goes over to another configuration after it was tried on the latest decisions, at most so many. The configuration is not taken if
    /// one of its policies fails at a decision that was made before, and of which nothing was masked.
    ///
    /// # Errors
    /// Fails where a policy does not load, or fails at a decision. Then the present configuration stays.
    pub async fn reload_tried(&self, config: Config, most: usize) -> Result<InForce, EngineError> {
        let _one = self.reloading().lock().await;
        let candidate = self.load(config).await?;
        let tried = self.replay(Some(&candidate), most).await?;
        let is_new = |one: &&Difference| {
            one.now == Outcome::Failed && one.was != Outcome::Failed && !one.masked
        };
        let failed = tried.differences.iter().find(is_new);
        if let Some(one) = failed {
            let why = one.error.clone().unwrap_or_default();
            return Err(Failure::Usage(format!(
                "it is not taken: a policy fails at the decision about {}'s task {} of {}: {why}",
                one.tenant, one.task, one.time
            ))
            .into());
        }
        Ok(self.take(candidate))
    }

    /// Goes back to the previous configuration, with its policies as they were loaded. A second step back returns to this one.
    ///
    /// # Errors
    /// Fails where no previous configuration is kept.
    pub fn step_back(&self) -> Result<InForce, EngineError> {
        let mut generations = self.generations().write().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = generations.before() else {
            let why = "no configuration before this one is kept: this process has had one alone";
            return Err(Failure::Usage(why.into()).into());
        };
        generations.take(before);
        Ok(generations.in_force())
    }

    /// Says which configuration is in force.
    pub fn in_force(&self) -> InForce {
        self.generations().read().unwrap_or_else(PoisonError::into_inner).in_force()
    }
}
