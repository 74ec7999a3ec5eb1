//! The policies that past decisions are made again with.

use std::collections::BTreeMap;

use qhost_engine::{Engine, config::Config};
use qhost_policy::{Chain, Loader, Source};

use super::super::{RunError, sources};
use crate::cli::ReplayArgs;

/// The policies to ask about each tenant's tasks, loaded once.
pub(super) struct Chains<'a> {
    config: Config,
    args: &'a ReplayArgs,
    loader: Loader,
    by_tenant: BTreeMap<String, Chain>,
}

impl<'a> Chains<'a> {
    pub(super) fn new(engine: &Engine, args: &'a ReplayArgs, loader: Loader) -> Self {
        Self { config: engine.config(), args, loader, by_tenant: BTreeMap::new() }
    }

    pub(super) fn of(&mut self, tenant: &str) -> Result<&Chain, RunError> {
        if !self.by_tenant.contains_key(tenant) {
            let chain = self.loader.chain(self.sources(tenant)?)?;
            self.by_tenant.insert(tenant.into(), chain);
        }
        let lost = || RunError::Usage(format!("no policies for tenant {tenant}"));
        self.by_tenant.get(tenant).ok_or_else(lost)
    }

    /// The configuration's chain; policies of the command line replace those of their names, or come first.
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
                // A draft of a policy is not signed yet.
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
