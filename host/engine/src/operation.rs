//! Operations on a VM that runs: the policies configured now are asked whether an actor may do one, and the answer is recorded before it is
//! done.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;

use qhost_model::job::DEFAULT_TENANT;
use qhost_policy::{
    Actor, Deadline, Occasion, Operation, OperationRecord, OperationRequest, Permission, Record,
    Request,
};
use qhost_vm::VmRecord;

use crate::{
    earlier::Earlier,
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
    /// Whether it has been launched: until then there is no launch that policies could be asked about.
    pub fn is_launched(&self) -> bool {
        self.record().takes.get().is_some()
    }

    /// Whether policies are to permit an operation to an actor: a tenant stops and restarts what is its own without. An operator is the
    /// tenant of what was run for none.
    pub fn needs_permission(&self, operation: &Operation, actor: &Actor) -> bool {
        let is_its_tenant =
            actor.tenant.as_deref().unwrap_or(DEFAULT_TENANT) == self.record().tenant;
        !(is_its_tenant && operation.is_free_for_its_tenant())
    }

    /// Adds to the events what an actor has requested. Called once that is permitted, before it is done. A full disk keeps nothing from being done.
    pub async fn note_request(&self, request: &'static str, actor: &Actor) {
        let (vm, actor) = (self.clone(), actor.name.clone());
        let noted = blocking(move || {
            let event = vm.record().requested(request, &actor);
            event.append(vm.engine().state().path());
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::warn!(%error, "a request is not among the events");
        }
    }

    /// Asks the policies whether an actor may do an operation with it, where that needs permission, and records what they say.
    ///
    /// # Errors
    /// Where a policy is against it or fails, or the answer cannot be recorded: the operation is not to be done.
    pub async fn permit(
        &self,
        operation: Operation,
        actor: Actor,
        context: &Context,
    ) -> Result<(), EngineError> {
        if !self.needs_permission(&operation, &actor) {
            return Ok(());
        }
        let (engine, vm) = (self.engine().clone(), self.record());
        let generation = engine.generation();
        let fingerprint = engine.fingerprint(context).await?;
        let asking = Asking { engine, generation, fingerprint, vm };
        Ok(blocking(move || asking.permit(operation, actor)).await?)
    }
}

/// What is asked about, and from what.
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
            // What takes nothing more of the host is done on a full disk too.
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
        let Earlier { task, launch } = Earlier::of(folder)?;
        let config = &self.generation.config;
        let host =
            facts::gather(&self.fingerprint, self.engine.state(), config, &task.tenant, None)?;
        let (rules, time) = (self.generation.config.rules(), Timestamp::now());
        let occasion = Occasion::Operation;
        let request = Request { task, host, rules, time, occasion };
        Ok(OperationRequest { request, launch, of })
    }
}

/// A command goes to policies and into a record as a whole.
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
