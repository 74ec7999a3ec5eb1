//! The operator's tables. A table is read when the first policy asks for it, and a copy is kept by digest for as long as decisions are, so
//! that a decision can be made again with the same table.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use qhost_model::digest::Sha256;
use qhost_policy::Table;
use qhost_sys::{
    state::{self, StateDir},
    trusted,
};

use crate::limits;

/// The tables that a configuration names; those that were asked for are loaded.
pub(crate) struct DataTables {
    files: BTreeMap<String, PathBuf>,
    kept: KeptTables,
    loaded: Mutex<BTreeMap<String, Arc<Table>>>,
}

impl DataTables {
    pub(crate) fn new(files: BTreeMap<String, PathBuf>, kept: KeptTables) -> Self {
        Self { files, kept, loaded: Mutex::default() }
    }

    fn loaded(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Table>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the copies of loaded tables as used now: a service may use a table for longer than other processes keep unused copies.
    pub(crate) fn mark_used(&self) {
        for (name, table) in &*self.loaded() {
            if let Err(error) = self.kept.mark_used(table.sha256()) {
                tracing::warn!(name, %error, "cannot mark the copy of a table as used");
            }
        }
    }

    /// Gives a table by its name; nothing if the configuration has no such table.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Arc<Table>>, String> {
        let Some(file) = self.files.get(name) else { return Ok(None) };
        let mut loaded = self.loaded();
        if let Some(table) = loaded.get(name) {
            return Ok(Some(Arc::clone(table)));
        }
        trusted::look(file)
            .map_err(|error| format!("{} cannot be relied upon: {error}", file.display()))?;
        let unreadable = |error: io::Error| format!("cannot read {}: {error}", file.display());
        let bytes = read(file).map_err(unreadable)?;
        let table = Table::read(&bytes);
        let table = Arc::new(table.map_err(|error| format!("{}: {error}", file.display()))?);
        let kept = self.kept.keep(table.sha256(), &bytes);
        kept.map_err(|error| format!("cannot keep a copy of {}: {error}", file.display()))?;
        loaded.insert(name.to_owned(), Arc::clone(&table));
        Ok(Some(table))
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    File::open(file)?.take(limits::TABLE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 <= limits::TABLE_BYTES {
        Ok(bytes)
    } else {
        Err(io::Error::other(format!("it has more than {} bytes", limits::TABLE_BYTES)))
    }
}

/// Copies of tables by their digests.
#[derive(Clone)]
pub(crate) struct KeptTables {
    folder: PathBuf,
    /// How long a decision is kept.
    max_age: Duration,
}

impl KeptTables {
    pub(crate) fn of(state: &StateDir, max_age: Duration) -> Self {
        Self { folder: state.data(), max_age }
    }

    fn file(&self, sha256: Sha256) -> PathBuf {
        self.folder.join(format!("{sha256}.json"))
    }

    /// Keeps a table, marked as used now, and removes tables that were last used before the oldest decision that is kept.
    fn keep(&self, sha256: Sha256, bytes: &[u8]) -> io::Result<()> {
        state::create_private(&self.folder)?;
        let path = self.file(sha256);
        match File::options().append(true).open(&path) {
            Ok(kept) => kept.set_modified(SystemTime::now())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                state::write_whole(&path, bytes)?;
            }
            Err(error) => return Err(error),
        }
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age > self.max_age) {
                state::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Marks the copy of a table as used now, unless that was done lately.
    fn mark_used(&self, sha256: Sha256) -> io::Result<()> {
        let path = self.file(sha256);
        let age = fs::metadata(&path)?.modified()?.elapsed().unwrap_or_default();
        if age < limits::TABLE_MARKED_AGAIN.min(self.max_age / 2) {
            return Ok(());
        }
        File::options().append(true).open(&path)?.set_modified(SystemTime::now())
    }

    /// The table of a digest.
    pub(crate) fn get(&self, sha256: Sha256) -> Result<Table, String> {
        let path = self.file(sha256);
        let bytes =
            read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let table = Table::read(&bytes)?;
        if table.sha256() == sha256 {
            Ok(table)
        } else {
            Err(format!("{} has another digest than its name", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A table that a service uses is kept, however long ago the service read it.
    #[test]
    fn what_is_in_use_is_not_taken_for_old() {
        let folder = tempfile::tempdir().unwrap();
        let kept = KeptTables { folder: folder.path().join("data"), max_age: 30 * DAY };
        let file = folder.path().join("sizes.json");
        fs::write(&file, "{}").unwrap();
        let files = BTreeMap::from([("sizes".to_owned(), file)]);
        let service = DataTables::new(files, kept.clone());
        let table = service.get("sizes").unwrap().unwrap();
        let copy = File::options().append(true).open(kept.file(table.sha256())).unwrap();
        let age = || copy.metadata().unwrap().modified().unwrap().elapsed().unwrap();
        let aged = |days| copy.set_modified(SystemTime::now() - days * DAY).unwrap();
        let other = br#"{"a": 1}"#;
        let another_process_keeps = || kept.keep(Sha256::of(other), other).unwrap();
        aged(29);
        service.mark_used();
        assert!(age() < DAY, "{:?}", age());
        another_process_keeps();
        kept.get(table.sha256()).unwrap();
        // The copy is not marked for each decision.
        copy.set_modified(SystemTime::now() - DAY / 2).unwrap();
        service.mark_used();
        assert!(age() >= DAY / 2, "{:?}", age());
        aged(31);
        another_process_keeps();
        kept.get(table.sha256()).unwrap_err();
    }
}
