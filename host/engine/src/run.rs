//! The spine: one order from its job file to a running VM. Each stage is a type of its own, made from the one before, so that a task that
//! no policy approved is not admitted, and an image that was not verified is not launched.
//!
//! ```text
//! Order ──decide──▶ Approved ──admit──▶ Admitted ──fetch, verify──▶ Provisioned ──supervisor──▶ Vm
//! ```

use std::{path::PathBuf, sync::Arc};

use qhost_cage::Cage;
use qhost_image::{Fetcher, ImageError, Store, VerifiedImage};
use qhost_model::{
    format::Format,
    job::Task,
    launch::{Launch, Seed},
    quota::Terms,
    secrets::Secrets,
};
use qhost_policy::{Approved, Decision, Occasion};
use qhost_sys::failpoint;
use qhost_vm::{
    Begin, ImageOf, LogPipes, Spec, VmDir, VmError, VmRecord, argv, error::io_error,
    files::OVERLAY, start_supervisor,
};

use crate::{
    admission,
    decide::Deciding,
    decision_record::Keep,
    disks::{self, HeldDisks},
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    fingerprint::Fingerprint,
    firmware::{self, Build},
    generation::Generation,
    locks::VmLocks,
    observer::{Context, Observation},
    order::Order,
    overlays::KeptOverlay,
    ports::{self, Reserved},
    refusal::Understood,
    seed,
    turn::Turn,
    vm::Vm,
};

/// The record of a VM's task, in its folder.
pub(crate) const TASK: &str = "task.json";
/// The decision about a VM, in its folder.
pub(crate) const DECISION: &str = "decision.json";

impl Engine {
    /// Starts the VM of an order: decides, admits it, fetches and checks its image, and hands the VM to a supervisor. An order that is
    /// given up before that leaves nothing; after that the VM goes on by itself.
    ///
    /// # Errors
    /// Fails where the job is not understood, is refused, or cannot be run, or its image cannot be fetched.
    pub async fn start(&self, order: Order, context: &Context) -> Result<Vm, EngineError> {
        let mut understood = Understood::default();
        let start = Start::new(self, order, context);
        match Box::pin(stages(&start, &mut understood)).await {
            Ok(vm) => Ok(vm),
            Err(failure) => {
                understood.refused(self, &start.generation, &failure).await;
                Err(understood.error(&start.generation, failure))
            }
        }
    }
}

async fn stages(start: &Start, understood: &mut Understood) -> Result<Vm, Failure> {
    let Start { engine, context, .. } = start;
    let mut turn = start.turn().await?;
    engine.recover().await;
    let fingerprint = engine.fingerprint(context).await?;
    start.keep(&fingerprint).await?;
    let decision = start.deciding(&fingerprint);
    let mut approved = decision.make(None, understood).await?;
    if approved.task().image.checksum.is_indirect() {
        // The decision is made again, since policies go by the image's own digest too, which is known only now.
        let resolved = Box::pin(start.resolve(approved.task()));
        let (sha256, again) = start.between_turns(turn, resolved).await?;
        turn = again;
        approved = decision.make(Some(approved.task().with_image(sha256)), understood).await?;
    }
    if start.order.ready_check && approved.task().ready.is_none() {
        let why = "the job has no ready check that --wait-ready could wait for: config.ready";
        return Err(Failure::Usage(why.into()));
    }
    let admitted = start.admit(approved, fingerprint, &understood.secrets).await?;
    let (images, turn) = match admitted.stored.clone() {
        Some(stored) => (stored, turn),
        None => start.between_turns(turn, Box::pin(start.fetch(&admitted.approved))).await?,
    };
    context.observer.observe(Observation::Verified(&images.root));
    let vm = start.launch(admitted.provision(images)).await?;
    drop(turn);
    Ok(vm)
}

/// A start, with what it has from its beginning.
struct Start {
    engine: Engine,
    generation: Arc<Generation>,
    order: Arc<Order>,
    context: Context,
    terms: Terms,
    image: qhost_image::Settings,
}

