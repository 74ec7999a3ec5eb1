//! What a guest writes to its serial console. The text is kept in a log that rotates, since a log without a limit fills the disk, and sent
//! to the clients that are attached. The console is read whatever happens, since a console that is not read stops the guest.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::broadcast,
};

use qhost_model::printable;
use qhost_sys::state;

use super::token_bucket::TokenBucket;
use crate::{
    console_reader::{LOG, OLD_LOG, OLD_TIMES, TIMES},
    limits,
};

/// A VM's console log.
pub(super) fn log(vm: &Path) -> PathBuf {
    vm.join(LOG)
}

/// The log's writer. A log that cannot be written is given up until it rotates, with a warning.
pub(super) struct Log {
    folder: PathBuf,
    files: Option<(File, File)>,
    written: u64,
    entries: u64,
    noted: Option<Instant>,
}

impl Log {
    /// Opens the log, to append to it.
    pub(super) fn open(vm: &Path) -> Self {
        let mut log =
            Self { folder: vm.to_owned(), files: None, written: 0, entries: 0, noted: None };
        log.begin();
        log
    }

    fn begin(&mut self) {
        let open = |name| state::open_to_append(&self.folder.join(name));
        let opened = open(LOG).and_then(|log| Ok((log.metadata()?.len(), log, open(TIMES)?)));
        (self.written, self.entries, self.noted) = (0, 0, None);
        self.files = match opened {
            Ok((written, log, times)) => {
                self.written = written;
                Some((log, times))
            }
            Err(error) => {
                tracing::warn!(%error, "the console log cannot be opened; the console is not kept");
                None
            }
        };
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.written >= limits::CONSOLE_LOG_BYTES || self.entries >= limits::CONSOLE_TIMES {
            self.rotate();
        }
        self.written += bytes.len() as u64;
        if let Err(error) = self.try_write(bytes) {
            tracing::warn!(%error, "the console log cannot be written; it is not kept until it rotates");
            self.files = None;
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((log, times)) = &mut self.files else { return Ok(()) };
        if self.noted.is_none_or(|noted| noted.elapsed() > limits::CONSOLE_TIME) {
            self.noted = Some(Instant::now());
            self.entries += 1;
            let offset = self.written - bytes.len() as u64;
            times.write_all(
                format!("{offset} {}\n", Timestamp::now().as_millisecond()).as_bytes(),
            )?;
        }
        log.write_all(bytes)
    }

    fn rotate(&mut self) {
        self.files = None;
        for (name, old) in [(LOG, OLD_LOG), (TIMES, OLD_TIMES)] {
            let renamed = fs::rename(self.folder.join(name), self.folder.join(old));
            if let Err(error) = renamed {
                tracing::warn!(%error, name, "the console log cannot be rotated");
            }
        }
        self.begin();
    }
}

/// The console of one QEMU: copied until QEMU's end into the log and to attached clients, and fed with what they type.
pub(super) async fn run(
    mut console: UnixStream,
    mut log: Log,
    listeners: broadcast::Sender<Bytes>,
    mut typed: broadcast::Receiver<Bytes>,
) {
    let (mut reader, mut writer) = console.split();
    let mut buffer = [0; limits::CONSOLE_READ_BYTES];
    let mut bucket = TokenBucket::new(limits::CONSOLE_RATE);
    let mut read_at = tokio::time::Instant::now();
    loop {
        tokio::select! {
            // A guest that writes faster waits, as it would for any serial port.
            read = async { tokio::time::sleep_until(read_at).await; reader.read(&mut buffer).await } => match read {
                Ok(read @ 1..) => {
                    let bytes = buffer.get(..read).unwrap_or_default();
                    read_at = tokio::time::Instant::now() + bucket.take(read as u64);
                    log.write(bytes);
                    // It is no error if no client is attached.
                    if listeners.receiver_count() > 0 && listeners.send(Bytes::copy_from_slice(bytes)).is_err() {
                        tracing::debug!("none is attached any more");
                    }
                }
                Ok(0) | Err(_) => return,
            },
            Ok(bytes) = typed.recv() => {
                // A guest that does not read what is typed must not keep its own output from being read.
                let write = tokio::time::timeout(limits::CONSOLE_TYPED, writer.write_all(&bytes));
                if !matches!(write.await, Ok(Ok(()))) {
                    tracing::debug!("the guest does not take what is typed");
                }
            }
        }
    }
}

/// Keeps the first bytes of a stream and reads the rest.
pub(super) async fn keep_first(mut stream: impl AsyncRead + Unpin, most: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let room = most.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    kept
}

/// The end of a console log, for the summary of a VM that failed.
pub fn tail(vm: &Path) -> String {
    use std::io::{Seek as _, SeekFrom};
    let read = || -> io::Result<Vec<u8>> {
        let mut file = state::open_plain(File::options().read(true), &log(vm))?;
        let most = limits::CONSOLE_TAIL_BYTES as u64;
        file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(most)))?;
        let mut bytes = vec![];
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    text_of(&read().unwrap_or_default())
}

