//! The policies that past decisions are made again with, and the tables as they were then.

use std::{collections::BTreeMap, sync::Arc};

use qhost_engine::{Engine, config::Config};
use qhost_model::digest::Sha256;
use qhost_policy::{Chain, Loader, Record, Source, Table, Tables};

use super::super::{RunError, sources};
use crate::cli::ReplayArgs;

/// The policies to ask about each tenant's tasks, loaded once.
pub(super) struct Chains<'a> {
    config: Config,
    args: &'a ReplayArgs,
    loader: Loader,
    by_tenant: BTreeMap<String, Chain>,
    engine: Engine,
    /// Tables as they were, by their digests.
    tables: BTreeMap<Sha256, Arc<Table>>,
}

impl<'a> Chains<'a> {
    pub(super) fn new(engine: Engine, args: &'a ReplayArgs, loader: Loader) -> Self {
        let (by_tenant, tables) = (BTreeMap::new(), BTreeMap::new());
        Self { config: engine.config(), args, loader, by_tenant, engine, tables }
    }

    /// The tables that a decision was made with.
    pub(super) fn tables_of(&mut self, record: &Record) -> Result<Tables, String> {
        let mut found = Tables::new();
        for (name, sha256) in record.decision.policies.iter().flat_map(|policy| &policy.tables) {
            let table = match self.tables.get(sha256) {
                Some(table) => Arc::clone(table),
                None => {
                    let kept = self.engine.kept_table(*sha256).map_err(|reason| {
                        format!("its table {name} is not kept any more: {reason}")
                    });
                    let table = Arc::new(kept?);
                    self.tables.insert(*sha256, Arc::clone(&table));
                    table
                }
            };
            found.insert(name.clone(), table);
        }
        Ok(found)
    }

    pub(super) fn of(&mut self, tenant: &str) -> Result<&Chain, RunError> {
        if !self.by_tenant.contains_key(tenant) {
            let chain = self.loader.chain(self.sources(tenant)?)?;
            self.by_tenant.insert(tenant.into(), chain);
        }
        let lost = || RunError::Usage(format!("no policies for tenant {tenant}"));
        self.by_tenant.get(tenant).ok_or_else(lost)
    }

    /// The configuration's chain, with what the command line puts in its place or before it.
    fn sources(&self, tenant: &str) -> Result<Vec<Source>, RunError> {
        let usage = |error: qhost_engine::config::UnknownTenant| RunError::Usage(error.to_string());
        let configured = self.config.chain(tenant).map_err(usage)?;
        let mut chain = configured
            .iter()
            .map(qhost_engine::sources::of_configuration)
            .collect::<Result<Vec<_>, _>>()?;
        let mut front = vec![];
        for file in &self.args.policies {
            qhost_engine::sources::relied_upon(&file.name, &file.path)?;
            match chain.iter_mut().find(|source| source.name == file.name) {
                // A draft is not signed yet.
                Some(source) => {
                    (source.path, source.pin, source.signers) = (file.path.clone(), None, None);
                }
                None => front.push(file.clone()),
            }
        }
        let (inside, outside): (Vec<_>, Vec<_>) = self
            .args
            .settings
            .iter()
            .cloned()
            .partition(|given| chain.iter().any(|source| source.name == given.name));
        for given in inside {
            let source = chain.iter_mut().find(|source| source.name == given.name);
            if let Some(source) = source {
                source.settings = sources::given_settings(&given.name, &given.value)?;
            }
        }
        Ok([sources::named(&front, &outside)?, chain].concat())
    }
}