/// A task that may run, with what its VM takes of the host reserved. The reservations end when this is dropped.
struct Admitted {
    approved: Approved,
    /// The decision as it is recorded.
    decision: Decision,
    dir: VmDir,
    ports: Reserved,
    overlay: Option<KeptOverlay>,
    disks: HeldDisks,
    /// The UEFI that the VM boots with; none for BIOS.
    firmware: Option<Build>,
    cage: Cage,
    program: PathBuf,
    /// Pipes that the console is read from.
    log_pipes: Option<LogPipes>,
    /// The images, if all of them are in the store already.
    stored: Option<Images>,
}

/// The images that a VM's disks begin with.
#[derive(Clone)]
struct Images {
    root: VerifiedImage,
    /// The images of the VM's other disks, in the disks' order.
    disks: Vec<VerifiedImage>,
}

/// An admitted task with the images that its VM runs from.
struct Provisioned {
    admitted: Admitted,
    images: Images,
}

impl Start {
    fn new(engine: &Engine, order: Order, context: &Context) -> Self {
        let generation = engine.generation();
        let terms = generation.config.terms(&order.tenant);
        let image = generation.config.image_for(&order);
        let (engine, order, context) = (engine.clone(), Arc::new(order), context.clone());
        Self { engine, generation, order, context, terms, image }
    }

    fn deciding(&self, fingerprint: &Arc<Fingerprint>) -> Deciding {
        Deciding {
            engine: self.engine.clone(),
            generation: Arc::clone(&self.generation),
            fingerprint: Arc::clone(fingerprint),
            order: Arc::clone(&self.order),
            keep: Keep::Record,
            occasion: Occasion::Launch,
            audited: None,
            context: self.context.clone(),
        }
    }

    /// Waits for the tenant's turn, if there are several tenants. An unknown tenant gets no turn: the decision refuses its task.
    async fn turn(&self) -> Result<Option<Turn>, Failure> {
        let tenant = &self.order.tenant;
        if !self.generation.config.has_tenant(tenant) {
            return Ok(None);
        }
        let waiting = || self.context.observer.observe(Observation::Waiting { tenant });
        self.unless_cancelled(async {
            let turn = Turn::wait(self.engine.state(), tenant, waiting).await?;
            self.context.observer.observe(Observation::Turn);
            Ok(Some(turn))
        })
        .await
    }

    /// Gives the turn up for work that waits for the network, and then waits for the next turn.
    async fn between_turns<T>(
        &self,
        turn: Option<Turn>,
        waits: impl Future<Output = Result<T, ImageError>>,
    ) -> Result<(T, Option<Turn>), Failure> {
        drop(turn);
        let done = self.unless_cancelled(async { Ok(waits.await?) }).await?;
        Ok((done, self.turn().await?))
    }

