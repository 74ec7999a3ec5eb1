//! Operations on a VM that runs: the policies configured now are asked whether an actor may do an operation, and the answer is recorded
//! before the operation is done.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;

use qhost_model::job::DEFAULT_TENANT;
use qhost_policy::{
    Actor, Deadline, Occasion, Operation, OperationRecord, OperationRequest, Permission, Record,
    Request,
};
use qhost_vm::VmRecord;

use crate::{
    earlier_launch::EarlierLaunch,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    facts,
    fingerprint::Fingerprint,
    generation::Generation,
    limits,
    observer::Context,
    vm::Vm,
};

impl Vm {
    /// Whether the VM has been launched: before that, there is no launch that policies could be asked about.
    pub async fn is_launched(&self) -> bool {
        let vm = self.clone();
        let launched = blocking(move || Ok(vm.read().takes.get().is_some()));
        // If the records cannot be read, policies are asked.
        launched.await.unwrap_or(true)
    }

    /// Whether an operation by an actor needs the policies' permission. A tenant stops and restarts its own VMs without permission. An
    /// operator counts as the tenant of VMs that were run for no tenant.
    pub async fn needs_permission(&self, operation: &Operation, actor: &Actor) -> bool {
        let tenant = actor.tenant.as_deref().unwrap_or(DEFAULT_TENANT);
        let is_its_tenant = tenant == self.record().await.tenant;
        !(is_its_tenant && operation.is_free_for_its_tenant())
    }

    /// Adds an event for an actor's request, once the request is permitted and before it is carried out. On a full disk the event is lost,
    /// and the request is carried out all the same.
    pub async fn note_request(&self, request: &'static str, actor: &Actor) {
        let (vm, actor) = (self.clone(), actor.name.clone());
        let noted = blocking(move || {
            let event = vm.read().requested(request, &actor);
            event.append(vm.engine().state().path());
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::warn!(%error, "a request is not among the events");
        }
    }

    /// Asks the policies whether an actor may do an operation with the VM, if the operation needs permission, and records their answer.
    ///
    /// # Errors
    /// Fails where a policy refuses or fails, or the answer cannot be recorded. Then the operation must not be done.
    pub async fn permit(
        &self,
        operation: Operation,
        actor: Actor,
        context: &Context,
    ) -> Result<(), EngineError> {
        if !self.needs_permission(&operation, &actor).await {
            return Ok(());
        }
        let (engine, vm) = (self.engine().clone(), self.record().await);
        let generation = engine.generation();
        let fingerprint = engine.fingerprint(context).await?;
        let asking = Asking { engine, generation, fingerprint, vm };
        Ok(blocking(move || asking.permit(operation, actor)).await?)
    }
}

/// What a question about an operation is made from.
struct Asking {
    engine: Engine,
    generation: Arc<Generation>,
    fingerprint: Arc<Fingerprint>,
    vm: VmRecord,
}

impl Asking {
    fn permit(&self, operation: Operation, actor: Actor) -> Result<(), Failure> {
        if let Operation::Exec(command) = &operation {
            command_is_bounded(command)?;
        }
        let Self { engine, generation, vm, .. } = self;
        let deadline = Deadline::after(qhost_policy::limits::DECISION);
        let loader = engine.shared_loader()?.until(deadline);
        let chain = generation.chain(&loader, &[], &vm.tenant)?;
        let ends = operation == Operation::Stop;
        // A VM that is still starting has no start time yet.
        let since = Some(vm.status.started_at.unwrap_or_else(Timestamp::now));
        let of = OperationRecord { vm: vm.id.clone(), since, operation, actor };
        let asked = self.request(&vm.folder, of)?;
        let permission = chain.permit(&asked, deadline);
        let masks = generation.masks();
        let record = Record::of_operation(asked, &permission, &masks);
        let told = record.decision.clone();
        let recorded = generation.journal(engine.state()).append(&record);
        match recorded {
            // An operation that takes no more of the host is done on a full disk too.
            Err(error) if ends => tracing::warn!(%error, "the operation is not recorded"),
            recorded => {
                recorded?;
            }
        }
        match permission {
            Permission::Granted(_) => Ok(()),
            Permission::Denied(_) => Err(Failure::Denied(Box::new(told))),
            Permission::Failed(error, _) => Err(Failure::Policy(*error)),
        }
    }

    fn request(&self, folder: &Path, of: OperationRecord) -> Result<OperationRequest, Failure> {
        let EarlierLaunch { task, launch } = EarlierLaunch::of(folder)?;
        let config = &self.generation.config;
        let host =
            facts::gather(&self.fingerprint, self.engine.state(), config, &task.tenant, None)?;
        let (rules, time) = (self.generation.config.rules(), Timestamp::now());
        let occasion = Occasion::Operation;
        let request = Request { task, host, rules, time, occasion };
        Ok(OperationRequest { request, launch, of })
    }
}

/// Bounds a command, which goes to policies and into a record as a whole.
pub(crate) fn command_is_bounded(command: &[String]) -> Result<(), Failure> {
    let bytes = command.iter().map(String::len).sum::<usize>();
    if command.len() <= limits::EXEC_ARGUMENTS && bytes <= limits::EXEC_ARGUMENT_BYTES {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "a command of {} words with {bytes} bytes; at most {} with {} together: put what is long into --stdin, or into a file of the guest's",
        command.len(),
        limits::EXEC_ARGUMENTS,
        limits::EXEC_ARGUMENT_BYTES
    )))
}
