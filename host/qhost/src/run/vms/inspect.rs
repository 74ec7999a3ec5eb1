//! `qhost inspect`.

use indicatif::BinaryBytes;

use serde::Serialize;

use qhost_engine::{DataDiskUse, DiskUse, Engine, GuestInfo, VmDetails, config::Config};
use qhost_model::{job::Task, printable};

use super::{RunError, ports, show};
use crate::{
    cli::Shared,
    exit::Exit,
    limits,
    outcome::Shown,
    run::{engine_under, named_are_there},
};

/// Opens an engine that knows which values are secret. If the configuration cannot be read, all values that may be secret are taken to be.
pub(super) fn engine(shared: &Shared) -> Result<Engine, RunError> {
    named_are_there(shared)?;
    let config = Config::load(shared.config.as_deref()).unwrap_or_else(|error| {
        tracing::warn!(%error, "the values of meta and args are not shown: what of them is secret is not known");
        let mut config = Config::default();
        config.decisions.mask_meta = vec!["*".into()];
        config.decisions.mask_args = vec!["*".into()];
        config
    });
    engine_under(shared, config)
}

/// What is known of a VM, and what its guest says of itself.
#[derive(Debug, Serialize)]
pub(in crate::run) struct Inspected {
    #[serde(flatten)]
    pub(in crate::run) details: VmDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::run) guest: Option<GuestInfo>,
}

pub(in crate::run) fn inspect(shared: &Shared, inspected: &Inspected) -> Result<Exit, RunError> {
    if shared.json {
        show::print(&show::json(inspected));
        return Ok(Exit::Done);
    }
    let Inspected { details, guest } = inspected;
    let VmDetails { vm, asked, decision, restart, disk, disks, supervisor_is_current } = details;
    let line = |text: &str| printable::line(text, limits::SHOWN_CAUSE_CHARS).to_string();
    let mut text = format!(
        "id         {}\ntask       {}\njob        {}\ntenant     {}\nstate      {}\n",
        vm.id,
        line(&vm.task),
        line(&vm.job),
        line(&vm.tenant),
        vm.status.state().name(),
    );
    for change in vm.status.changes() {
        let reason = change.reason.as_deref().map(line).unwrap_or_default();
        text += format!("           {:<9} {} {reason}", change.state.name(), change.at).trim_end();
        text += "\n";
    }
    if let Some(ready) = vm.status.ready_at {
        text += &format!("ready      {ready}\n");
    }
    if let Some(failed) = vm.status.boot_failed_at {
        text += &format!("boot       the firmware found no bootable device, {failed}\n");
    }
    if let Some(guest) = guest {
        text += &said_by(guest);
    }
    if let Some(restart) = restart {
        let so_far = match vm.status.restarts {
            0 => String::new(),
            count => format!("; {count} so far"),
        };
        text += &format!("restart    {restart}{so_far}\n");
    }
    if let Some(takes) = vm.takes.get() {
        let resources = takes.resources;
        text += &format!("takes      {} CPUs, {} MiB\n", resources.cpus, resources.memory_mib);
        if let Some(image) = takes.image() {
            text += &format!("image      sha256:{image}\n");
        }
        if let Some(task) = asked {
            text += &format!("           {}\n", line(&qhost_image::shown(&task.image.source)));
        }
        if let Some(DiskUse { bytes, used_bytes, max_bytes }) = disk {
            let used = used_bytes.map_or("no overlay".into(), |used| {
                format!("{} written, of {} at most", BinaryBytes(used), BinaryBytes(*max_bytes))
            });
            text += &format!("disk       {}; {used}\n", BinaryBytes(*bytes));
        }
        for disk in disks {
            let DataDiskUse { name, bytes, used_bytes, image, volume_path, read_only } = disk;
            let used = used_bytes.map(|used| format!("; {} stored", BinaryBytes(used)));
            let kind = match (volume_path, image) {
                (Some(_), _) => ", a volume".to_owned(),
                (None, Some(image)) => format!(", the image sha256:{image}"),
                (None, None) => String::new(),
            };
            let read_only = if *read_only { ", read-only" } else { "" };
            text += &format!(
                "           {name}{kind}{read_only}: {}{}\n",
                BinaryBytes(*bytes),
                used.unwrap_or_default()
            );
        }
        if let Some(cage) = &takes.cage {
            text += &format!("cage       {}\n", cage.summary());
        }
    }
    for port in ports(vm) {
        text += &format!("port       {port}\n");
    }
    if vm.held {
        let processes = [("supervisor", &vm.status.supervisor), ("qemu", &vm.status.qemu)];
        for (name, process) in processes {
            if let Some(process) = process {
                let older = if name == "supervisor" && *supervisor_is_current == Some(false) {
                    ", of another build than the installed qhost-supervisor"
                } else {
                    ""
                };
                text += &format!("{name:<10} process {}{older}\n", process.pid);
            }
        }
    }
    if let Some(Task { meta, .. }) = asked.as_ref().filter(|task| !task.meta.is_empty()) {
        let pairs: Vec<_> = meta.iter().map(|(key, value)| format!("{key}={value}")).collect();
        text += &format!("meta       {}\n", line(&pairs.join(" ")));
    }
    if let Some(decision) = decision {
        for (number, line) in Shown(decision).to_string().lines().enumerate() {
            let label = if number == 0 { "decision" } else { "" };
            text += &format!("{label:<10} {line}\n");
        }
    }
    text +=
        &format!("console    {}\nfolder     {}\n", vm.console_log().display(), vm.folder.display());
    show::tell(&text);
    Ok(Exit::Done)
}

/// Shows what the agent in a guest says.
fn said_by(guest: &GuestInfo) -> String {
    let GuestInfo { os, kernel, hostname, addresses, error } = guest;
    let mut lines = vec![];
    let system: Vec<_> = [hostname, os, kernel].into_iter().flatten().map(String::as_str).collect();
    if !system.is_empty() {
        lines.push(system.join(", "));
    }
    lines.extend(addresses.iter().map(|one| format!("{} {}", one.interface, one.address)));
    lines.extend(error.clone());
    let labelled = lines.iter().enumerate().map(|(number, line)| {
        let label = if number == 0 { "guest" } else { "" };
        let line = printable::line(line, limits::SHOWN_CAUSE_CHARS);
        format!("{label:<10} {line}\n")
    });
    labelled.collect()
}
