//! `qhost screenshot`: a picture of a guest's display.

use std::{
    io::{self, IsTerminal as _, Write as _, stdout},
    path::Path,
};

use serde_json::json;

use qhost_engine::{Context, Engine};
use qhost_policy::Operation;
use qhost_sys::state::write_new;

use super::{RunError, actor, show};
use crate::{
    cli::{ScreenshotArgs, Shared},
    exit::Exit,
};

/// Standard output, as a file's name.
const STDOUT: &str = "-";

pub(super) async fn screenshot(
    shared: &Shared,
    args: &ScreenshotArgs,
    engine: &Engine,
) -> Result<Exit, RunError> {
    may_be_written(shared, args)?;
    let vm = engine.live_vm(&args.which.name()).await?;
    let actor = actor(args.which.of.tenant.clone());
    vm.permit(Operation::Screenshot, actor.clone(), &Context::default()).await?;
    vm.note_request("screenshot", &actor).await;
    write(shared, args, vm.id(), &vm.screenshot().await?)
}

fn is_stdout(args: &ScreenshotArgs) -> bool {
    args.output == Path::new(STDOUT)
}

/// Checks that the picture can be written before it is taken.
pub(in crate::run) fn may_be_written(
    shared: &Shared,
    args: &ScreenshotArgs,
) -> Result<(), RunError> {
    if is_stdout(args) && (shared.json || stdout().is_terminal()) {
        return Err(RunError::Usage(
            "a picture cannot be written to a terminal, or to standard output with --json; name a file: --output FILE".into(),
        ));
    }
    Ok(())
}

/// Writes the picture of a VM's display.
pub(in crate::run) fn write(
    shared: &Shared,
    args: &ScreenshotArgs,
    vm: &str,
    png: &[u8],
) -> Result<Exit, RunError> {
    let to_stdout = is_stdout(args);
    let written =
        if to_stdout { stdout().write_all(png) } else { write_new(&args.output, png, 0o666) };
    let failed = |error: io::Error| {
        RunError::Usage(format!("cannot write {}: {error}", args.output.display()))
    };
    written.map_err(failed)?;
    if shared.json {
        show::print(&show::json(
            &json!({ "screenshot": { "vm": vm, "file": args.output, "bytes": png.len() } }),
        ));
    } else if !to_stdout {
        show::print(&format!("written    {}, {} bytes\n", args.output.display(), png.len()));
    }
    Ok(Exit::Done)
}
