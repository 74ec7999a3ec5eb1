//! Starting a VM again: in its supervisor while it goes on, and with another once it has ended. Then it is decided again, about just the
//! launch that it had; its cage is settled, and all that it uses is held, anew.

use std::{path::Path, sync::Arc, time::Duration};

use qhost_image::Fetcher;
use qhost_model::{job::Task, launch::Launch, masks::is_masked};
use qhost_policy::Decision;
use qhost_vm::{Spec, VmDir, VmError, VmRecord, records::read_whole};

use crate::{
    admission,
    decide::Deciding,
    decision_record::Keep,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    generation::Generation,
    observer::{Context, Observation},
    order::{JobFile, Order},
    overlays::KeptOverlay,
    ports::{self, Reserved},
    refusal::Understood,
    run::{DECISION, TASK, VmLocks, hand_over},
    vm::{Until, Vm},
};

impl Vm {
    /// Has its supervisor stop QEMU and start it again; a VM that has ended gets another supervisor. Waits until the guest runs, or the VM
    /// has ended.
    ///
    /// # Errors
    /// Where it cannot be started again.
    pub async fn restart(
        &self,
        grace: Option<Duration>,
        context: &Context,
    ) -> Result<VmRecord, EngineError> {
        if self.record().status.state().is_final() {
            self.start_again("restart requested", context).await
        } else {
            self.restart_running(grace, context).await
        }
    }

    /// Starts a VM that has ended once more, if what is configured now lets it run as it did, and waits until the guest runs, or the VM has
    /// ended again.
    ///
    /// # Errors
    /// Where the VM has not ended, is refused now, or what it needs cannot be had.
    pub async fn start_again(&self, why: &str, context: &Context) -> Result<VmRecord, EngineError> {
        let (engine, mut understood) = (self.engine(), Understood::default());
        let generation = engine.generation();
        let again = Again { engine, generation, vm: self.record(), context };
        if let Err(failure) = Box::pin(again.stages(why, &mut understood)).await {
            understood.refused(engine, &again.generation, &failure).await;
            return Err(failure.without(&understood.secrets));
        }
        self.wait(Until::Running, context).await
    }
}

/// A VM that is to be started again.
struct Again<'a> {
    engine: &'a Engine,
    generation: Arc<Generation>,
    vm: VmRecord,
    context: &'a Context,
}

impl Again<'_> {
    async fn stages(&self, why: &str, understood: &mut Understood) -> Result<(), Failure> {
        let Self { engine, generation, vm, context } = self;
        self.has_ended()?;
        let decision = self.decide(understood).await?;
        let reserved = {
            let (engine, generation, folder) =
                ((*engine).clone(), Arc::clone(generation), vm.folder.clone());
            blocking(move || Ended::reserve(&engine, &generation, &folder)).await?
        };
        let Ended { task, mut spec, mut dir, ports, mut overlay } = reserved;
        let terms = generation.config.terms(&task.tenant);
        let settings = &generation.config.image;
        let fetcher = Fetcher::of_tenant(settings, &task.tenant, &terms, context.progress());
        let store = engine.images();
        let image = tokio::select! {
            image = Box::pin(store.ensure(&task.image, fetcher)) => image?,
            () = context.cancel.cancelled() => return Err(Failure::Cancelled),
        };
        let (why, users) = (why.to_owned(), generation.config.cage.users);
        let launched = blocking(move || {
            if let Some(kept) = &mut overlay {
                kept.over(&image, spec.disk_bytes())?;
            }
            let mut locks = VmLocks::new(&image, ports, overlay)?;
            locks.user(&mut spec.cage.user, users)?;
            dir.write(DECISION, &decision)?;
            dir.start_again(&why)?;
            if let Err(error) = hand_over(&mut dir, &spec, locks) {
                dir.did_not_start(&error);
                return Err(error.into());
            }
            Ok(spec)
        });
        let (spec, console) = (launched.await?, vm.console_log());
        context.observer.observe(Observation::Launched { spec: &spec, console: &console });
        Ok(())
    }

    fn has_ended(&self) -> Result<(), VmError> {
        if self.vm.status.state().is_final() {
            Ok(())
        } else {
            Err(VmError::GoesOn { id: self.vm.id.clone() })
        }
    }

    /// Asks what is configured now about the launch that the VM had. Policies that were named on a command line then are not asked.
    async fn decide(&self, understood: &mut Understood) -> Result<Decision, Failure> {
        let folder = self.vm.folder.clone();
        let (task, had) = blocking(move || Ok(had(&folder)?)).await?;
        let job = JobFile { name: TASK.into(), bytes: vec![] };
        let deciding = Deciding {
            engine: self.engine.clone(),
            generation: Arc::clone(&self.generation),
            fingerprint: self.engine.fingerprint(self.context).await?,
            order: Arc::new(Order::new(job, &*task.tenant)),
            keep: Keep::Record,
            context: self.context.clone(),
        };
        let approved = deciding.make(Some(task), understood).await?;
        let mut changes = had.changes_to(approved.launch());
        // Remarks are for the reader of a plan, and change nothing about a launch.
        changes.retain(|change| !change.field.starts_with("warnings"));
        if changes.is_empty() {
            Ok(qhost_policy::masked(&understood.secrets, approved.decision().clone()))
        } else {
            Err(Failure::LaunchedOtherwise { changes })
        }
    }
}

