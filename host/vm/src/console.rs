//! What a guest says on its serial console: kept in a log that rotates, told to those who are attached, and read whatever
//! happens: a console that is not read stops the guest, and a log without a limit fills the disk.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    num::ParseIntError,
    path::{Path, PathBuf},
    str::FromStr,
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
use crate::limits;

const LOG: &str = "console.log";
/// The log before the last rotation.
const OLD_LOG: &str = "console.log.1";
/// When which part of the log was written: lines of an offset and the milliseconds since 1970.
const TIMES: &str = "console.times";
const OLD_TIMES: &str = "console.times.1";

/// A VM's console log.
pub(super) fn log(vm: &Path) -> PathBuf {
    vm.join(LOG)
}

/// The log, as it is written. One that cannot be written is given up until it rotates, with a warning.
pub(super) struct Log {
    folder: PathBuf,
    files: Option<(File, File)>,
    written: u64,
    entries: u64,
    noted: Option<Instant>,
}

impl Log {
    /// Goes on where the log ends.
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

/// The console of one QEMU: copied until its end into the log and to those who are attached, and fed with what is typed.
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
            // A guest that says more waits, as it would for any serial port.
            read = async { tokio::time::sleep_until(read_at).await; reader.read(&mut buffer).await } => match read {
                Ok(read @ 1..) => {
                    let bytes = buffer.get(..read).unwrap_or_default();
                    read_at = tokio::time::Instant::now() + bucket.take(read as u64);
                    log.write(bytes);
                    // None need be attached.
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

/// Reads a console log from some time on, through its rotations.
pub struct Reader {
    vm: PathBuf,
    file: Option<File>,
    /// The files to read before the one that is being written.
    old: bool,
    from: Start,
    at: Position,
}

/// Where a reader begins.
#[derive(Clone, Copy)]
enum Start {
    Beginning,
    Time(Timestamp),
    Position(Position),
}

/// How far a console log was read: in which of its files, and how many bytes of that. Written as `BEGAN-BYTES`, numbers both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// When the file was begun, in milliseconds since 1970.
    began: i64,
    bytes: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.began, self.bytes)
    }
}

impl FromStr for Position {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (began, bytes) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { began: began.parse()?, bytes: bytes.parse()? })
    }
}

impl Reader {
    /// From the beginning of what is kept, or from a time on: to the second, and never later than asked.
    pub fn new(vm: &Path, since: Option<Timestamp>) -> Self {
        Self::beginning(vm, since.map_or(Start::Beginning, Start::Time))
    }

    /// From where another reader was. Where what came next is not kept any more, from the beginning of what is.
    pub fn after(vm: &Path, position: Position) -> Self {
        Self::beginning(vm, Start::Position(position))
    }

    fn beginning(vm: &Path, from: Start) -> Self {
        Self { vm: vm.to_owned(), file: None, old: true, from, at: Position::default() }
    }

    /// How far it has read.
    pub fn position(&self) -> Position {
        self.at
    }

    /// The next bytes; none where all that is there has been read.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.file.is_none() {
                let (log, times) = if self.old { (OLD_LOG, OLD_TIMES) } else { (LOG, TIMES) };
                (self.file, self.at) = match self.open(log, times)? {
                    Some((file, at)) => (Some(file), at),
                    None => (None, self.at),
                };
                if self.file.is_none() {
                    if std::mem::take(&mut self.old) { continue } else { return Ok(0) }
                }
            }
            // Asked first: what was written before the log was rotated is read after that.
            let rotated = self.has_rotated()?;
            let Some(file) = &mut self.file else { return Ok(0) };
            let read = file.read(buffer)?;
            if read > 0 {
                self.at.bytes += read as u64;
                return Ok(read);
            }
            if std::mem::take(&mut self.old) || rotated { self.file = None } else { return Ok(0) }
        }
    }

    fn has_rotated(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let Some(file) = &self.file else { return Ok(false) };
        let named = fs::metadata(self.vm.join(LOG));
        Ok(named.is_ok_and(|named| file.metadata().is_ok_and(|file| file.ino() != named.ino())))
    }

    fn open(&self, log: &str, times: &str) -> io::Result<Option<(File, Position)>> {
        use std::io::{Seek as _, SeekFrom};
        let mut file = match state::open_plain(File::options().read(true), &self.vm.join(log)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let read = |times: &str| {
            let times = state::read(&self.vm.join(times)).unwrap_or_default();
            String::from_utf8_lossy(&times).into_owned()
        };
        let began = |times: &str| entries(times).next().map_or(0, |(_, at)| at);
        let end = file.metadata()?.len();
        // When it was begun is written down before its first byte.
        if end == 0 {
            return Ok(None);
        }
        let times = read(times);
        let bytes = match self.from {
            Start::Beginning => 0,
            Start::Time(since) => offset_at(&times, since.as_millisecond()).unwrap_or(end),
            Start::Position(from) if from.began == began(&times) => from.bytes,
            // The file that came after this one has it.
            Start::Position(from) if self.old && from.began == began(&read(TIMES)) => end,
            Start::Position(_) => 0,
        };
        let bytes = bytes.min(end);
        file.seek(SeekFrom::Start(bytes))?;
        Ok(Some((file, Position { began: began(&times), bytes })))
    }
}

/// Where the part begins that was written from a time on. What came within one second has one entry, so it begins with the
/// entry before.
fn offset_at(times: &str, since: i64) -> Option<u64> {
    let second = i64::try_from(limits::CONSOLE_TIME.as_millis()).unwrap_or(i64::MAX);
    let mut later = entries(times).filter(|(_, at)| at.saturating_add(second) >= since);
    later.next().map(|(offset, _)| offset)
}

/// Offsets in a log with the milliseconds since 1970 at which it was written from there on.
fn entries(times: &str) -> impl Iterator<Item = (u64, i64)> {
    times.lines().filter_map(|line| {
        let (offset, at) = line.split_once(' ')?;
        Some((offset.parse().ok()?, at.parse().ok()?))
    })
}

/// The last of what a log has, for the summary of a VM that failed.
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
    let mut console = printable::Console::default();
    let text = console.push(&read().unwrap_or_default()) + &console.finish();
    text.trim().to_owned()
}

/// Waits for the next piece of a console that has one of these texts; the end of the console is waited for for ever.
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
        // One that goes on, as after an adoption.
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
        // One that looked before the first byte came.
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
        // What was kept all along was read once, through the rotations between.
        let read = all(&mut whole);
        assert!(pieces.len() == 30 << 20 && pieces.ends_with(&read), "{}", pieces.len());
        // What was read is not kept any more: from the beginning of what is.
        let gone: Position = "1-7".parse().unwrap();
        assert_eq!(all(&mut Reader::after(vm.path(), gone)), read);
        for text in ["", "1", "x-1", "1-x", "-"] {
            text.parse::<Position>().unwrap_err();
        }
    }

    #[test]
    fn from_a_time_on() {
        let times = "0 1000\n10 2000\n20 5000\n";
        for (since, offset) in
            [(0, Some(0)), (2500, Some(10)), (3001, Some(20)), (6000, Some(20)), (6001, None)]
        {
            assert_eq!(offset_at(times, since), offset, "{since}");
        }
        assert_eq!(offset_at("garbage\n1\n", 0), None);
    }

    #[tokio::test]
    async fn the_first_bytes_are_kept() {
        let flood = vec![b'e'; 1 << 20];
        assert_eq!(keep_first(flood.as_slice(), 10).await, b"eeeeeeeeee");
    }
}