    async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            () = self.context.cancel.cancelled() => Err(Failure::Cancelled),
        }
    }

    /// Keeps the fingerprint for later starts.
    async fn keep(&self, fingerprint: &Arc<Fingerprint>) -> Result<(), Failure> {
        let (path, fingerprint) = (self.engine.state().fingerprint(), Arc::clone(fingerprint));
        blocking(move || {
            fingerprint.keep(&path);
            Ok(())
        })
        .await
    }

    fn store(&self) -> Store {
        self.engine.images()
    }

    fn fetcher<'a>(&'a self, tenant: &'a str) -> Fetcher<'a> {
        Fetcher::of_tenant(&self.image, tenant, &self.terms, self.context.progress())
    }

    async fn resolve(&self, task: &Task) -> Result<qhost_model::digest::Sha256, ImageError> {
        self.store().resolve(&task.image, self.fetcher(&task.tenant)).await
    }

    async fn fetch(&self, approved: &Approved) -> Result<Images, ImageError> {
        let task = approved.task();
        let root = self.store().ensure(&task.image, self.fetcher(&task.tenant)).await?;
        let disks = disks::images(&approved.launch().disks);
        let disks = disks::fetch(&self.store(), disks, || self.fetcher(&task.tenant)).await?;
        Ok(Images { root, disks })
    }

    /// The images of a launch, if all of them are in the store.
    fn stored(
        store: &Store,
        approved: &Approved,
        settings: &qhost_image::Settings,
    ) -> Result<Option<Images>, ImageError> {
        let task = approved.task();
        let Some(root) = store.get(&task.image, &task.tenant, settings)? else { return Ok(None) };
        let disks = disks::images(&approved.launch().disks);
        let disks = disks.map(|image| store.get(&image.request(), &task.tenant, settings));
        let disks = disks.collect::<Result<Option<Vec<_>>, _>>()?;
        Ok(disks.map(|disks| Images { root, disks }))
    }

    /// Reserves what the VM takes, before its image is fetched, so that no image is fetched for a VM that another VM keeps from starting.
    async fn admit(
        &self,
        approved: Approved,
        fingerprint: Arc<Fingerprint>,
        secrets: &Secrets,
    ) -> Result<Admitted, Failure> {
        let decision = qhost_policy::masked(secrets, approved.decision().clone());
        self.context.observer.observe(Observation::Allowed(&decision));
        let (engine, generation) = (self.engine.clone(), Arc::clone(&self.generation));
        let (terms, image) = (self.terms.clone(), self.image.clone());
        let (log_pipes, resources) = (self.order.log_pipes.clone(), self.order.resources.clone());
        let operation = self.order.operation.clone();
        let admitted = blocking(move || {
            let (state, config, task) = (engine.state(), &generation.config, approved.task());
            let ports = ports::reserve(state, approved.launch(), &config.rules().ports)?;
            let overlay = KeptOverlay::hold(state, task, approved.launch().persist)?;
            let disks = HeldDisks::hold(state, &task.tenant, &approved.launch().disks)?;
            let firmware = Build::of(&config.firmware(), approved.launch())?;
            let variables = firmware.as_ref().map(Build::flash_bytes);
            let file_bytes = disks::file_bytes(config.overlay.max_bytes, &disks.disks, variables);
            let program = fingerprint.program(approved.launch().machine.architecture)?;
            let stored = Self::stored(&engine.images(), &approved, &image)?;
            let cage = qhost_cage::Host::detect(&config.cage).cage(
                &config.cage,
                qhost_cage::Requirements {
                    tenant: &task.tenant,
                    launch: approved.launch(),
                    forwards: ports.forwards(),
                    file_bytes,
                    program,
                    unfiltered_internet: config.unfiltered_internet(),
                    resources: &resources,
                },
            )?;
            let root_bytes = disks::root_bytes(
                approved.launch(),
                stored.as_ref().map(|images| images.root.disk_bytes()),
                file_bytes,
            );
            let takes = approved.launch().usage(root_bytes.max(config.overlay.max_bytes));
            let dir = admission::admit_new(state, task, takes, operation, &terms)?;
            let program = program.to_owned();
            Ok(Admitted {
                approved,
                decision,
                dir,
                ports,
                overlay,
                disks,
                firmware,
                cage,
                program,
                log_pipes,
                stored,
            })
        });
        let admitted = admitted.await?;
        self.context.observer.observe(Observation::Admitted { vm: admitted.dir.id() });
        if self.context.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        Ok(admitted)
    }

    /// Hands the VM to a supervisor. From then on the VM goes on, whatever becomes of this process or of the order.
    async fn launch(&self, provisioned: Provisioned) -> Result<Vm, Failure> {
        let generation = Arc::clone(&self.generation);
        let (engine, cancel) = (self.engine.clone(), self.context.cancel.clone());
        let launched = blocking(move || {
            if cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            let (vm, spec) = provisioned.launch(&generation)?;
            spec.images().for_each(|image| engine.images().note_use(image.sha256));
            Ok((vm, spec))
        });
        let (record, spec) = launched.await?;
        let console = record.console_log();
        self.context.observer.observe(Observation::Launched { spec: &spec, console: &console });
        let vm = Vm::of(&self.engine, &record);
        if let Some(actor) = &self.order.actor {
            vm.note_request("start", actor).await;
        }
        Ok(vm)
    }
}

impl Admitted {
    fn provision(self, images: Images) -> Provisioned {
        Provisioned { admitted: self, images }
    }
}

