//! The log of decisions on disk: for each tenant a folder `tenant-<name>` with `current.jsonl` and full files beside it, a JSON
//! record a line. A record is on disk before what it allows is done. Each tenant has its own bounds, so that none pushes
//! another's records out.

use std::{
    fs::{self, File, Metadata},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, tz::TimeZone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_model::{digest::Sha256, name::is_name};
use qhost_sys::state;

use super::Record;
use crate::limits;

/// Where decisions are recorded, and how much of them is kept.
#[derive(Debug, Clone)]
pub struct Journal {
    /// The log's folder.
    pub folder: PathBuf,
    /// The size of a tenant's file from which on a new one is begun, in bytes.
    pub max_bytes: u64,
    /// How many full files of a tenant are kept.
    pub files: usize,
    /// How long a file is kept after its last record.
    pub max_age: Duration,
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
    /// Appends a record, waits until it is on disk, and gives its id.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn append(&self, record: &Record) -> Result<Sha256, RecordError> {
        self.try_append(record)
            .map_err(|source| RecordError { folder: self.folder.clone(), source })
    }

    fn try_append(&self, record: &Record) -> io::Result<Sha256> {
        let mut line = record.line()?;
        let id = record_id(&line);
        let folder = self.folder.join(folder_of(&record.input.task.tenant)?);
        state::create_private(&folder)?;
        let lock = state::lock(&folder.join(LOCK))?;
        let current = folder.join(CURRENT);
        let mut begun = fs::metadata(&current).ok().filter(|file| file.len() > 0);
        if begun.as_ref().is_some_and(|file| self.is_full(file, line.len())) {
            self.rotate(&folder, &current)?;
            begun = None;
        }
        let options = &mut File::options();
        let mut file = options.create(true).append(true).read(true).mode(0o600).open(&current)?;
        if cut_short(&mut file)? {
            // The last line is of a process that was killed: its fragment stays, on a line of its own.
            line.insert(0, '\n');
        }
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        if begun.is_none() {
            File::open(&folder)?.sync_all()?;
            File::open(&self.folder)?.sync_all()?;
            drop(lock);
            self.sweep();
        }
        Ok(id)
    }

    /// Whether a file has no room for so many bytes more, or its first record is older than the age up to which records are
    /// kept.
    fn is_full(&self, file: &Metadata, more: usize) -> bool {
        let begun = file.created().or_else(|_| file.modified());
        file.len() + more as u64 > self.max_bytes || begun.is_ok_and(|begun| self.is_old(begun))
    }

    fn is_old(&self, time: SystemTime) -> bool {
        time.elapsed().is_ok_and(|age| age > self.max_age)
    }

    /// Sets the full file aside under the time at which it was full, and removes the oldest beyond those to keep.
    fn rotate(&self, folder: &Path, current: &Path) -> io::Result<()> {
        let now = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S.%6f");
        fs::rename(current, folder.join(format!("until-{now}Z.jsonl")))?;
        let mut full = files_in(folder)?;
        full.retain(|path| !path.ends_with(CURRENT));
        let surplus = full.len().saturating_sub(self.files);
        full.iter().take(surplus).try_for_each(fs::remove_file)
    }

    /// Removes files whose records are all older than the age up to which records are kept, of all tenants and of earlier
    /// versions. Where the sweep fails, the decision is recorded all the same.
    fn sweep(&self) {
        let folders = folders(&self.folder).unwrap_or_default();
        for folder in std::iter::once(self.folder.clone()).chain(folders) {
            if let Err(error) = self.sweep_folder(&folder) {
                let folder = folder.display();
                tracing::warn!(%folder, %error, "old decisions are not removed");
            }
        }
    }

    fn sweep_folder(&self, folder: &Path) -> io::Result<()> {
        // A folder in which another decision of the tenant is being recorded is swept another time, so that this decision does
        // not wait.
        let Some(_lock) = state::try_lock_named(&folder.join(LOCK))? else { return Ok(()) };
        for path in files_in(folder)? {
            // The file's last record is as old as the file's last change.
            if self.is_old(fs::metadata(&path)?.modified()?) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// A recorded decision.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Recorded {
    /// Its id.
    pub id: Sha256,
    /// The record.
    #[serde(flatten)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub record: Record,
}

/// The content of a log of decisions.
#[derive(Debug, Default)]
pub struct DecisionLog {
    /// The records, the latest first.
    pub records: Vec<Recorded>,
    /// How many lines are not records.
    pub unread: u64,
}

/// Reads those records of a log that are wanted; a log that does not exist is empty.
///
/// # Errors
/// The log cannot be read.
pub fn read_log(log: &Path, wanted: impl Fn(&Recorded) -> bool) -> io::Result<DecisionLog> {
    read_latest(log, usize::MAX, wanted)
}

/// Reads the latest of the records that are wanted, at most so many; no more than twice as many are in memory meanwhile.
///
/// # Errors
/// The log cannot be read.
pub fn read_latest(
    log: &Path,
    most: usize,
    wanted: impl Fn(&Recorded) -> bool,
) -> io::Result<DecisionLog> {
    let mut read = DecisionLog::default();
    let all = match lines(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(read),
        all => all?,
    };
    for line in all {
        let (_, _, text) = line?;
        match Record::parse(&text) {
            Ok(record) => {
                let one = Recorded { id: record_id(&text), record };
                if wanted(&one) {
                    read.records.push(one);
                }
                if read.records.len() >= most.saturating_mul(2) {
                    read.keep_latest(most);
                }
            }
            Err(_) => read.unread += 1,
        }
    }
    read.keep_latest(most);
    Ok(read)
}

impl DecisionLog {
    fn keep_latest(&mut self, most: usize) {
        self.records.sort_by_key(|one| std::cmp::Reverse(one.record.input.time));
        self.records.truncate(most);
    }
}

/// The id of a record: the digest of its line, without the line's end.
pub fn record_id(line: &str) -> Sha256 {
    Sha256::of(line.trim_end().as_bytes())
}

const LOCK: &str = ".lock";

/// The name of the folder of a tenant's decisions. A tenant may be called `..`, and no folder here is ever called that.
fn folder_of(tenant: &str) -> io::Result<String> {
    if is_name(tenant) {
        Ok(format!("{TENANT}{tenant}"))
    } else {
        Err(io::Error::other("its tenant has a name that no tenant can have"))
    }
}

const TENANT: &str = "tenant-";

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

/// The files of one folder, the oldest first: their names sort by time, and `current` sorts before `until`.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort_by_key(|path| (path.ends_with(CURRENT), path.clone()));
    Ok(files)
}

/// The tenants' folders of a log.
fn folders(log: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = vec![];
    for entry in fs::read_dir(log)? {
        let entry = entry?;
        let is_tenants = entry.file_name().to_string_lossy().starts_with(TENANT);
        if is_tenants && entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

/// All files of a log. An earlier version kept all tenants' files in one place; those are the oldest.
fn files(log: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = files_in(log)?;
    for folder in folders(log)? {
        files.extend(files_in(&folder)?);
    }
    Ok(files)
}

/// The lines of a log that was named as a file, as a tenant's folder, or as the folder of all tenants' folders.
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
