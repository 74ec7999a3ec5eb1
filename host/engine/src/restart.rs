//! Starting a VM again: in its supervisor while it goes on, and with another once it has ended. What was decided about it holds; its cage
//! is settled, and all that it uses is held, anew.

use std::{path::Path, sync::Arc, time::Duration};

use qhost_image::Fetcher;
use qhost_model::{job::Task, masks::is_masked};
use qhost_policy::Decision;
use qhost_vm::{Spec, VmDir, VmError, VmRecord, records::read_whole};

use crate::{
    admission,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    generation::Generation,
    observer::{Context, Observation},
    overlays::KeptOverlay,
    ports::{self, Reserved},
    run::{VmLocks, hand_over},
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

    /// Starts a VM that has ended once more, as it was decided then, and waits until the guest runs, or the VM has ended again.
    ///
    /// # Errors
    /// Where the VM has not ended, or what it needs cannot be had.
    pub async fn start_again(&self, why: &str, context: &Context) -> Result<VmRecord, EngineError> {
        stages(self.engine(), &self.record(), why, context).await?;
        self.wait(Until::Running, context).await
    }
}

async fn stages(
    engine: &Engine,
    vm: &VmRecord,
    why: &str,
    context: &Context,
) -> Result<(), Failure> {
    let generation = engine.generation();
    let reserved = {
        let (engine, generation, folder) =
            (engine.clone(), Arc::clone(&generation), vm.folder.clone());
        blocking(move || Ended::reserve(&engine, &generation, &folder)).await?
    };
    let Ended { task, mut spec, mut dir, ports, mut overlay } = reserved;
    let terms = generation.config.terms(&task.tenant);
    let fetcher =
        Fetcher::of_tenant(&generation.config.image, &task.tenant, &terms, context.progress());
    let store = engine.images();
    let image = tokio::select! {
        image = Box::pin(store.ensure(&task.image, fetcher)) => image?,
        () = context.cancel.cancelled() => return Err(Failure::Cancelled),
    };
    let why = why.to_owned();
    let launched = blocking(move || {
        if let Some(kept) = &mut overlay {
            kept.over(&image, spec.disk_bytes())?;
        }
        let mut locks = VmLocks::new(&image, ports, overlay)?;
        locks.user(&mut spec.cage.user, generation.config.cage.users)?;
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
        let task: Task = read_whole(&folder.join("task.json"))?;
        let decision: Decision = read_whole(&folder.join("decision.json"))?;
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