/// The text in a console's bytes.
pub fn text_of(bytes: &[u8]) -> String {
    let mut console = printable::Console::default();
    let text = console.push(bytes) + &console.finish();
    text.trim().to_owned()
}

/// Waits until a console writes one of these texts, and for ever if the console ends without one.
pub(super) async fn says(mut said: broadcast::Receiver<Bytes>, texts: &[&str]) {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
    let mut last: Vec<u8> = vec![];
    loop {
        match said.recv().await {
            Ok(bytes) => {
                last.extend_from_slice(&bytes);
                let has = |text: &&str| {
                    last.windows(text.len().max(1)).any(|window| window == text.as_bytes())
                };
                if texts.iter().any(has) {
                    return;
                }
                last.drain(..last.len().saturating_sub(longest));
            }
            Err(broadcast::error::RecvError::Lagged(_)) => last.clear(),
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console_reader::{Position, Reader};

    fn all(reader: &mut Reader) -> Vec<u8> {
        let (mut all, mut buffer) = (vec![], [0; 4096]);
        while let read @ 1.. = reader.read(&mut buffer).unwrap() {
            all.extend_from_slice(&buffer[..read]);
        }
        all
    }

    #[test]
    fn a_flood_is_kept_up_to_a_limit_and_read_through_rotations() {
        let vm = tempfile::tempdir().unwrap();
        let mut log = Log::open(vm.path());
        let mut reader = Reader::new(vm.path(), None);
        let block = vec![b'x'; 1 << 20];
        let mut read = 0;
        for _ in 0..40 {
            log.write(&block);
            read += all(&mut reader).len();
        }
        log.write(b"the end");
        read += all(&mut reader).len();
        assert_eq!(read, (40 << 20) + 7, "a reader that keeps up misses nothing");
        let kept = all(&mut Reader::new(vm.path(), None));
        assert!(kept.len() as u64 <= 2 * limits::CONSOLE_LOG_BYTES + (2 << 20), "{}", kept.len());
        assert!(kept.ends_with(b"the end") && tail(vm.path()).ends_with("the end"));
        // The next writer appends to the log, as after an adoption.
        drop(log);
        Log::open(vm.path()).write(b" and more");
        assert_eq!(all(&mut reader), b" and more");
    }

    #[test]
    fn a_reader_goes_on_where_another_was() {
        let vm = tempfile::tempdir().unwrap();
        let mut log = Log::open(vm.path());
        let (mut whole, mut pieces) = (Reader::new(vm.path(), None), vec![]);
        let mut position = Position::default();
        // This reader looked before the first byte came.
        let mut early = Reader::new(vm.path(), None);
        assert!(all(&mut early).is_empty());
        for number in 0..30_u32 {
            log.write(&vec![u8::try_from(number).unwrap(); 1 << 20]);
            let shown: Position = position.to_string().parse().unwrap();
            assert_eq!(shown, position);
            let mut next = Reader::after(vm.path(), position);
            pieces.extend(all(&mut next));
            position = next.position();
            if number == 0 {
                assert_eq!(all(&mut early).len(), 1 << 20);
                assert_eq!(early.position(), position);
            }
        }
        // The bytes that are still kept were read once, through the rotations between.
        let read = all(&mut whole);
        assert!(pieces.len() == 30 << 20 && pieces.ends_with(&read), "{}", pieces.len());
        // A reader whose position is not kept any more reads from the beginning of what is kept.
        let gone: Position = "1-7".parse().unwrap();
        assert_eq!(all(&mut Reader::after(vm.path(), gone)), read);
        for text in ["", "1", "x-1", "1-x", "-"] {
            text.parse::<Position>().unwrap_err();
        }
    }

    #[test]
    fn a_slow_reader_reads_what_is_kept() {
        let vm = tempfile::tempdir().unwrap();
        let mut log = Log::open(vm.path());
        log.write(b"first");
        let mut slow = Reader::new(vm.path(), None);
        assert_eq!(all(&mut slow), b"first");
        // After three rotations the slow reader reads the rest of the file that it has open, and then all that is kept.
        let most = usize::try_from(limits::CONSOLE_LOG_BYTES).unwrap();
        for byte in *b"abcd" {
            log.write(&vec![byte; most]);
        }
        let (read, kept) = (all(&mut slow), all(&mut Reader::new(vm.path(), None)));
        assert!(read.starts_with(b"a") && read.len() == 3 * most, "{}", read.len());
        assert!(read.ends_with(&kept) && kept.len() == 2 * most, "{}", kept.len());
    }

    #[tokio::test]
    async fn the_first_bytes_are_kept() {
        let flood = vec![b'e'; 1 << 20];
        assert_eq!(keep_first(flood.as_slice(), 10).await, b"eeeeeeeeee");
    }
}
