//! Plans an order: goes the way of a start up to the launch, and says what would be launched.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_cage::Cage;
use qhost_model::{
    digest::{FileDigest, Sha256},
    format::Format,
    launch::{Disk, DiskImage, Forward, PortMap},
};
use qhost_policy::{Approved, Occasion};
use qhost_sys::spawn;
use qhost_vm::VmError;

use crate::{
    admission,
    decide::Deciding,
    decision_record::Keep,
    disks,
    engine::{Engine, blocking},
    error::{EngineError, Failure},
    fingerprint::Fingerprint,
    firmware::Build,
    generation::Generation,
    observer::Context,
    order::Order,
    ports,
    refusal::Understood,
    run::disk_bytes,
};

/// What an order would be run as.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// Whether the image is in the store; if not, its format is a guess from its name.
    pub image_stored: bool,
    /// Its digest; of a list of checksums that was never fetched, the list's own.
    #[schemars(with = "String")]
    pub image_digest: FileDigest,
    /// The same, where it is a SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_sha256: Option<Sha256>,
    /// What QEMU would be told it is.
    pub image_format: Format,
    /// What QEMU would be kept in.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub cage: Cage,
    /// The emulator.
    pub program: String,
    /// Its arguments.
    pub argv: Vec<String>,
}

impl Engine {
    /// Decides about an order, and says what it would be run as. No image is fetched and no VM is started; the compiled code of policies is
    /// kept.
    ///
    /// # Errors
    /// Fails where the job is not understood, a policy fails or refuses it, or this host cannot run it.
    pub async fn plan(&self, order: Order, context: &Context) -> Result<Plan, EngineError> {
        let mut understood = Understood::default();
        let planned = stages(self, order, context, &mut understood).await;
        planned.map_err(|failure| understood.error(&self.generation(), failure))
    }
}

async fn stages(
    engine: &Engine,
    order: Order,
    context: &Context,
    understood: &mut Understood,
) -> Result<Plan, Failure> {
    let deciding = Deciding {
        engine: engine.clone(),
        generation: engine.generation(),
        fingerprint: engine.fingerprint(context).await?,
        order: Arc::new(order),
        keep: Keep::Nothing,
        occasion: Occasion::Launch,
        audited: None,
        context: context.clone(),
    };
    let mut approved = deciding.make(None, understood).await?;
    if approved.task().image.checksum.is_indirect() {
        // A start would fetch a list of checksums, or an image of which only the SHA-512 is known, and then decide once more.
        let (engine, task) = (engine.clone(), approved.task().clone());
        let known =
            blocking(move || Ok(engine.images().known_digest(&task.image, Some(&task.tenant))?));
        if let Some(sha256) = known.await? {
            approved = deciding.make(Some(approved.task().with_image(sha256)), understood).await?;
        }
    }
    let Deciding { engine, generation, fingerprint, order, .. } = deciding;
    blocking(move || planned(&engine, &generation, &order, &fingerprint, &approved)).await
}

fn planned(
    engine: &Engine,
    generation: &Generation,
    order: &Order,
    fingerprint: &Fingerprint,
    approved: &Approved,
) -> Result<Plan, Failure> {
    let (task, launch, config) = (approved.task(), approved.launch(), &generation.config);
    let (image, store) = (&task.image, engine.images());
    let stored = store.get(image, &task.tenant, &config.image_for(order))?;
    if let Some(stored) = &stored {
        disk_bytes(launch, stored)?;
    }
    let format = stored.as_ref().map_or(Format::guess(image.source.path()), |image| image.format());
    let forward = |port: &PortMap| Forward::of(port, port.host.unwrap_or(0));
    let forwards: Vec<_> = launch.ports.iter().map(forward).collect();
    let stored_of = |disk: &Disk| {
        let request = disk.image.as_ref().map(DiskImage::request);
        let find = |request| store.get(&request, &task.tenant, &config.image_for(order));
        Ok(request.map(find).transpose()?.flatten())
    };
    let disks = disks::planned(engine.state(), &task.tenant, &launch.disks, stored_of)?;
    let firmware = Build::of(&config.firmware(), launch)?;
    let variables = firmware.as_ref().map(Build::flash_bytes);
    let file_bytes = disks::file_bytes(config.overlay.max_bytes, &disks, variables);
    let program = fingerprint.program(launch.machine.architecture)?;
    let root_bytes =
        disks::root_bytes(launch, stored.as_ref().map(|it| it.disk_bytes()), file_bytes);
    let takes = launch.usage(root_bytes.max(config.overlay.max_bytes));
    let needs = qhost_cage::Requirements {
        tenant: &task.tenant,
        launch,
        forwards: &forwards,
        file_bytes,
        program,
        unfiltered_internet: config.unfiltered_internet(),
        resources: &order.resources,
    };
    let cage = qhost_cage::Host::detect(&config.cage).cage(&config.cage, needs)?;
    ports::are_free(engine.state(), launch)?;
    let terms = config.terms(&task.tenant);
    admission::would_admit(engine.state(), task, takes, &terms)?;
    if stored.is_none() && store.would_fetch(image, &task.tenant, &config.image_for(order))? {
        store.may_fetch(image, &config.image_for(order))?;
    }
    for image in disks::images(&launch.disks).map(DiskImage::request) {
        if store.would_fetch(&image, &task.tenant, &config.image_for(order))? {
            store.may_fetch(&image, &config.image_for(order))?;
        }
    }
    spawn::has_supervisor().map_err(|(program, source)| VmError::Supervisor { program, source })?;
    let known = store.known_digest(image, Some(&task.tenant))?;
    Ok(Plan {
        image_stored: stored.is_some(),
        image_digest: known.map_or(image.checksum.digest(), FileDigest::Sha256),
        image_sha256: known.or(image.checksum.pin()),
        image_format: format,
        cage,
        program: program.display().to_string(),
        argv: qhost_vm::argv(
            &engine.state().vms().join("VM-ID"),
            launch,
            &disks,
            &task.args,
            format,
            &forwards,
        ),
    })
}
