//! A generation of the configuration, with the policies that it names, loaded once. A reload makes the next generation beside it, and work
//! that has begun under a generation ends under it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use qhost_model::{job::DEFAULT_TENANT, masks::Masks};
use qhost_policy::{Chain, FindTable, Journal, Loader, Source};
use qhost_sys::state::StateDir;

use crate::{
    config::{Config, Configured},
    data::{DataTables, KeptTables},
    error::Failure,
    sources,
};

/// A configuration, and those chains of its tenants that were asked already.
pub(crate) struct Generation {
    pub(crate) config: Config,
    tables: Arc<DataTables>,
    chains: Mutex<BTreeMap<String, Arc<Chain>>>,
}

impl Generation {
    pub(crate) fn new(config: Config, state: &StateDir) -> Self {
        let kept = KeptTables::of(state, config.decisions.max_age());
        let tables = Arc::new(DataTables::new(config.tables(), kept));
        Self { config, tables, chains: Mutex::default() }
    }

    /// The function that finds the operator's tables.
    pub(crate) fn find_table(&self) -> Arc<FindTable> {
        let tables = Arc::clone(&self.tables);
        Arc::new(move |name| tables.get(name))
    }

    /// Loads the chains of all tenants, or, if no tenants are configured, the chain that all have.
    pub(crate) fn load_all(&self, loader: &Loader) -> Result<Vec<Chain>, Failure> {
        let mut tenants: Vec<_> = self.config.tenants().collect();
        if tenants.is_empty() {
            tenants.push(DEFAULT_TENANT.to_owned());
        }
        tenants.iter().map(|tenant| self.chain(loader, &[], tenant)).collect()
    }

    /// The policies that are asked about a tenant's task: those of an order, the host's, the tenant's. The configuration's policies are
    /// loaded for the first decision that asks them.
    pub(crate) fn chain(
        &self,
        loader: &Loader,
        ordered: &[Source],
        tenant: &str,
    ) -> Result<Chain, Failure> {
        let configured = self.config.chain(tenant)?;
        for source in ordered {
            if configured.iter().any(|configured| configured.name == source.name) {
                return Err(Failure::Usage(format!(
                    "--policy {0}: the configuration has a policy of this name; give another: --policy NAME={0}.wasm",
                    source.name
                )));
            }
            sources::relied_upon(&source.name, &source.path)?;
        }
        let most = qhost_policy::limits::POLICIES;
        if ordered.len() + configured.len() > most {
            return Err(Failure::Usage(format!("more than {most} policies")));
        }
        let loader = loader.clone().within(self.config.compile.limits());
        let loader = loader.with_tables(self.find_table());
        let ordered = loader.chain(ordered.to_vec())?;
        Ok(ordered.followed_by(&*self.of_tenant(&loader, &configured, tenant)?))
    }

    fn of_tenant(
        &self,
        loader: &Loader,
        configured: &[Configured],
        tenant: &str,
    ) -> Result<Arc<Chain>, Failure> {
        // If no tenants are configured, all have the host's chain.
        let key = if self.config.has_tenant(tenant) { tenant } else { "" };
        let chains = || self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chains().get(key).cloned();
        if let Some(chain) = known {
            self.tables.mark_used();
            return Ok(chain);
        }
        // The lock is not held here: compiling takes long, and other tenants' decisions go on meanwhile.
        let sources = configured.iter().map(sources::configured).collect::<Result<_, _>>()?;
        let chain = Arc::new(loader.chain(sources)?);
        chains().insert(key.to_owned(), Arc::clone(&chain));
        Ok(chain)
    }

    pub(crate) fn masks(&self) -> Masks {
        let settings = &self.config.decisions;
        Masks { meta: settings.mask_meta.clone(), args: settings.mask_args.clone() }
    }

    pub(crate) fn journal(&self, state: &StateDir) -> Journal {
        let settings = &self.config.decisions;
        Journal {
            folder: state.decisions(),
            max_bytes: settings.max_bytes,
            files: settings.files,
            max_age: settings.max_age(),
        }
    }
}

/// Which configuration is in force.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct InForce {
    /// Which one it is, of those of this process, from 1.
    pub generation: u64,
    /// Since when.
    pub since: Timestamp,
    /// Whether the one before is kept.
    pub can_step_back: bool,
}

/// The configuration in force, and the previous one.
pub(crate) struct Generations {
    pub(crate) now: Arc<Generation>,
    before: Option<Arc<Generation>>,
    number: u64,
    since: Timestamp,
}

impl Generations {
    pub(crate) fn begin(first: Generation) -> Self {
        Self { now: Arc::new(first), before: None, number: 1, since: Timestamp::now() }
    }

    pub(crate) fn take(&mut self, next: Arc<Generation>) {
        self.before = Some(std::mem::replace(&mut self.now, next));
        self.number += 1;
        self.since = Timestamp::now();
    }

    /// The previous configuration, if it is kept.
    pub(crate) fn before(&self) -> Option<Arc<Generation>> {
        self.before.clone()
    }

    pub(crate) fn in_force(&self) -> InForce {
        let can_step_back = self.before.is_some();
        InForce { generation: self.number, since: self.since, can_step_back }
    }
}
