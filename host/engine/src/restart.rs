//! Starting a VM again: in its supervisor while it goes on, and with another once it has ended. An ended VM is decided again first: its
//! task asks for exactly its earlier launch. Its cage, locks and ports are then taken anew.

use std::{io, path::Path, sync::Arc, time::Duration};

use qhost_image::Fetcher;
use qhost_model::{
    job::Task,
    launch::{Forward, Launch},
    limits,
    masks::is_masked,
    secrets::MASK,
};
use qhost_policy::{Decision, Occasion};
use qhost_vm::{Spec, VmDir, VmError, VmRecord, error::io_error, records::read_whole};

use crate::{
    admission,
    decide::Deciding,
    decision_record::Keep,
    disks::{self, HeldDisks},
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    firmware::{self, Build},
    generation::Generation,
    observer::{Context, Observation},
    order::{JobFile, Order},
    overlays::KeptOverlay,
    ports::{self, Reserved},
    refusal::Understood,
    run::{DECISION, TASK, VmLocks, hand_over, kept_variables},
    seed,
    turn::Turn,
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

    /// Starts a VM that has ended once more, if the policies configured now allow its earlier launch, and waits until the guest runs, or the VM has
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
        let Ended { task, mut spec, mut dir, ports, mut overlay, disks, firmware } = reserved;
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
            let kept = kept_variables(&image, overlay.as_ref());
            spec.variables = firmware::give_to(dir.path(), firmware.as_ref(), kept)?;
            let mut locks = VmLocks::new(&image, ports, overlay, disks)?;
            locks.user(&mut spec.cage.user, users)?;
            if spec.seed {
                seed::give_to(dir.path(), spec.cage.user)?;
            }
            dir.start_again(&why)?;
            let written = dir.write(DECISION, &decision);
            if let Err(error) = written.and_then(|()| hand_over(&mut dir, &spec, locks)) {
                dir.did_not_start(&error);
                return Err(error.into());
            }
            Ok(spec)
        });
        let (spec, console) = (launched.await?, vm.console_log());
        context.observer.observe(Observation::Launched { spec: &spec, console: &console });
        Ok(())
    }

    /// The tenant's turn to decide, where there are several tenants, as for a start.
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

    /// Asks the policies configured now whether the VM may have its earlier launch. Policies that were named on a command line then are
    /// not asked.
    async fn decide(&self, understood: &mut Understood) -> Result<Decision, Failure> {
        let folder = self.vm.folder.clone();
        let earlier = blocking(move || Ok(Earlier::of(&folder)?)).await?;
        let task = earlier.task.clone();
        if let Some(place) = masked(&task) {
            return Err(Failure::NotKept { place });
        }
        let asked = self.generation.config.chain(&task.tenant)?;
        if earlier.launch.seed.is_some() && asked.iter().any(|policy| policy.allowance.seed_text) {
            return Err(Failure::NotKept { place: "seed".into() });
        }
        let job = JobFile { name: TASK.into(), bytes: vec![] };
        let deciding = Deciding {
            engine: self.engine.clone(),
            generation: Arc::clone(&self.generation),
            fingerprint: self.engine.fingerprint(self.context).await?,
            order: Arc::new(Order::new(job, &*task.tenant)),
            keep: Keep::Record,
            occasion: Occasion::Restart,
            context: self.context.clone(),
        };
        let asking = Task { asked: earlier.launch.asked(), ..task.clone() };
        let refused = match earlier.allowed(&deciding, asking, understood).await {
            Err(refused) if is_refusal(&refused) => refused,
            answer => return answer,
        };
        // A policy may be against a task that names the port which the policy itself had chosen for a task that named none.
        match earlier.allowed(&deciding, task, understood).await {
            Err(again) if is_refusal(&again) => Err(refused),
            answer => answer,
        }
    }
}

fn is_refusal(failure: &Failure) -> bool {
    matches!(failure, Failure::Denied(_) | Failure::LaunchDiffers { .. })
}

