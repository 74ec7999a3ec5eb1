//! One policy of a chain: its code, its settings and what its word counts for.

use std::sync::Arc;

use jiff::Timestamp;

use qhost_model::{
    digest::Sha256,
    job::Task,
    launch::{Launch, Violation},
};

use super::{
    Allowance, Answer, Deadline, Layer, Mode, PolicyRecord, Request,
    contract::{self, LentRequest, Version},
    module::Module,
    sandbox::{Instance, Sandbox},
    tables::Tables,
    wasi::DecisionTime,
};

/// One policy with its settings and what its word counts for.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) module: Arc<Module>,
    pub(super) settings: String,
    pub(super) settings_sha256: Sha256,
    /// The operator's tables that the policy looks things up in.
    pub(super) tables: Arc<Tables>,
    pub(super) layer: Layer,
    pub(super) mode: Mode,
    pub(super) allowance: Allowance,
    /// Fields of a launch that the policy need not see.
    pub(super) unseen: Vec<String>,
}

impl Request {
    fn moment(&self) -> DecisionTime {
        let since = self.time.duration_since(Timestamp::UNIX_EPOCH);
        let time = std::time::Duration::try_from(since).unwrap_or_default();
        DecisionTime { time, seed: self.digest().to_bytes() }
    }
}

impl Link {
    /// Opens a fresh sandbox for one decision.
    pub(super) fn open(
        &self,
        sandbox: &Sandbox,
        request: &Request,
        deadline: Deadline,
    ) -> Instance<'_> {
        let Self { module, tables, allowance, .. } = self;
        sandbox.open(&module.component, tables, allowance, Some(deadline), || request.moment())
    }

    /// Joins a request with this policy's settings.
    pub(super) fn asking<'a>(&'a self, request: &'a LentRequest<'a>) -> contract::Asking<'a> {
        contract::Asking { request, settings: &self.settings, seed_text: self.allowance.seed_text }
    }

    /// Gives what this policy refuses by its silence: a violation for each field of a launch that the policy's version of the
    /// contract has no word for.
    pub(super) fn refused_unseen(
        &self,
        launch: &Launch,
        task: &Task,
    ) -> impl Iterator<Item = Violation> {
        let version = self.module.component.version();
        let mut fields = version.unseen(launch, task);
        fields.retain(|field| !self.unseen.iter().any(|allowed| allowed == field));
        fields.into_iter().map(move |field| Violation {
            code: "unseen".into(),
            field: field.into(),
            message: format!(
                "the policy is of contract {}, which has no word for {field}, so that it cannot have allowed it",
                version.number()
            ),
            hint: Some(format!(
                "have the policy built for contract {}; or have the operator list {field:?} in the policy's unseen",
                Version::NEWEST.number()
            )),
        })
    }

    pub(super) fn record(&self) -> PolicyRecord {
        PolicyRecord {
            name: self.module.name.clone(),
            layer: self.layer,
            mode: self.mode,
            version: self.module.facts.about.version.clone(),
            sha256: self.module.sha256,
            settings_sha256: self.settings_sha256,
            tables: self
                .tables
                .iter()
                .map(|(name, table)| (name.clone(), table.sha256()))
                .collect(),
            answer: Answer::NotAsked,
            changes: vec![],
            violations: vec![],
            fault: None,
            contract_breaches: vec![],
            log: vec![],
            log_dropped: 0,
            cost: super::Cost::default(),
        }
    }
}
