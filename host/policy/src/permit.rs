//! Asks the policies of a chain whether an actor may do an operation on a VM that runs.

use super::{
    Answer, Chain, Deadline, Decision, HostRecord, Mode, OperationRequest, PolicyError,
    contract::{self, ContractBreaches, LentRequest, RequestTexts, Versions},
};

/// The answer of a chain's policies to an operation.
#[derive(Debug)]
pub enum Permission {
    /// No policy is against the operation.
    Granted(Decision),
    /// A policy is against the operation.
    Denied(Decision),
    /// A policy did not answer as it must.
    Failed(Box<PolicyError>, Decision),
}

impl Permission {
    /// The error of the policy that did not answer.
    pub fn error(&self) -> Option<&PolicyError> {
        match self {
            Self::Failed(error, _) => Some(error),
            Self::Granted(_) | Self::Denied(_) => None,
        }
    }

    /// The decision behind the permission.
    pub fn decision(&self) -> &Decision {
        match self {
            Self::Granted(decision) | Self::Denied(decision) | Self::Failed(_, decision) => {
                decision
            }
        }
    }
}

impl Chain {
    /// Asks every policy whether an actor may do an operation. Contract 0.1 has no word for operations: a policy of 0.1 refuses,
    /// by its silence, an operation that needs a field of the launch for which 0.1 has no word either, and no other operation.
    pub fn permit(&self, asked: &OperationRequest, deadline: Deadline) -> Permission {
        let OperationRequest { request, launch, .. } = asked;
        let mut decision = Decision {
            policies: self.records(),
            host: HostRecord { answer: Answer::Allowed, violations: vec![] },
            launch: launch.clone(),
            ..Decision::none(&request.task)
        };
        let Some(_slots) = self.sandbox.slots(self.links.len(), Some(deadline)) else {
            let name = self.links.first().map(|link| link.module.name.clone()).unwrap_or_default();
            let error = PolicyError::Overdue { name, limit: deadline.limit() };
            return Permission::Failed(Box::new(error), decision);
        };
        let versions = Versions::of(self.links.iter().map(|link| link.module.component.version()));
        let texts = RequestTexts::of(request, versions);
        let lent = LentRequest::of(request, &texts);
        let failed = contract::lend(launch, versions, |shown| {
            let of = contract::Operating { vm: shown, asked };
            for (link, record) in self.links.iter().zip(&mut decision.policies) {
                let mut opened = link.open(&self.sandbox, request, deadline);
                let asking = link.asking(&lent);
                let answer = opened.call(|policy, store| policy.permit(store, &asking, &of));
                let (log, cost) = opened.take();
                (record.log, record.log_dropped, record.cost) = (log.lines, log.dropped, cost);
                let mut breaches = ContractBreaches::default();
                let read = answer.and_then(|answer| {
                    answer.map(|given| contract::violations_in(given, &mut breaches)).transpose()
                });
                record.contract_breaches = breaches.0;
                match read {
                    Ok(Some(violations)) => record.decide(violations),
                    // The policy's version has no word for operations.
                    Ok(None) => {
                        let field = asked.of.operation.needs();
                        let unseen = link.refused_unseen(launch, &request.task);
                        let needed = unseen.filter(|one| Some(one.field.as_str()) == field);
                        let violations: Vec<_> = needed.collect();
                        if !violations.is_empty() {
                            record.decide(violations);
                        }
                    }
                    Err(fault) => {
                        record.answer = Answer::Failed;
                        record.fault = Some(format!("in permit: {fault}"));
                        if link.mode == Mode::Enforce {
                            return Some(link.module.failed("permit", fault));
                        }
                    }
                }
            }
            None
        });
        match failed {
            Some(error) => Permission::Failed(Box::new(error), decision),
            None if decision.policies.iter().any(|record| record.refuses()) => {
                Permission::Denied(decision)
            }
            None => Permission::Granted(decision),
        }
    }
}