/// What of a task was not kept, as it may be a secret, and that policies would miss.
fn masked(task: &Task) -> Option<String> {
    let meta = task.meta.iter().map(|(key, value)| (format!("meta.{key}"), value));
    let args =
        task.args.iter().enumerate().map(|(index, arg)| (format!("config.args.{index}"), arg));
    let mut all = meta.chain(args);
    all.find(|(_, text)| text.contains(MASK)).map(|(place, _)| place)
}

/// What a VM was asked to be, and what it was.
pub(crate) struct Earlier {
    pub(crate) task: Task,
    pub(crate) launch: Launch,
}

impl Earlier {
    pub(crate) fn of(folder: &Path) -> Result<Self, VmError> {
        let spec = Spec::read(folder)?;
        let mut task: Task = read_whole(&folder.join(TASK))?;
        let Decision { mut launch, .. } = read_whole(&folder.join(DECISION))?;
        // A port that the host had picked is the VM's.
        for port in &mut launch.ports {
            let is_its = |forward: &&Forward| {
                (&forward.label, forward.guest, forward.protocol)
                    == (&port.label, port.guest, port.protocol)
            };
            let forward = spec.forwards.iter().find(is_its).ok_or_else(|| {
                let missing = format!("it has no port {}, which {DECISION} has", port.label);
                io_error("use the plan in", folder)(io::Error::other(missing))
            })?;
            port.host = Some(forward.host);
        }
        // An earlier version did not write these into the decision.
        launch.persist = spec.keeps_overlay();
        launch.grace_s.seconds = u32::try_from(spec.grace_s).unwrap_or(limits::GRACE_MOST_S);
        if task.image.checksum.is_indirect() {
            // The VM had this image, whatever a list of checksums says now.
            task = task.with_image(spec.image.sha256);
        }
        Ok(Self { task, launch })
    }

    /// The decision about a task, where it lets the VM have this launch.
    async fn allowed(
        &self,
        deciding: &Deciding,
        task: Task,
        understood: &mut Understood,
    ) -> Result<Decision, Failure> {
        let approved = deciding.make(Some(task), understood).await?;
        let mut launch = approved.launch().clone();
        for port in launch.ports.iter_mut().filter(|port| port.host.is_none()) {
            // The host would pick any, and picks the VM's.
            let its = self.launch.ports.iter().find(|its| its.label == port.label);
            port.host = its.and_then(|its| its.host);
        }
        let mut changes = self.launch.changes_to(&launch);
        // Neither changes what QEMU is started with.
        changes.retain(|change| {
            !["warnings", "extensions"].iter().any(|field| change.field.starts_with(field))
        });
        if changes.is_empty() {
            Ok(qhost_policy::masked(&understood.secrets, approved.decision().clone()))
        } else {
            Err(Failure::LaunchDiffers { changes })
        }
    }
}

/// A VM that has ended, with what it takes reserved once more.
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
        let disks = HeldDisks::hold(state, &task.tenant, &decision.launch.disks)?;
        spec.disks.clone_from(&disks.disks);
        let firmware = Build::of(&config.firmware(), &decision.launch)?;
        let needs = qhost_cage::Requirements {
            tenant: &task.tenant,
            launch: &decision.launch,
            forwards: &spec.forwards,
            file_bytes: disks::file_bytes(spec.overlay_bytes, &spec.disks),
            program: &spec.program,
            unfiltered_internet: config.unfiltered_internet(),
        };
        spec.cage = qhost_cage::Host::detect(&config.cage).cage(&config.cage, needs)?;
        // An earlier version may have made it otherwise.
        let Spec { vm, image, forwards, .. } = &spec;
        spec.argv = qhost_vm::argv(vm, &decision.launch, &task.args, image.format, forwards);
        let ports = ports::reserve_again(state, &spec.forwards)?;
        let overlay = KeptOverlay::hold(state, &task, spec.keeps_overlay())?;
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
        Ok(Self { task, spec, dir, ports, overlay, disks, firmware })
    }
}
