//! Asks the policies of a chain, in order, and then the host's own rules.

use std::path::PathBuf;

use super::{
    Answer, Approved, Decision, HostFacts, HostRecord, Launch, PolicyRecord, Rules, Verdict,
    Violation,
    bindings::{Policy, qhost::policy::types::About},
    changes, convert,
    error::{Fault, PolicyError},
    module::Module,
    rules::{self, Findings},
    sandbox::{Guest, Log, Sandbox},
};
use crate::job::Task;

/// Where a policy comes from, and its settings.
#[derive(Debug)]
pub struct Source {
    /// The name it goes by.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Its settings, a JSON object; `{}` when none were given.
    pub settings: String,
}

/// Loaded policies whose settings they have accepted.
pub struct Chain {
    sandbox: Sandbox,
    links: Vec<Link>,
}

struct Link {
    module: Module,
    settings: String,
    version: String,
}

impl Module {
    /// Makes one call and says whose it was if it fails.
    fn call<R>(
        &self,
        sandbox: &Sandbox,
        call: &'static str,
        run: impl FnOnce(&Policy, &mut wasmtime::Store<Guest>) -> wasmtime::Result<R>,
    ) -> (Result<R, PolicyError>, Log) {
        let (result, log) = sandbox.call(&self.pre, run);
        (result.map_err(|fault| self.failed(call, fault)), log)
    }

    fn failed(&self, call: &'static str, fault: Fault) -> PolicyError {
        PolicyError::Failed { name: self.name.clone(), sha256: self.sha256, call, fault }
    }

    pub(super) fn describe(&self, sandbox: &Sandbox) -> Result<About, PolicyError> {
        let describe =
            |policy: &Policy, store: &mut _| policy.qhost_policy_decide().call_describe(store);
        self.call(sandbox, "describe", describe).0
    }
}

impl Chain {
    /// Loads every policy and has it check its settings.
    pub fn load(sources: Vec<Source>) -> Result<Self, PolicyError> {
        let sandbox = Sandbox::new()
            .map_err(|error| PolicyError::Sandbox { reason: format!("{error:#}") })?;
        let mut links = vec![];
        for Source { name, path, settings } in sources {
            let module = Module::load(&sandbox, &name, &path)?;
            let version = convert::name(&module.describe(&sandbox)?.version);
            let check = |policy: &Policy, store: &mut _| {
                policy.qhost_policy_decide().call_check_settings(store, &settings)
            };
            if let Err(message) = module.call(&sandbox, "check-settings", check).0? {
                let message = convert::text(&message);
                return Err(PolicyError::Settings { name, sha256: module.sha256, message });
            }
            links.push(Link { module, settings, version });
        }
        Ok(Self { sandbox, links })
    }

    /// Decides one task. Every `choose` in order, every `validate` on the launch they chose, then the host's rules.
    pub fn decide(
        &self,
        task: Task,
        host: &HostFacts,
        rules: &Rules,
    ) -> Result<Verdict, PolicyError> {
        let mut records: Vec<_> = self.links.iter().map(Link::record).collect();
        let ask = Ask { chain: self, task: &task, host, rules };
        let launch = match ask.choose(Launch::default_for(&task), &mut records)? {
            Ok(launch) => launch,
            Err(launch) => {
                let host = HostRecord { answer: Answer::NotAsked, violations: vec![] };
                return Ok(Verdict::Denied(Decision { policies: records, host, launch }));
            }
        };
        ask.settles(&launch)?;
        ask.validate(&launch, &mut records)?;
        let Findings { refused, impossible } = rules::check(&task, &launch, host, rules);
        let denied =
            !refused.is_empty() || records.iter().any(|record| record.answer == Answer::Refused);
        let cannot = !impossible.is_empty();
        let violations = [refused, impossible].concat();
        let host = HostRecord { answer: Answer::of(&violations), violations };
        let decision = Decision { policies: records, host, launch };
        Ok(match (denied, cannot) {
            (true, _) => Verdict::Denied(decision),
            (false, true) => Verdict::CannotRun(decision),
            (false, false) => Verdict::Approved(Box::new(Approved { task, decision })),
        })
    }
}

