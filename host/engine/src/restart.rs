//! Starting a VM again: by its supervisor while the VM runs, and by another supervisor once the VM has ended. An ended VM is decided again
//! first, by a task that asks for exactly its earlier launch. Its cage, locks and ports are then taken anew.

use std::{path::Path, sync::Arc, time::Duration};

use qhost_image::{Fetcher, ImageError};
use qhost_model::{job::Task, launch::DiskImage, masks::is_masked};
use qhost_policy::{Decision, Occasion};
use qhost_sys::failpoint;
use qhost_vm::{Spec, VmDir, VmError, VmRecord, dir::remove_leftovers, records::read_whole};

use crate::{
    admission,
    decide::Deciding,
    decision_record::Keep,
    disks::{self, HeldDisks},
    earlier_launch::EarlierLaunch,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    firmware::{self, Build},
    generation::Generation,
    locks::VmLocks,
    observer::{Context, Observation},
    overlays::KeptOverlay,
    ports::{self, Reserved},
    refusal::Understood,
    run::{DECISION, TASK, hand_over, kept_variables},
    seed,
    turn::Turn,
    vm::{Until, Vm},
};

impl Vm {
    /// Makes the VM's supervisor stop QEMU and start it again; a VM that has ended gets another supervisor. Waits until the guest runs, or
    /// the VM has ended.
    ///
    /// # Errors
    /// Fails where the VM cannot be started again.
    pub async fn restart(
        &self,
        grace: Option<Duration>,
        context: &Context,
    ) -> Result<VmRecord, EngineError> {
        if self.record().await.status.state().is_final() {
            self.start_again("restart requested", context).await
        } else {
            self.restart_running(grace, context).await
        }
    }

