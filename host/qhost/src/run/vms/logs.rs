//! `qhost logs`.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _, Write as _, stdout},
};

use qhost_model::printable;
use qhost_sys::watch::FolderWatch;
use qhost_vm::{VmError, VmRecord};

use super::RunError;
use crate::{cli::LogsArgs, exit::Exit, limits};

/// Prints the console: to a pipe the bytes that the guest wrote, to a terminal only the text.
pub(super) async fn logs(vm: &VmRecord, args: &LogsArgs) -> Result<Exit, RunError> {
    let path = vm.console_log();
    let unreadable = |source| VmError::Folder { doing: "read", path: path.clone(), source };
    let mut console = vm.console(args.since.map(|since| since.0));
    let mut buffer = vec![0; qhost_image::limits::BLOCK_BYTES];
    let mut shown = Shown::of(args);
    // The watch is older than each read, so that it tells of bytes written after that.
    let mut watch = args.follow.then(|| FolderWatch::new([vm.folder.as_path()]));
    loop {
        // The VM's state is read first, so that the output before its end is read after that.
        let goes_on = vm.again().is_some_and(|vm| !vm.is_over());
        loop {
            let read = console.read(&mut buffer).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            // A closed pipe is the reader's choice and no error of ours.
            if shown.push(bytes).is_err() {
                return Ok(Exit::Done);
            }
        }
        if shown.caught_up().is_err() {
            return Ok(Exit::Done);
        }
        if !args.follow || !goes_on {
            shown.finish();
            return Ok(Exit::Done);
        }
        if let Some(watch) = &mut watch {
            watch.changed(limits::LOGS_LOOK).await;
        }
    }
}

/// The part of a console that reaches standard output.
pub(in crate::run) struct Shown {
    /// The last lines of the log so far, if only these are asked for.
    tail: Option<Tail>,
    /// The filter that keeps only text, on a terminal.
    text: Option<printable::Console>,
}

impl Shown {
    pub(in crate::run) fn of(args: &LogsArgs) -> Self {
        let text = (stdout().is_terminal() && !args.raw).then(printable::Console::default);
        Self { tail: args.tail.map(Tail::of), text }
    }

    /// Takes more of the console.
    pub(in crate::run) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tail {
            Some(tail) => {
                tail.push(bytes);
                Ok(())
            }
            None => self.tell(bytes),
        }
    }

    /// Prints the last lines, once the log so far was read.
    pub(in crate::run) fn caught_up(&mut self) -> io::Result<()> {
        self.tail.take().map_or(Ok(()), |tail| self.tell(&tail.lines()))
    }

    /// Ends the output.
    pub(in crate::run) fn finish(mut self) {
        let rest = self.text.as_mut().map(printable::Console::finish).unwrap_or_default();
        if let Err(error) = write(rest.as_bytes()) {
            tracing::debug!(%error, "the console's last bytes were not written");
        }
    }

    fn tell(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.text {
            Some(console) => write(console.push(bytes).as_bytes()),
            None => write(bytes),
        }
    }
}

/// The last lines of a text that is read.
struct Tail {
    most: usize,
    lines: VecDeque<Vec<u8>>,
    /// Whether the last line is complete.
    ended: bool,
}

impl Tail {
    fn of(most: usize) -> Self {
        Self { most, lines: VecDeque::new(), ended: true }
    }

    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match self.lines.back_mut().filter(|_| !self.ended) {
                Some(line) => line.extend_from_slice(piece),
                None => self.lines.push_back(piece.to_vec()),
            }
            self.ended = piece.ends_with(b"\n");
            if self.lines.len() > self.most {
                self.lines.pop_front();
            }
        }
    }

    fn lines(self) -> Vec<u8> {
        self.lines.into_iter().flatten().collect()
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    stdout().write_all(bytes).and_then(|()| stdout().flush())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_whatever_the_pieces() {
        for (text, most, rest) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 1, "c"),
            ("a\nb", 0, ""),
            ("", 3, ""),
            ("\n\n\n", 1, "\n"),
            ("a\nb\n", 5, "a\nb\n"),
        ] {
            for size in 1..4 {
                let mut tail = Tail::of(most);
                text.as_bytes().chunks(size).for_each(|piece| tail.push(piece));
                assert_eq!(
                    String::from_utf8(tail.lines()).unwrap(),
                    rest,
                    "{text:?} {most} {size}"
                );
            }
        }
    }
}