impl Provisioned {
    fn launch(self, generation: &Generation) -> Result<(VmRecord, Spec), Failure> {
        let Self { admitted, images: Images { root: image, disks: disk_images } } = self;
        let Admitted { approved, decision, mut dir, ports, mut overlay, mut disks, .. } = admitted;
        let Admitted { firmware, mut cage, program, log_pipes, .. } = admitted;
        let forwards = ports.forwards().to_vec();
        let disk_bytes = disk_bytes(approved.launch(), &image)?;
        disks.attach_images(&approved.launch().disks, &disk_images)?;
        let file = match &mut overlay {
            Some(kept) => {
                kept.over(&image, disk_bytes)?;
                kept.path().to_owned()
            }
            None => OVERLAY.into(),
        };
        let (task, launch) = (approved.task(), approved.launch());
        let kept = kept_variables(launch, &image, overlay.as_ref());
        let variables = firmware::give_to(dir.path(), firmware.as_ref(), kept)?;
        seed::show_in(&mut cage, dir.path(), launch);
        let argv = argv(dir.path(), launch, &disks.disks, &task.args, image.format(), &forwards);
        let mut spec = Spec {
            vm: dir.id().to_owned(),
            task: task.name.clone(),
            tenant: task.tenant.clone(),
            resources: launch.resources,
            forwards,
            image: ImageOf {
                path: image.path().to_owned(),
                sha256: image.sha256(),
                format: image.format(),
                disk_bytes: image.disk_bytes(),
            },
            // A CD takes no writes.
            overlay: (image.format() != Format::Iso).then_some(file),
            overlay_bytes: generation.config.overlay.max_bytes,
            disk_bytes: launch.disk_bytes,
            disks: disks.disks.clone(),
            variables,
            seed: launch.seed.as_ref().is_some_and(Seed::is_disk),
            ignition: launch.seed.as_ref().is_some_and(Seed::is_ignition),
            grace_s: launch.grace_s.seconds.into(),
            console: launch.access.console,
            log_pipes,
            display: launch.access.display,
            agent: launch.access.agent,
            restart: task.restart,
            ready: task.ready.clone(),
            cage,
            program,
            argv,
        };
        let mut locks = VmLocks::new(&image, ports, overlay, disks)?;
        locks.user(&mut spec.cage.user, generation.config.cage.users)?;
        dir.write(DECISION, &decision)?;
        seed::write(dir.path(), &approved, generation.config.vendor_data(), spec.cage.user)?;
        let folder = dir.path().to_owned();
        hand_over(&mut dir, &spec, locks)?;
        Ok((VmRecord::at(&folder), spec))
    }
}

/// The path of kept UEFI variables, beside the task's kept overlay. Absent where no overlay is kept, and for a CD.
pub(crate) fn kept_variables(
    launch: &Launch,
    image: &VerifiedImage,
    overlay: Option<&KeptOverlay>,
) -> Option<PathBuf> {
    let overlay = overlay.filter(|_| image.format() != Format::Iso)?;
    Some(overlay.variables(launch.firmware.secure_boot))
}

/// The size of a launch's root disk over an image, in bytes.
pub(crate) fn disk_bytes(launch: &Launch, image: &VerifiedImage) -> Result<u64, VmError> {
    let Some(asked) = launch.disk_bytes else { return Ok(image.disk_bytes()) };
    let reason = if image.format() == Format::Iso {
        "an ISO image takes no writes; leave disk_bytes out".into()
    } else if asked < image.disk_bytes() {
        let least = image.disk_bytes();
        format!("the image's disk has {least} bytes; ask for that or more, or leave disk_bytes out")
    } else {
        return Ok(asked);
    };
    Err(VmError::DiskUnfit { asked, reason })
}

/// Starts a VM's supervisor, which holds the VM's locks from here on. Before the supervisor has begun, dropping a new folder removes it.
pub(crate) fn hand_over(dir: &mut VmDir, spec: &Spec, locks: VmLocks) -> Result<(), VmError> {
    if spec.has_own_overlay() {
        let path = dir.path().join(OVERLAY);
        qhost_image::create_overlay(&path, spec.disk_bytes()).map_err(io_error("create", &path))?;
    }
    disks::create(dir.path(), &spec.disks)?;
    dir.write_spec(spec)?;
    failpoint::reach("launch.written");
    let mut files = locks.files;
    files.push(dir.share_lock()?);
    start_supervisor(dir.path(), Begin::Launch, files)?;
    dir.hand_over();
    if let Err(error) = dir.sync() {
        tracing::warn!(vm = dir.id(), %error, "a power cut may take the VM's records");
    }
    failpoint::reach("launch.supervisor");
    Ok(())
}