/// The task of a VM, asking for the launch that the VM had, and that launch.
fn had(folder: &Path) -> Result<(Task, Launch), VmError> {
    let spec = Spec::read(folder)?;
    let mut task: Task = read_whole(&folder.join(TASK))?;
    let Decision { mut launch, .. } = read_whole(&folder.join(DECISION))?;
    // A port that the host had picked is the VM's.
    for (port, forward) in launch.ports.iter_mut().zip(&spec.forwards) {
        port.host = Some(forward.host);
    }
    task.asked = launch.asked();
    if task.image.checksum.is_indirect() {
        // The VM had this image, whatever a list of checksums says now.
        task = task.with_image(spec.image.sha256);
    }
    Ok((task, launch))
}

/// A VM that has ended, with what it takes reserved once more.
struct Ended {
    task: Task,
    spec: Spec,
    dir: VmDir,
    ports: Reserved,
    overlay: Option<KeptOverlay>,
}

impl Ended {
    fn reserve(engine: &Engine, generation: &Generation, folder: &Path) -> Result<Self, Failure> {
        let (state, config) = (engine.state(), &generation.config);
        let mut spec = Spec::read(folder)?;
        let task: Task = read_whole(&folder.join(TASK))?;
        let decision: Decision = read_whole(&folder.join(DECISION))?;
        // This host and its configuration may have changed since.
        let needs = qhost_cage::Requirements {
            tenant: &task.tenant,
            launch: &decision.launch,
            forwards: &spec.forwards,
            overlay_bytes: spec.overlay_bytes,
            program: &spec.program,
            unfiltered_internet: config.unfiltered_internet(),
        };
        spec.cage = qhost_cage::Host::detect(&config.cage).cage(&config.cage, needs)?;
        let ports = ports::reserve_again(state, &spec.forwards)?;
        let overlay = KeptOverlay::hold(state, &task)?;
        let terms = config.terms(&task.tenant);
        let vm = VmRecord::at(folder);
        let goes_on = || VmError::GoesOn { id: vm.id.clone() };
        let dir = admission::admit_again(state, &vm, &terms)?.ok_or_else(goes_on)?;
        let lost = task.image.sources().find(|source| is_masked(source));
        if let Some(lost) = lost
            && engine.images().would_fetch(&task.image, &task.tenant, &config.image)?
        {
            let (digest, source_url) = (task.image.checksum.digest(), qhost_image::shown(lost));
            return Err(Failure::QueryNotKept { digest, source_url });
        }
        Ok(Self { task, spec, dir, ports, overlay })
    }
}
