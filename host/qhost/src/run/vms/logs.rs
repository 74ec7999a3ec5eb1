//! `qhost logs`.

use std::io::{self, IsTerminal as _, Write as _, stdout};

use qhost_model::printable;
use qhost_sys::watch::FolderWatch;
use qhost_vm::{Reader, VmError, VmRecord};

use super::RunError;
use crate::{cli::LogsArgs, limits, outcome::Exit};

/// The console: in a pipe the bytes that the guest wrote, on a terminal what of them is text.
pub(super) async fn logs(vm: &VmRecord, args: &LogsArgs) -> Result<Exit, RunError> {
    let path = vm.console_log();
    let unreadable = |source| VmError::Folder { doing: "read", path: path.clone(), source };
    let since = args.since.map(|since| since.0);
    let mut buffer = vec![0; qhost_image::limits::BLOCK_BYTES];
    let mut skipping = match args.tail {
        Some(tail) => {
            let lines = lines(vm.console(since), &mut buffer).map_err(unreadable)?;
            lines.saturating_sub(tail)
        }
        None => 0,
    };
    let mut console = vm.console(since);
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
            let bytes = after_lines(buffer.get(..read).unwrap_or_default(), &mut skipping);
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

/// How many lines a console has, the last one included whether or not it has ended.
fn lines(mut console: Reader, buffer: &mut [u8]) -> io::Result<usize> {
    let (mut ends, mut last) = (0, b'\n');
    loop {
        let read = console.read(buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        let Some(end) = bytes.last() else { break };
        ends += bytes.iter().filter(|byte| **byte == b'\n').count();
        last = *end;
    }
    Ok(ends + usize::from(last != b'\n'))
}

/// What follows so many line ends; those that are in these bytes are taken off the number.
fn after_lines<'a>(bytes: &'a [u8], skipping: &mut usize) -> &'a [u8] {
    let mut rest = bytes;
    while *skipping > 0 {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return &[] };
        rest = rest.get(end + 1..).unwrap_or_default();
        *skipping -= 1;
    }
    rest
}

fn write(bytes: &[u8]) -> io::Result<()> {
    stdout().write_all(bytes).and_then(|()| stdout().flush())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_whatever_the_pieces() {
        for (text, lines_of, skip, rest) in [
            ("a\nb\nc\n", 3, 1, "b\nc\n"),
            ("a\nb\nc", 3, 2, "c"),
            ("a\nb", 2, 2, ""),
            ("", 0, 0, ""),
            ("\n\n\n", 3, 2, "\n"),
        ] {
            let vm = tempfile::tempdir().unwrap();
            std::fs::write(qhost_vm::console_log(vm.path()), text).unwrap();
            let console = Reader::new(vm.path(), None);
            assert_eq!(lines(console, &mut [0; 2]).unwrap(), lines_of, "{text:?}");
            let mut skipping = skip;
            let pieces = text.as_bytes().chunks(2);
            let kept: Vec<u8> =
                pieces.flat_map(|piece| after_lines(piece, &mut skipping).to_vec()).collect();
            assert_eq!(String::from_utf8(kept).unwrap(), rest, "{text:?}");
        }
    }
}
