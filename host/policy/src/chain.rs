//! Asks the policies of a chain, in order, and then the host's own rules.

use std::sync::Arc;

use qhost_model::{
    job,
    launch::{Change, Findings, Launch, Violation},
};

use super::{
    Answer, Approved, Deadline, Decision, HostRecord, Layer, Mode, PolicyRecord, Request, Verdict,
    conflicts::{self, Conflict},
    contract::{self, ContractBreaches, LentRequest, RequestTexts, Shown, Versions},
    error::{Fault, PolicyError},
    link::Link,
    log::Log,
    module::Module,
    sandbox::{Instance, Sandbox},
    tables::Tables,
};

/// Loaded policies that have accepted their settings, the host's before a tenant's. A clone shares the policies.
#[derive(Clone)]
pub struct Chain {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) links: Vec<Arc<Link>>,
}

impl Chain {
    /// Decides about one place of a task's image: asks every `choose` in order, every `validate` about the launch they chose, then the
    /// host's rules.
    pub(super) fn decide_one(&self, request: Request, deadline: Deadline) -> Verdict {
        let Some(_slots) = self.sandbox.slots(self.links.len(), Some(deadline)) else {
            return self.overdue(&request, deadline);
        };
        let versions = Versions::of(self.links.iter().map(|link| link.module.component.version()));
        let texts = RequestTexts::of(&request, versions);
        let lent = LentRequest::of(&request, &texts);
        let mut round = Evaluation::new(self, &request, &lent, versions, deadline);
        let (launch, ended) = round.ask(Launch::default_for(&request.task.asked));
        let mut decision = Decision {
            conflicts: round.conflicts(),
            policies: round.asked.into_iter().map(|asked| asked.record).collect(),
            host: HostRecord { answer: Answer::NotAsked, violations: vec![] },
            place: None,
            places: vec![],
            launch,
        };
        match ended {
            Err(error) => return Verdict::Failed(Box::new(error), decision),
            Ok(Asking::Refused) => return Verdict::Denied(decision),
            Ok(Asking::Done) => {}
        }
        let Request { task, host, rules, .. } = request;
        let Findings { refused, impossible } = job::check(&task, &decision.launch, &rules, &host);
        let denied = !refused.is_empty() || decision.policies.iter().any(PolicyRecord::refuses);
        let cannot = !impossible.is_empty();
        let violations = [refused, impossible].concat();
        decision.host = HostRecord { answer: Answer::of(&violations), violations };
        match (denied, cannot) {
            (true, _) => Verdict::Denied(decision),
            (false, true) => Verdict::CannotRun(decision),
            (false, false) => Verdict::Approved(Box::new(Approved { task, decision })),
        }
    }

    /// The verdict where other decisions had all sandboxes until the deadline.
    fn overdue(&self, request: &Request, deadline: Deadline) -> Verdict {
        let name = self.links.first().map(|link| link.module.name.clone()).unwrap_or_default();
        let error = PolicyError::Overdue { name, limit: deadline.limit() };
        let decision = Decision { policies: self.records(), ..Decision::none(&request.task) };
        Verdict::Failed(Box::new(error), decision)
    }

    /// How each policy stands before it is asked.
    pub fn records(&self) -> Vec<PolicyRecord> {
        self.links.iter().map(|link| link.record()).collect()
    }

    /// Copies the chain with its tables replaced by those given here of the same names, so that a decision can be made again with the
    /// tables it was made with.
    pub fn with_tables(&self, tables: &Tables) -> Self {
        let link = |link: &Arc<Link>| {
            let now = link
                .tables
                .iter()
                .map(|(name, table)| (name.clone(), Arc::clone(tables.get(name).unwrap_or(table))));
            Arc::new(Link { tables: Arc::new(now.collect()), ..(**link).clone() })
        };
        Self { sandbox: Arc::clone(&self.sandbox), links: self.links.iter().map(link).collect() }
    }

    /// The policies of this chain, and after them the policies of another chain of the same loader.
    pub fn followed_by(mut self, next: &Self) -> Self {
        self.links.extend(next.links.iter().cloned());
        self
    }
}

enum Asking {
    /// Every policy has been asked.
    Done,
    /// A policy refused to choose, so that there is no launch to ask the others about.
    Refused,
}

/// One decision under way.
struct Evaluation<'a> {
    sandbox: &'a Sandbox,
    asking: &'a Request,
    deadline: Deadline,
    request: &'a LentRequest<'a>,
    versions: Versions,
    asked: Vec<PolicyEvaluation<'a>>,
}

/// One policy in a decision under way.
struct PolicyEvaluation<'a> {
    link: &'a Link,
    opened: Instance<'a>,
    record: PolicyRecord,
    /// The launch that the policy's `choose` was shown; absent where the policy's word does not count.
    shown: Option<Launch>,
}

