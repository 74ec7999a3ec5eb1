//! `qhost volume …`: disks that outlive VMs.

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use qhost_engine::{Context, Volume, VolumeName};
use qhost_model::printable;

use super::{RunError, engine, images::ago, named_are_there, show, vms::actor};
use crate::{
    cli::{
        CopyVolumeArgs, CreateVolumeArgs, ListArgs, RemoveVolumesArgs, ResizeVolumeArgs, Shared,
        VolumeCommand,
    },
    exit::Exit,
    outcome::Shown,
};

pub(super) async fn volume(shared: &Shared, command: &VolumeCommand) -> Exit {
    let done = match command {
        VolumeCommand::Ls(args) => list(shared, args).await,
        VolumeCommand::Create(args) => create(shared, args).await,
        VolumeCommand::Resize(args) => resize(shared, args).await,
        VolumeCommand::Copy(args) => copy(shared, args).await,
        VolumeCommand::Rm(args) => remove(shared, args).await,
    };
    match done {
        Ok(()) => Exit::Done,
        Err(error) => {
            // The decision refused to have a guest frozen; JSON has it beside the error.
            if let Some(decision) = error.verdict().filter(|_| !shared.json) {
                show::say(Shown(decision).to_string().trim_end());
            }
            show::failure(shared, &error)
        }
    }
}

async fn list(shared: &Shared, args: &ListArgs) -> Result<(), RunError> {
    named_are_there(shared)?;
    let mut volumes = engine(shared)?.volumes().await?;
    volumes.retain(|one| args.of.includes(&one.of.tenant));
    listed(shared, args, &volumes);
    Ok(())
}

/// Prints a list of volumes.
pub(super) fn listed(shared: &Shared, args: &ListArgs, volumes: &[Volume]) {
    if args.quiet {
        show::print(&volumes.iter().map(|one| format!("{}\n", one.of)).collect::<String>());
        return;
    }
    if shared.json {
        show::print(&show::json(&json!({ "volumes": volumes })));
        return;
    }
    let mut rows =
        vec![["NAME", "TENANT", "SIZE", "STORED", "WRITTEN", "IN USE"].map(str::to_owned)];
    rows.extend(volumes.iter().map(|one| {
        let Volume { of, bytes, disk_usage, written_at, in_use, .. } = one;
        let VolumeName { tenant, name } = of;
        [
            name.clone(),
            printable::line(tenant, 40).to_string(),
            BinaryBytes(*bytes).to_string(),
            BinaryBytes(*disk_usage).to_string(),
            ago(*written_at),
            if *in_use { "yes" } else { "-" }.into(),
        ]
    }));
    show::print(&show::table(&rows));
}

async fn create(shared: &Shared, args: &CreateVolumeArgs) -> Result<(), RunError> {
    let of = args.of.volume(&args.name);
    tell(shared, "created", &engine(shared)?.create_volume(of, args.size).await?);
    Ok(())
}

async fn resize(shared: &Shared, args: &ResizeVolumeArgs) -> Result<(), RunError> {
    let of = args.of.volume(&args.name);
    tell(shared, "resized", &engine(shared)?.resize_volume(of, args.size).await?);
    Ok(())
}

async fn copy(shared: &Shared, args: &CopyVolumeArgs) -> Result<(), RunError> {
    let engine = engine(shared)?;
    let from = args.of.volume(&args.from);
    let bytes = engine.volumes().await?.into_iter().find(|one| one.of == from);
    let bar = progress(shared, bytes.map_or(0, |one| one.bytes));
    let copied = {
        let bar = bar.clone();
        let report = move |done| bar.set_position(done);
        let context = Context::default();
        engine.copy_volume(from, args.to.clone(), actor(None), &context, report).await
    };
    bar.finish_and_clear();
    tell(shared, "copied", &copied?);
    Ok(())
}

/// The progress bar of a copy, on a terminal.
fn progress(shared: &Shared, bytes: u64) -> ProgressBar {
    if !show::on_terminal(shared) {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("copying    {binary_bytes} of {binary_total_bytes} {bar:20}");
    let bar = ProgressBar::new(bytes);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

async fn remove(shared: &Shared, args: &RemoveVolumesArgs) -> Result<(), RunError> {
    let engine = engine(shared)?;
    let mut removed = vec![];
    let mut failed = None;
    for of in args.names.iter().map(|name| args.of.volume(name)) {
        match engine.remove_volume(of.clone()).await {
            Ok(()) => removed.push(of),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    tell_removed(shared, &removed);
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Says which volumes were removed.
pub(super) fn tell_removed(shared: &Shared, removed: &[VolumeName]) {
    if shared.json {
        show::print(&show::json(&json!({ "removed": removed })));
    } else {
        show::print(&removed.iter().map(|of| format!("removed    {of}\n")).collect::<String>());
    }
}

/// Says what was done to a volume.
pub(super) fn tell(shared: &Shared, done: &str, volume: &Volume) {
    if shared.json {
        show::print(&show::json(volume));
    } else {
        show::print(&format!("{done:<10} {}, {}\n", volume.of, BinaryBytes(volume.bytes)));
    }
}
