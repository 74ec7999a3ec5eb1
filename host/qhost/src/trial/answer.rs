//! Asking a chain about a case: about its launch, or about its operation on a VM that runs.

use qhost_model::launch::Launch;
use qhost_policy::{
    Chain, Deadline, Decision, OperationRequest, Outcome, Permission, PolicyError, Verdict,
};

use super::Case;

/// A chain's answer to a case.
pub(super) struct CaseAnswer {
    /// The decision.
    pub(super) decision: Decision,
    /// The decision's outcome.
    pub(super) outcome: Outcome,
    /// The reason why there was no answer.
    pub(super) error: Option<Box<PolicyError>>,
}

/// Asks a chain about a case.
pub(super) fn ask(chain: &Chain, case: &Case) -> CaseAnswer {
    let request = case.request.clone();
    let Some(of) = case.operation.clone() else {
        let verdict = chain.decide(request);
        let outcome = verdict.outcome();
        let (decision, error) = match verdict {
            Verdict::Failed(error, decision) => (decision, Some(error)),
            verdict @ (Verdict::Approved(_) | Verdict::Denied(_) | Verdict::CannotRun(_)) => {
                (verdict.decision().clone(), None)
            }
        };
        return CaseAnswer { decision, outcome, error };
    };
    let launch = Launch::default_for(&request.task.asked);
    let asked = OperationRequest { request, launch, of };
    let permission = chain.permit(&asked, Deadline::after(qhost_policy::limits::DECISION));
    let outcome = permission.outcome();
    let (decision, error) = match permission {
        Permission::Granted(decision) | Permission::Denied(decision) => (decision, None),
        Permission::Failed(error, decision) => (decision, Some(error)),
    };
    CaseAnswer { decision, outcome, error }
}
