//! The log of decisions on disk: `current.jsonl` and full files beside it, a JSON record a line. A record is on disk
//! before what it allows is done.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};

use super::Record;
use crate::{limits, state};

/// Where decisions are recorded, and how much of them is kept.
#[derive(Debug, Clone)]
pub struct Journal {
    /// The folder.
    pub folder: PathBuf,
    /// The size of a file from which on a new one is begun, in bytes.
    pub max_bytes: u64,
    /// How many full files are kept.
    pub files: usize,
}

/// A decision could not be recorded, so it must not be acted upon.
#[derive(Debug, thiserror::Error)]
#[error("the decision cannot be recorded in {}, so nothing is launched", folder.display())]
pub struct RecordError {
    folder: PathBuf,
    source: io::Error,
}

const CURRENT: &str = "current.jsonl";

impl Journal {
    /// Appends a record and waits until it is on disk.
    pub fn append(&self, record: &Record) -> Result<(), RecordError> {
        self.try_append(record)
            .map_err(|source| RecordError { folder: self.folder.clone(), source })
    }

    fn try_append(&self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        state::create_private(&self.folder)?;
        let _lock = state::lock(&self.folder.join(".lock"))?;
        let current = self.folder.join(CURRENT);
        let begun = fs::metadata(&current).map_or(0, |file| file.len());
        if begun > 0 && begun + line.len() as u64 > self.max_bytes {
            self.rotate(&current)?;
        }
        let options = &mut File::options();
        let mut file = options.create(true).append(true).read(true).mode(0o600).open(&current)?;
        if cut_short(&mut file)? {
            // Of a process that was killed: what it left is kept, on a line of its own.
            line.insert(0, '\n');
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        match begun {
            0 => File::open(&self.folder)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// Sets the full file aside under the time at which it was full, and removes the oldest beyond those to keep.
    fn rotate(&self, current: &Path) -> io::Result<()> {
        let now = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S.%6f");
        fs::rename(current, self.folder.join(format!("until-{now}Z.jsonl")))?;
        let mut full = files(&self.folder)?;
        full.retain(|path| !path.ends_with(CURRENT));
        let surplus = full.len().saturating_sub(self.files);
        full.iter().take(surplus).try_for_each(fs::remove_file)
    }
}

/// Whether the last line of a file has no end.
fn cut_short(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// The files of a log, the oldest first. Their names sort by time, and `current` before `until`.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort_by_key(|path| (path.ends_with(CURRENT), path.clone()));
    Ok(files)
}

/// The lines of a log that was named: a file, or the folder with all its files.
pub struct Lines {
    files: std::vec::IntoIter<PathBuf>,
    open: Option<(PathBuf, BufReader<File>, usize)>,
}

/// Opens a log to read.
pub fn lines(log: &Path) -> io::Result<Lines> {
    let files = if fs::metadata(log)?.is_dir() { files(log)? } else { vec![log.to_owned()] };
    Ok(Lines { files: files.into_iter(), open: None })
}

/// A line of a log, and where it stands: the file and the line's number from 1.
type Line = (PathBuf, usize, String);

impl Iterator for Lines {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, reader, number) = match &mut self.open {
                Some(open) => (&open.0, &mut open.1, &mut open.2),
                None => {
                    let path = self.files.next()?;
                    match File::open(&path) {
                        Ok(file) => self.open = Some((path, BufReader::new(file), 0)),
                        Err(error) => return Some(Err(error)),
                    }
                    continue;
                }
            };
            let mut line = vec![];
            let read = reader.take(limits::DECISION_RECORD_BYTES).read_until(b'\n', &mut line);
            *number += 1;
            match read {
                Ok(0) => self.open = None,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if !text.is_empty() {
                        return Some(Ok((path.clone(), *number, text)));
                    }
                }
                Err(error) => {
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}
