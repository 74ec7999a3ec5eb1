//! What the policies configured now say of the VMs that run. It changes nothing: no VM is stopped, and nothing is recorded.

use std::sync::Arc;

use serde::Serialize;

use qhost_model::launch::Change;
use qhost_policy::{Decision, Occasion};
use qhost_vm::{Spec, VmRecord, list};

use crate::{
    decide::Deciding,
    decision_record::Keep,
    earlier::Earlier,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    generation::Generation,
    observer::Context,
    refusal::Understood,
};

/// A VM that runs, and what is said of it now.
#[derive(Debug, Serialize)]
pub struct Audited {
    /// Its id.
    pub vm: String,
    /// Whose it is.
    pub tenant: String,
    /// Its task's name.
    pub task: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: AuditOutcome,
}

/// What would become of a VM's launch now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum AuditOutcome {
    /// It would be launched as it was.
    Allowed,
    /// It would be refused.
    Refused {
        /// By whom and why.
        decision: Box<Decision>,
    },
    /// It would be launched, differently.
    Changed {
        /// The fields that would differ.
        changes: Vec<Change>,
    },
    /// There is no answer.
    Unknown {
        /// A policy failed, or a masked part of the job is missing.
        reason: String,
    },
}

impl Engine {
    /// Asks the policies configured now about each VM that runs, of one tenant or of all, the host being as if that VM were not there.
    ///
    /// # Errors
    /// Where this host cannot be looked at, or the audit is cancelled.
    pub async fn audit(
        &self,
        tenant: Option<&str>,
        context: &Context,
    ) -> Result<Vec<Audited>, EngineError> {
        self.recover().await;
        let (generation, state) = (self.generation(), self.state().clone());
        let mut vms = blocking(move || Ok(list::running(&state))).await?;
        // A VM without a plan is just being decided, or its image fetched.
        vms.retain(|vm| Spec::read(&vm.folder).is_ok());
        vms.retain(|vm| tenant.is_none_or(|only| only == vm.tenant));
        vms.sort_by(|a, b| (&a.tenant, &a.task, &a.id).cmp(&(&b.tenant, &b.task, &b.id)));
        let mut audited = vec![];
        for vm in vms {
            let outcome = Box::pin(self.audit_one(&vm, &generation, context)).await;
            let outcome = outcome_of(outcome)?;
            let VmRecord { id, tenant, task, folder, .. } = vm;
            let is_over = blocking(move || Ok(VmRecord::at(&folder).is_over())).await?;
            if is_over {
                continue;
            }
            audited.push(Audited { vm: id, tenant, task, outcome });
        }
        Ok(audited)
    }

    async fn audit_one(
        &self,
        vm: &VmRecord,
        generation: &Arc<Generation>,
        context: &Context,
    ) -> Result<(), Against> {
        let mut understood = Understood::default();
        let decided = async {
            let folder = vm.folder.clone();
            let earlier = blocking(move || Ok(Earlier::of(&folder)?)).await?;
            let asked = generation.config.chain(&earlier.task.tenant)?;
            if let Some(place) = earlier.missing(&asked) {
                return Ok(Some(place));
            }
            let deciding = Deciding {
                engine: self.clone(),
                generation: Arc::clone(generation),
                fingerprint: self.fingerprint(context).await?,
                order: Arc::new(earlier.order()),
                keep: Keep::Nothing,
                occasion: Occasion::Audit,
                audited: Some(vm.id.clone()),
                context: context.clone(),
            };
            earlier.decided_again(&deciding, &mut understood).await.map(|_| None)
        };
        match decided.await {
            Ok(None) => Ok(()),
            Ok(Some(place)) => Err(Against::Masked(place)),
            Err(failure) => Err(Against::Failure(failure, Box::new(understood))),
        }
    }
}

/// Why a VM is not said to be allowed.
enum Against {
    /// A part of its task was masked as a secret, and policies may need it.
    Masked(String),
    /// What its decision ended with, and what of it is secret.
    Failure(Failure, Box<Understood>),
}

/// What a decision comes to; an error where it was cancelled.
fn outcome_of(decided: Result<(), Against>) -> Result<AuditOutcome, EngineError> {
    let (failure, understood) = match decided {
        Ok(()) => return Ok(AuditOutcome::Allowed),
        Err(Against::Masked(place)) => {
            let reason =
                format!("{place} of the job was masked as a secret, and a policy may need it");
            return Ok(AuditOutcome::Unknown { reason });
        }
        Err(Against::Failure(failure, understood)) => (failure, understood),
    };
    if matches!(failure, Failure::Cancelled) {
        return Err(failure.into());
    }
    if let Failure::Denied(decision) | Failure::CannotRun(decision) = &failure {
        let decision = qhost_policy::masked(&understood.secrets, *decision.clone());
        return Ok(AuditOutcome::Refused { decision: Box::new(decision) });
    }
    if let Failure::LaunchDiffers { changes } = failure {
        return Ok(AuditOutcome::Changed { changes });
    }
    Ok(AuditOutcome::Unknown { reason: understood.secrets.without(&failure.in_a_line()) })
}