impl<'a> Evaluation<'a> {
    fn new(
        chain: &'a Chain,
        request: &'a Request,
        request_lent: &'a LentRequest<'a>,
        versions: Versions,
        deadline: Deadline,
    ) -> Self {
        let asked = |link: &'a Arc<Link>| PolicyEvaluation {
            link,
            opened: link.open(&chain.sandbox, request, deadline),
            record: link.record(),
            shown: None,
        };
        let asked = chain.links.iter().map(asked).collect();
        Self {
            sandbox: &chain.sandbox,
            asking: request,
            deadline,
            request: request_lent,
            versions,
            asked,
        }
    }

    /// Gives the launch as it stands at the end, and whether every policy was asked.
    fn ask(&mut self, mut launch: Launch) -> (Launch, Result<Asking, PolicyError>) {
        let ended = match self.choose(&mut launch) {
            Ok(Asking::Done) => contract::lend(&launch, self.versions, |lent| {
                match self.check_fixed_point(&launch, lent)? {
                    Asking::Done => self.validate(&launch, lent).map(|()| Asking::Done),
                    Asking::Refused => Ok(Asking::Refused),
                }
            }),
            refused_or_failed => refused_or_failed,
        };
        (launch, ended)
    }

    fn choose(&mut self, launch: &mut Launch) -> Result<Asking, PolicyError> {
        let mut hosts = None;
        for asked in &mut self.asked {
            let chosen = asked.choose(self.request, launch);
            let enforced = asked.link.mode == Mode::Enforce;
            match chosen {
                Err(fault) => asked.fail("choose", fault)?,
                Ok(Err(violations)) => {
                    asked.record.decide(violations);
                    if enforced {
                        return Ok(Asking::Refused);
                    }
                }
                Ok(Ok(better)) => {
                    asked.record.changes = launch.changes_to(&better);
                    if !enforced {
                        continue;
                    }
                    if asked.link.layer == Layer::Tenant {
                        let hosts = hosts.get_or_insert_with(|| launch.clone());
                        asked.ensure_not_wider(hosts, &better)?;
                    }
                    asked.shown = Some(std::mem::replace(launch, better));
                }
            }
        }
        Ok(Asking::Done)
    }

    /// Asks every `choose` once more about the chosen launch. A policy that still changes the launch would give another answer every time
    /// it is asked, or is at odds with a policy after it; either way it is not known what was decided. A policy that refuses the launch
    /// here refuses the task.
    fn check_fixed_point(
        &mut self,
        launch: &Launch,
        chosen: &Shown<'_>,
    ) -> Result<Asking, PolicyError> {
        for index in 0..self.asked.len() {
            let Some(asked) = self.asked.get_mut(index) else { continue };
            let changes = match &asked.shown {
                // The policy was not asked, or is in monitor mode.
                None => continue,
                // The policy was asked this very question.
                Some(shown) if shown == launch => asked.record.changes.clone(),
                Some(_) => {
                    if asked.link.allowance.wasi {
                        // The policy's randomness begins anew in a fresh sandbox, as it began the first time.
                        let fresh = asked.link.open(self.sandbox, self.asking, self.deadline);
                        asked.opened.reset(fresh);
                    }
                    match asked.would_change(self.request, launch, chosen)? {
                        Ok(changes) => changes,
                        Err(violations) => {
                            asked.record.decide(violations);
                            return Ok(Asking::Refused);
                        }
                    }
                }
            };
            if !changes.is_empty() {
                return Err(self.unsettled(index, changes));
            }
        }
        Ok(Asking::Done)
    }

    fn unsettled(&mut self, index: usize, changes: Vec<Change>) -> PolicyError {
        let wrote = |record: &PolicyRecord| {
            record.mode == Mode::Enforce
                && record
                    .changes
                    .iter()
                    .any(|one| changes.iter().any(|change| change.field == one.field))
        };
        let others = self.asked.iter().enumerate().filter(|(other, _)| *other != index);
        let others = others.map(|(_, asked)| &asked.record).filter(|record| wrote(record));
        let others = others.map(|record| record.name.clone()).collect();
        match self.asked.get_mut(index) {
            Some(PolicyEvaluation { record, .. }) => {
                record.answer = Answer::Failed;
                PolicyError::Unsettled {
                    name: record.name.clone(),
                    sha256: record.sha256,
                    changes,
                    others,
                }
            }
            None => PolicyError::Sandbox { reason: "a policy got lost".into() },
        }
    }

    fn validate(&mut self, launch: &Launch, shown: &Shown<'_>) -> Result<(), PolicyError> {
        for asked in &mut self.asked {
            // In monitor mode, a policy that failed or refused to choose has its answer already.
            if asked.record.answer != Answer::NotAsked {
                continue;
            }
            match asked.validate(self.request, shown) {
                Ok(mut violations) => {
                    violations.extend(asked.link.refused_unseen(launch, &self.asking.task));
                    asked.record.decide(violations);
                }
                Err(fault) => asked.fail("validate", fault)?,
            }
        }
        Ok(())
    }

    fn conflicts(&self) -> Vec<Conflict> {
        let records = self.asked.iter().map(|asked| &asked.record);
        conflicts::conflicts(records.filter(|record| record.mode == Mode::Enforce))
    }
}