    /// Starts a VM that has ended once more, if the policies configured now allow its earlier launch, and waits until the guest runs, or
    /// the VM has ended again.
    ///
    /// # Errors
    /// Fails where the VM has not ended, is refused now, or cannot get what it needs.
    pub async fn start_again(&self, why: &str, context: &Context) -> Result<VmRecord, EngineError> {
        let (engine, mut understood) = (self.engine(), Understood::default());
        let generation = engine.generation();
        let again = Again { engine, generation, vm: self.record().await, context };
        if let Err(failure) = Box::pin(again.stages(why, &mut understood)).await {
            understood.refused(engine, &again.generation, &failure).await;
            return Err(understood.error(&again.generation, failure));
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
        let turn = self.turn().await?;
        let decision = self.decide(understood).await?;
        let reserved = {
            let (engine, generation, folder) =
                ((*engine).clone(), Arc::clone(generation), vm.folder.clone());
            blocking(move || Ended::reserve(&engine, &generation, &folder)).await?
        };
        // Fetching an image takes no turn.
        drop(turn);
        let Ended { task, mut spec, mut dir, ports, mut overlay, mut disks, firmware } = reserved;
        let terms = generation.config.terms(&task.tenant);
        let settings = &generation.config.image;
        let fetcher = || Fetcher::of_tenant(settings, &task.tenant, &terms, context.progress());
        let store = engine.images();
        let fetched = async {
            let root = Box::pin(store.ensure(&task.image, fetcher())).await?;
            let images = disks::images(&decision.launch.disks);
            Ok::<_, ImageError>((root, Box::pin(disks::fetch(&store, images, fetcher)).await?))
        };
        let (image, disk_images) = tokio::select! {
            images = fetched => images?,
            () = context.cancel.cancelled() => return Err(Failure::Cancelled),
        };
        let (why, users) = (why.to_owned(), generation.config.cage.users);
        let launched = blocking(move || {
            if let Some(kept) = &mut overlay {
                kept.over(&image, spec.disk_bytes())?;
            }
            let kept = kept_variables(&decision.launch, &image, overlay.as_ref());
            disks.attach_images(&decision.launch.disks, &disk_images)?;
            let mut locks = VmLocks::new(&image, ports, overlay, disks)?;
            locks.user(&mut spec.cage.user, users)?;
            seed::give_to(dir.path(), &spec)?;
            dir.start_again(&why)?;
            failpoint::reach("restart.begun");
            let begin = || {
                dir.write(DECISION, &decision)?;
                spec.variables = firmware::give_to(dir.path(), firmware.as_ref(), kept)?;
                hand_over(&mut dir, &spec, locks)
            };
            if let Err(error) = begin() {
                dir.did_not_start(&error);
                if let Err(error) = remove_leftovers(dir.path()) {
                    tracing::warn!(%error, "cannot remove what a VM had that did not start");
                }
                return Err(error.into());
            }
            Ok(spec)
        });
        let (spec, console) = (launched.await?, vm.console_log());
        context.observer.observe(Observation::Launched { spec: &spec, console: &console });
        Ok(())
    }

    /// Waits for the tenant's turn, if there are several tenants, as a start does.
    async fn turn(&self) -> Result<Option<Turn>, Failure> {
        let tenant = &self.vm.tenant;
        if !self.generation.config.has_tenant(tenant) {
            return Ok(None);
        }
        let waiting = || self.context.observer.observe(Observation::Waiting { tenant });
        tokio::select! {
            turn = Turn::wait(self.engine.state(), tenant, waiting) => Ok(Some(turn?)),
            () = self.context.cancel.cancelled() => Err(Failure::Cancelled),
        }
    }

    fn has_ended(&self) -> Result<(), VmError> {
        if self.vm.status.state().is_final() {
            Ok(())
        } else {
            Err(VmError::GoesOn { id: self.vm.id.clone() })
        }
    }

    /// Asks the policies configured now whether the VM may have its earlier launch. Policies that were named on the command line of the
    /// first start are not asked.
    async fn decide(&self, understood: &mut Understood) -> Result<Decision, Failure> {
        let folder = self.vm.folder.clone();
        let earlier = blocking(move || Ok(EarlierLaunch::of(&folder)?)).await?;
        let asked = self.generation.config.chain(&earlier.task.tenant)?;
        if let Some(place) = earlier.missing(&asked) {
            return Err(Failure::NotKept { place });
        }
        let deciding = Deciding {
            engine: self.engine.clone(),
            generation: Arc::clone(&self.generation),
            fingerprint: self.engine.fingerprint(self.context).await?,
            order: Arc::new(earlier.order()),
            keep: Keep::Record,
            occasion: Occasion::Restart,
            audited: None,
            context: self.context.clone(),
        };
        earlier.decided_again(&deciding, understood).await
    }
}

/// A VM that has ended, with its resources reserved once more.
struct Ended {
    task: Task,
    spec: Spec,
    dir: VmDir,
    ports: Reserved,
    overlay: Option<KeptOverlay>,
    disks: HeldDisks,
    firmware: Option<Build>,
}

impl Ended {
    fn reserve(engine: &Engine, generation: &Generation, folder: &Path) -> Result<Self, Failure> {
        let (state, config) = (engine.state(), &generation.config);
        let mut spec = Spec::read(folder)?;
        let task: Task = read_whole(&folder.join(TASK))?;
        let decision: Decision = read_whole(&folder.join(DECISION))?;
        // A volume may have been made larger, and this host and its configuration changed since.
        let mut disks = HeldDisks::hold(state, &task.tenant, &decision.launch.disks)?;
        disks.attach_earlier_images(&spec.disks);
        spec.disks.clone_from(&disks.disks);
        let firmware = Build::of(&config.firmware(), &decision.launch)?;
        let variables = firmware.as_ref().map(Build::flash_bytes);
        let file_bytes = disks::file_bytes(spec.overlay_bytes, &spec.disks, variables);
        let image_bytes = Some(spec.image.disk_bytes);
        let root_bytes = disks::root_bytes(&decision.launch, image_bytes, file_bytes);
        // A scheduler has removed the VM's group by now.
        let resources = qhost_cage::LinuxResources::default();
        let needs = qhost_cage::Requirements {
            tenant: &task.tenant,
            launch: &decision.launch,
            forwards: &spec.forwards,
            file_bytes,
            program: &spec.program,
            unfiltered_internet: config.unfiltered_internet(),
            resources: &resources,
        };
        spec.cage = qhost_cage::Host::detect(&config.cage).cage(&config.cage, needs)?;
        // The cage is new, so that Ignition's config is shown in it again. QEMU's arguments are made anew, as an earlier version may have
        // made others.
        seed::show_in(&mut spec.cage, folder, &decision.launch);
        let Spec { image, forwards, .. } = &spec;
        spec.argv = qhost_vm::argv(
            folder,
            &decision.launch,
            &disks.disks,
            &task.args,
            image.format,
            forwards,
        );
        let ports = ports::reserve_again(state, &spec.forwards)?;
        let overlay = KeptOverlay::hold(state, &task, spec.keeps_overlay())?;
        let terms = config.terms(&task.tenant);
        let vm = VmRecord::at(folder);
        let goes_on = || VmError::GoesOn { id: vm.id.clone() };
        let takes = decision.launch.usage(root_bytes.max(spec.overlay_bytes));
        let dir = admission::admit_again(state, folder, &task, takes, &terms)?;
        let dir = dir.ok_or_else(goes_on)?;
        let disk_images = disks::images(&decision.launch.disks).map(DiskImage::request);
        for image in disk_images.chain([task.image.clone()]) {
            let lost = image.sources().find(|source| is_masked(source));
            if let Some(lost) = lost
                && engine.images().would_fetch(&image, &task.tenant, &config.image)?
            {
                let (digest, source_url) = (image.checksum.digest(), qhost_image::shown(lost));
                return Err(Failure::QueryNotKept { digest, source_url });
            }
        }
        Ok(Self { task, spec, dir, ports, overlay, disks, firmware })
    }
}
