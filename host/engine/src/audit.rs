//! An audit: asks the policies configured now about the VMs that run. An audit changes nothing: no VM is stopped, and nothing is recorded.

use std::sync::Arc;

use serde::Serialize;

use qhost_model::launch::Change;
use qhost_policy::{Decision, Occasion};
use qhost_vm::{Spec, VmRecord, list};

use crate::{
    decide::Deciding,
    decision_record::Keep,
    earlier_launch::EarlierLaunch,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    generation::Generation,
    observer::Context,
    refusal::Understood,
};

/// A VM that runs, with the outcome of its audit.
#[derive(Debug, Serialize)]
pub struct Audited {
    /// The VM's id.
    pub vm: String,
    /// The VM's tenant.
    pub tenant: String,
    /// The name of the VM's task.
    pub task: String,
    /// The outcome of the audit.
    #[serde(flatten)]
    pub outcome: AuditOutcome,
}

/// What would become of a VM's launch now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum AuditOutcome {
    /// The VM would be launched as it was.
    Allowed,
    /// The VM would be refused.
    Refused {
        /// The decision, which says by what and why.
        decision: Box<Decision>,
    },
    /// The VM would be launched differently.
    Changed {
        /// The fields that would differ.
        changes: Vec<Change>,
    },
    /// The policies gave no answer.
    Unknown {
        /// The reason: a policy failed, or a masked part of the job is missing.
        reason: String,
    },
}

impl Engine {
    /// Asks the policies configured now about each VM that runs, of one tenant or of all. The facts of the host leave that VM out.
    ///
    /// # Errors
    /// Fails where the facts of this host cannot be gathered, or the audit is cancelled.
    pub async fn audit(
        &self,
        tenant: Option<&str>,
        context: &Context,
    ) -> Result<Vec<Audited>, EngineError> {
        self.recover().await;
        let (generation, state) = (self.generation(), self.state().clone());
        let mut vms = blocking(move || Ok(list::running(&state))).await?;
        // A VM without a plan is left out, since its image is still being fetched, or it is being decided.
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
            let earlier = blocking(move || Ok(EarlierLaunch::of(&folder)?)).await?;
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

/// The reason why a VM does not count as allowed.
enum Against {
    /// A part of the VM's task was masked as a secret, and policies may need it.
    Masked(String),
    /// The failure that the decision ended with, with the task's secrets.
    Failure(Failure, Box<Understood>),
}

/// The audit's outcome of a decision; an error if the decision was cancelled.
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
