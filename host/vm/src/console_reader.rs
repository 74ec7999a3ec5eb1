//! Reading a VM's console log, through its rotations.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    num::ParseIntError,
    path::{Path, PathBuf},
    str::FromStr,
};

use jiff::Timestamp;

use qhost_sys::state;

use crate::limits;

/// The console's log.
pub(crate) const LOG: &str = "console.log";
/// The log before the last rotation.
pub(crate) const OLD_LOG: &str = "console.log.1";
/// The times at which parts of the log were written: lines of an offset and the milliseconds since 1970.
pub(crate) const TIMES: &str = "console.times";
/// The times of the log before the last rotation.
pub(crate) const OLD_TIMES: &str = "console.times.1";

/// Reads a console log from some time on, through its rotations.
pub struct Reader {
    vm: PathBuf,
    file: Option<File>,
    /// Whether the older file is still to be read, before the one that is being written.
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

/// How far a console log was read: the file, by when it was begun, and the bytes read of that file. It is written as `BEGAN-BYTES`, two
/// numbers.
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
    /// Reads from the beginning of what is kept, or from a time on, which is exact to the second and never later than asked for.
    pub fn new(vm: &Path, since: Option<Timestamp>) -> Self {
        Self::beginning(vm, since.map_or(Start::Beginning, Start::Time))
    }

    /// Reads from another reader's position. If what comes next is not kept any more, the reader begins with what is kept.
    pub fn after(vm: &Path, position: Position) -> Self {
        Self::beginning(vm, Start::Position(position))
    }

    fn beginning(vm: &Path, from: Start) -> Self {
        Self { vm: vm.to_owned(), file: None, old: true, from, at: Position::default() }
    }

    /// How far the log has been read.
    pub fn position(&self) -> Position {
        self.at
    }

    /// Reads the next bytes; none once all that is there has been read.
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
            // The rotation is looked for before the read, so that all that was written before the rotation is read.
            let rotated = self.has_rotated()?;
            let Some(file) = &mut self.file else { return Ok(0) };
            let read = file.read(buffer)?;
            if read > 0 {
                self.at.bytes += read as u64;
                return Ok(read);
            }
            if !std::mem::take(&mut self.old) && !rotated {
                return Ok(0);
            }
            // If the open file is not the older one any more, it was rotated away, and the file that came after it is the older one now.
            self.old = !self.is_at(OLD_LOG)?;
            self.file = None;
        }
    }

    fn has_rotated(&self) -> io::Result<bool> {
        let is_there = self.file.is_some() && !self.old && self.vm.join(LOG).exists();
        Ok(is_there && !self.is_at(LOG)?)
    }

    /// Whether a name is that of the file that is open.
    fn is_at(&self, name: &str) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        is_named(file, &self.vm.join(name))
    }

    fn open(&mut self, log: &str, times: &str) -> io::Result<Option<(File, Position)>> {
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
        // A log's first time is written before its first byte, so that an empty log may have none.
        if end == 0 {
            return Ok(None);
        }
        let (times, name_of_times) = (read(times), times);
        let bytes = match self.from {
            Start::Beginning => 0,
            Start::Time(since) => offset_at(&times, since.as_millisecond()).unwrap_or(end),
            Start::Position(from) if from.began == began(&times) => from.bytes,
            // The position is in the file that came after this one.
            Start::Position(from) if self.old && from.began == began(&read(TIMES)) => end,
            Start::Position(_) => 0,
        };
        let bytes = bytes.min(end);
        file.seek(SeekFrom::Start(bytes))?;
        // If the log was rotated after it was opened, the times are those of another log.
        if !is_named(&file, &self.vm.join(log))? {
            return self.open(log, name_of_times);
        }
        if !self.old {
            // Later files are read from their beginnings.
            self.from = Start::Beginning;
        }
        Ok(Some((file, Position { began: began(&times), bytes })))
    }
}

/// Whether a path leads to a file that is open.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let (named, open) = (fs::metadata(path).map(|named| named.ino()), file.metadata()?.ino());
    Ok(named.is_ok_and(|named| named == open))
}

/// The offset of what was written from a time on. All that was written within one second has one entry, so that the offset is that of an
/// entry up to one second earlier.
fn offset_at(times: &str, since: i64) -> Option<u64> {
    let second = i64::try_from(limits::CONSOLE_TIME.as_millis()).unwrap_or(i64::MAX);
    let mut later = entries(times).filter(|(_, at)| at.saturating_add(second) >= since);
    later.next().map(|(offset, _)| offset)
}

/// Offsets in a log, each with the time at which the log was written from there on, in milliseconds since 1970.
fn entries(times: &str) -> impl Iterator<Item = (u64, i64)> {
    times.lines().filter_map(|line| {
        let (offset, at) = line.split_once(' ')?;
        Some((offset.parse().ok()?, at.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