/// One decision under way.
struct Ask<'a> {
    chain: &'a Chain,
    task: &'a Task,
    host: &'a HostFacts,
    rules: &'a Rules,
}

impl Ask<'_> {
    /// The launch that all chose, or the launch as it stood when one refused to choose.
    fn choose(
        &self,
        mut launch: Launch,
        records: &mut [PolicyRecord],
    ) -> Result<Result<Launch, Launch>, PolicyError> {
        for (link, record) in self.chain.links.iter().zip(records) {
            match self.choose_one(link, &launch, Some(&mut *record))? {
                Ok(better) => {
                    record.changes = changes::between(&launch, &better);
                    launch = better;
                }
                Err(violations) => {
                    record.decide(violations);
                    return Ok(Err(launch));
                }
            }
        }
        Ok(Ok(launch))
    }

    fn choose_one(
        &self,
        link: &Link,
        launch: &Launch,
        record: Option<&mut PolicyRecord>,
    ) -> Result<Result<Launch, Vec<Violation>>, PolicyError> {
        let request = convert::request(self.task, self.host, self.rules, &link.settings);
        let so_far = convert::launch_out(launch);
        let choose = |policy: &Policy, store: &mut _| {
            policy.qhost_policy_decide().call_choose(store, &request, &so_far)
        };
        let (answer, log) = link.module.call(&self.chain.sandbox, "choose", choose);
        if let Some(record) = record {
            record.keep(log);
        }
        let nonsense = |fault| link.module.failed("choose", fault);
        match answer? {
            Ok(launch) => convert::launch_in(launch).map(Ok).map_err(nonsense),
            Err(violations) if violations.is_empty() => {
                Err(nonsense(Fault::Nonsense("a refusal without a violation".into())))
            }
            Err(violations) => convert::violations_in(violations).map(Err).map_err(nonsense),
        }
    }

    /// Asks every `choose` once more about the chosen launch. A policy that still changes it would give another answer
    /// every time it is asked, or is at odds with one after it; either way nobody knows what was decided.
    fn settles(&self, launch: &Launch) -> Result<(), PolicyError> {
        for link in &self.chain.links {
            let again = self.choose_one(link, launch, None)?;
            let changes = match again {
                Ok(again) => changes::between(launch, &again),
                // Its `validate` has the last word on the chosen launch, and says why.
                Err(_) => continue,
            };
            if !changes.is_empty() {
                let Module { name, sha256, .. } = &link.module;
                return Err(PolicyError::Unsettled {
                    name: name.clone(),
                    sha256: *sha256,
                    changes,
                });
            }
        }
        Ok(())
    }

    fn validate(&self, launch: &Launch, records: &mut [PolicyRecord]) -> Result<(), PolicyError> {
        let launch = convert::launch_out(launch);
        for (link, record) in self.chain.links.iter().zip(records) {
            let request = convert::request(self.task, self.host, self.rules, &link.settings);
            let validate = |policy: &Policy, store: &mut _| {
                policy.qhost_policy_decide().call_validate(store, &request, &launch)
            };
            let (answer, log) = link.module.call(&self.chain.sandbox, "validate", validate);
            record.keep(log);
            let violations = convert::violations_in(answer?)
                .map_err(|fault| link.module.failed("validate", fault))?;
            record.decide(violations);
        }
        Ok(())
    }
}

impl Link {
    fn record(&self) -> PolicyRecord {
        PolicyRecord {
            name: self.module.name.clone(),
            version: self.version.clone(),
            sha256: self.module.sha256,
            answer: Answer::NotAsked,
            changes: vec![],
            violations: vec![],
            log: vec![],
            log_dropped: 0,
        }
    }
}

impl PolicyRecord {
    fn decide(&mut self, violations: Vec<Violation>) {
        self.answer = Answer::of(&violations);
        self.violations = violations;
    }

    fn keep(&mut self, log: Log) {
        self.log.extend(log.lines);
        self.log_dropped += log.dropped;
    }
}
