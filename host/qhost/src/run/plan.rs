//! `qhost plan`: the run's way up to the launch, then what it would be. Writes nothing, downloads nothing.

use std::future;

use serde::Serialize;

use qhost_cage::Cage;
use qhost_engine::fingerprint::Fingerprint;
use qhost_image::Store;
use qhost_model::{digest::Sha256, format::Format, launch::Forward};
use qhost_policy::Approved;

use super::{Decided, Deciding, Host, Keep, RunError, show};
use crate::{
    cli::{DecideArgs, Shared},
    outcome::{Exit, Report},
};

/// A report, and the command line that a run would use.
#[derive(Serialize)]
struct Plan {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    launch: Option<PlannedLaunch>,
}

#[derive(Serialize)]
struct PlannedLaunch {
    /// Whether the image is in the store; if not, its format is a guess from its name.
    image_stored: bool,
    /// Its digest; of a list of checksums that was never fetched, the list's own.
    image_sha256: Sha256,
    image_format: Format,
    /// What QEMU would be kept in.
    cage: Cage,
    program: String,
    argv: Vec<String>,
}

pub(super) async fn plan(shared: &Shared, args: &DecideArgs) -> Exit {
    let mut report = Report::new();
    let (exit, launch) = match stages(shared, args, &mut report).await {
        Ok((exit, launch)) => (exit, launch),
        Err(error) => (report.fail(&error), None),
    };
    report.finish(exit);
    if shared.json {
        show::print(&show::json(&Plan { report, launch }));
        return exit;
    }
    show::report(shared, &report);
    if let (Some(launch), Some(decision)) = (launch, &report.decision) {
        show::print(&launch.text(&decision.launch));
    }
    exit
}

async fn stages(
    shared: &Shared,
    args: &DecideArgs,
    report: &mut Report,
) -> Result<(Exit, Option<PlannedLaunch>), RunError> {
    report.image_allow.clone_from(&args.networks.image_allow);
    let host = Host::new(shared)?.with_image_networks(args);
    host.enter_share_of(&args.tenant)?;
    let fingerprint = host.fingerprint(&show::Steps::new(shared)).await?;
    let decision = Deciding { host, fingerprint, args: args.clone(), keep: Keep::Nothing };
    let mut approved = match decision.make(None, report, future::pending()).await? {
        Decided::Approved(approved) => approved,
        Decided::Not(exit) => return Ok((exit, None)),
    };
    let Deciding { host, fingerprint, .. } = &decision;
    let image = &approved.task().image;
    // A run would fetch a list of checksums that is not here, and then decide once more.
    if image.checksum.sums().is_some()
        && let Some(sha256) =
            Store::new(host.state.path()).known_digest(image, Some(&args.tenant))?
    {
        let known = Some(approved.task().with_image(sha256));
        approved = match decision.make(known, report, future::pending()).await? {
            Decided::Approved(approved) => approved,
            Decided::Not(exit) => return Ok((exit, None)),
        };
    }
    Ok((Exit::Done, Some(planned(host, fingerprint, &approved)?)))
}

fn planned(
    host: &Host,
    fingerprint: &Fingerprint,
    approved: &Approved,
) -> Result<PlannedLaunch, RunError> {
    let image = &approved.task().image;
    let store = Store::new(host.state.path());
    let tenant = &approved.task().tenant;
    let stored = store.get(image, tenant, &host.config.image)?;
    let format = stored.as_ref().map_or(Format::guess(image.source.path()), |image| image.format());
    let forward = |port: &qhost_model::launch::PortMap| Forward {
        label: port.label.clone(),
        bind: port.bind,
        host: port.host.unwrap_or(0),
        guest: port.guest,
        protocol: port.protocol,
    };
    let forwards: Vec<_> = approved.launch().ports.iter().map(forward).collect();
    let needs = qhost_cage::Requirements {
        tenant,
        launch: approved.launch(),
        forwards: &forwards,
        overlay_bytes: host.config.overlay.max_bytes,
        program: fingerprint.path(),
        unfiltered_internet: host.config.unfiltered_internet(),
    };
    let cage = qhost_cage::Host::detect(&host.config.cage).cage(&host.config.cage, needs)?;
    Ok(PlannedLaunch {
        image_stored: stored.is_some(),
        image_sha256: store.known_digest(image, Some(tenant))?.unwrap_or(image.checksum.pin()),
        image_format: format,
        cage,
        program: fingerprint.path().display().to_string(),
        argv: qhost_vm::argv("VM-ID", approved.launch(), &approved.task().args, format, &forwards),
    })
}

impl PlannedLaunch {
    fn text(&self, launch: &qhost_model::launch::Launch) -> String {
        let qhost_model::job::Resources { cpus, memory_mib } = launch.resources;
        let mut text = format!(
            "launch    {}, {cpus} CPU{}, {memory_mib} MiB, egress {}\n",
            launch.accelerator.name(),
            if cpus == 1 { "" } else { "s" },
            launch.egress.name()
        );
        for port in &launch.ports {
            let host = port.host.map_or("a free port".into(), |host| host.to_string());
            text += &format!(
                "port      {}: {}:{host} → guest {}/{}\n",
                port.label,
                port.bind,
                port.guest,
                port.protocol.name()
            );
        }
        text += if self.image_stored {
            "image     in the store\n"
        } else {
            "image     not in the store; a run would fetch it. Its format below is a guess from its name\n"
        };
        text +=
            &format!("digest    sha256:{}\ncage      {}\n", self.image_sha256, self.cage.summary());
        text += &format!("command   {}", shell_words::quote(&self.program));
        // One option a line: those that start with a dash, with what follows them.
        for argument in &self.argv {
            text += if argument.starts_with('-') { " \\\n            " } else { " " };
            text += &shell_words::quote(argument);
        }
        text + "\n"
    }
}
