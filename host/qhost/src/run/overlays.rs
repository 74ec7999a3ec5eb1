//! `qhost overlay …`: the overlays that tasks keep of their guests' writes.

use indicatif::BinaryBytes;
use serde_json::json;

use qhost_engine::overlays::{self, Kept};
use qhost_model::printable;

use super::{RunError, named_are_there, show, state_dir};
use crate::{
    cli::{ListArgs, OverlayCommand, RemoveOverlayArgs, Shared},
    exit::Exit,
};

pub(super) fn overlay(shared: &Shared, command: &OverlayCommand) -> Exit {
    let done = match command {
        OverlayCommand::Ls(args) => list(shared, args),
        OverlayCommand::Rm(args) => remove(shared, args),
    };
    match done {
        Ok(()) => Exit::Done,
        Err(error) => show::failure(shared, &error),
    }
}

fn list(shared: &Shared, args: &ListArgs) -> Result<(), RunError> {
    named_are_there(shared)?;
    let mut kept = overlays::kept(&state_dir(shared)?)?;
    kept.retain(|one| args.of.includes(&one.of.tenant));
    if args.quiet {
        show::print(&kept.iter().map(|one| format!("{}\n", one.name)).collect::<String>());
        return Ok(());
    }
    if shared.json {
        show::print(&show::json(&json!({ "overlays": kept })));
        return Ok(());
    }
    let header = ["NAME", "TENANT", "JOB", "TASK", "STORED", "WRITTEN", "IMAGE", "IN USE"];
    let mut rows = vec![header.map(str::to_owned)];
    let text = |text: &str| printable::line(text, 40).to_string();
    rows.extend(kept.iter().map(|one| {
        let Kept { name, of, disk_usage, written_at, in_use } = one;
        let image = of.image.map_or("-".into(), super::images::short);
        let in_use = if *in_use { "yes" } else { "-" };
        [
            name.clone(),
            text(&of.tenant),
            text(&of.job),
            text(&of.task),
            BinaryBytes(*disk_usage).to_string(),
            super::images::ago(*written_at),
            image,
            in_use.into(),
        ]
    }));
    show::print(&show::table(&rows));
    Ok(())
}

fn remove(shared: &Shared, args: &RemoveOverlayArgs) -> Result<(), RunError> {
    let state = state_dir(shared)?;
    for name in &args.names {
        overlays::remove(&state, name)?;
        if !shared.json {
            show::print(&format!("removed    {name}\n"));
        }
    }
    if shared.json {
        show::print(&show::json(&json!({ "removed": args.names })));
    }
    Ok(())
}
