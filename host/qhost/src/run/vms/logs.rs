//! `qhost logs`.

use std::io::{self, IsTerminal as _, Write as _, stdout};

use qhost_model::printable;
use qhost_sys::watch::FolderWatch;
use qhost_vm::{VmError, VmRecord};

use super::RunError;
use crate::{cli::LogsArgs, limits, outcome::Exit};

/// The console: in a pipe the bytes that the guest wrote, on a terminal what of them is text.
pub(super) async fn logs(vm: &VmRecord, args: &LogsArgs) -> Result<Exit, RunError> {
    let path = vm.console_log();
    let unreadable = |source| VmError::Folder { doing: "read", path: path.clone(), source };
    let mut console = vm.console(args.since.map(|since| since.0));
    let mut buffer = vec![0; qhost_image::limits::BLOCK_BYTES];
    let mut shown = (stdout().is_terminal() && !args.raw).then(printable::Console::default);
    loop {
        // The watch is older than the read, so that it tells of what is written after that.
        let mut watch = args.follow.then(|| FolderWatch::new([vm.folder.as_path()]));
        // Asked first, so that what was written before the end is read after it.
        let goes_on = vm.again().is_some_and(|vm| !vm.is_over());
        loop {
            let read = console.read(&mut buffer).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            let written = match &mut shown {
                Some(console) => write(console.push(bytes).as_bytes()),
                None => write(bytes),
            };
            // A closed pipe is the reader's choice and no error of ours.
            if written.is_err() {
                return Ok(Exit::Done);
            }
        }
        if !args.follow || !goes_on {
            let rest = shown.as_mut().map(printable::Console::finish).unwrap_or_default();
            if let Err(error) = write(rest.as_bytes()) {
                tracing::debug!(%error, "the console's last bytes were not written");
            }
            return Ok(Exit::Done);
        }
        if let Some(watch) = &mut watch {
            watch.changed(limits::LOGS_LOOK).await;
        }
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    stdout().write_all(bytes).and_then(|()| stdout().flush())
}