impl<'a> PolicyEvaluation<'a> {
    fn choose(
        &mut self,
        request: &LentRequest<'a>,
        so_far: &Launch,
    ) -> Result<Result<Launch, Vec<Violation>>, Fault> {
        let (opened, link, mut contract_breaches) =
            (&mut self.opened, self.link, ContractBreaches::default());
        let version = Versions::of(std::iter::once(link.module.component.version()));
        let answer = contract::lend(so_far, version, |shown| {
            choose(opened, link, request, (so_far, shown), &mut contract_breaches)
        });
        self.keep(contract_breaches);
        answer
    }

    /// Gives what the policy's `choose` would change of the chosen launch. The log and breaches of this call are not kept: the first call
    /// had them all.
    fn would_change(
        &mut self,
        request: &LentRequest<'a>,
        launch: &Launch,
        chosen: &Shown<'_>,
    ) -> Result<Result<Vec<Change>, Vec<Violation>>, PolicyError> {
        let mut again = ContractBreaches::default();
        let again = choose(&mut self.opened, self.link, request, (launch, chosen), &mut again);
        self.opened.take();
        match again {
            Ok(answer) => Ok(answer.map(|again| launch.changes_to(&again))),
            Err(fault) => self.fail("choose", fault).map(|()| Ok(vec![])),
        }
    }

    fn validate(
        &mut self,
        request: &LentRequest<'a>,
        launch: &Shown<'_>,
    ) -> Result<Vec<Violation>, Fault> {
        let asking = self.link.asking(request);
        let answer = self.opened.call(|policy, store| policy.validate(store, &asking, launch));
        let mut contract_breaches = ContractBreaches::default();
        let violations =
            answer.and_then(|answer| contract::violations_in(answer, &mut contract_breaches));
        self.keep(contract_breaches);
        violations
    }

    /// Refuses a tenant's policy whose launch is wider than the launch that the host's policies chose.
    fn ensure_not_wider(&mut self, hosts: &Launch, better: &Launch) -> Result<(), PolicyError> {
        let Some(change) = hosts.widened_by(better) else { return Ok(()) };
        self.record.answer = Answer::Failed;
        let Module { name, sha256, .. } = &*self.link.module;
        Err(PolicyError::Widened { name: name.clone(), sha256: *sha256, change: change.into() })
    }

    /// Ends the decision, unless the policy is in monitor mode and there is time for others.
    fn fail(&mut self, call: &'static str, fault: Fault) -> Result<(), PolicyError> {
        self.record.answer = Answer::Failed;
        self.record.fault = Some(format!("in {call}: {fault}"));
        let goes_on = self.link.mode == Mode::Monitor && !matches!(fault, Fault::Overdue { .. });
        if goes_on { Ok(()) } else { Err(self.link.module.failed(call, fault)) }
    }

    fn keep(&mut self, ContractBreaches(contract_breaches): ContractBreaches) {
        self.record.contract_breaches.extend(contract_breaches);
        let (Log { lines, dropped, .. }, cost) = self.opened.take();
        self.record.log.extend(lines);
        self.record.log_dropped += dropped;
        self.record.cost = cost;
    }
}

fn choose<'a>(
    opened: &mut Instance<'_>,
    link: &'a Link,
    request: &LentRequest<'a>,
    (so_far, shown): (&Launch, &Shown<'_>),
    contract_breaches: &mut ContractBreaches,
) -> Result<Result<Launch, Vec<Violation>>, Fault> {
    let asking = link.asking(request);
    let answer = opened.call(|policy, store| policy.choose(store, &asking, shown));
    match answer? {
        Ok(launch) => launch.read(so_far, contract_breaches).map(Ok),
        Err(violations) if violations.is_empty() => {
            Err(Fault::Nonsense("a refusal without a violation".into()))
        }
        Err(violations) => contract::violations_in(violations, contract_breaches).map(Err),
    }
}

impl PolicyRecord {
    pub(super) fn decide(&mut self, violations: Vec<Violation>) {
        self.answer = Answer::of(&violations);
        self.violations = violations;
    }
}
