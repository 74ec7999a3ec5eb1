//! Trying a policy out before it decides for real: cases with expectations, lint, and benchmarks.
//!
//! A policy's project has its component, `NAME.wasm`, and `cases/*.toml`. Each case lays a few keys over an example job and an example
//! host's facts, so that it says only what it is about.

mod cases;
pub mod example;
mod expect;
mod answer;
mod tried;
mod junit;
mod lint;
mod bench;
mod stale;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use bench::{Measured, bench};
pub use cases::{Case, CaseFile};
pub use expect::Expect;
pub use junit::junit;
pub use lint::{Finding, lint};
pub use stale::newer_source;
pub use tried::{Tried, run, update};

use qhost_policy::{Allowance, Chain, Layer, Loader, Mode, PolicyError, Source, Table};

/// A policy's project.
#[derive(Debug)]
pub struct Project {
    /// The policy's name.
    pub name: String,
    /// The policy's component or core module.
    pub module: PathBuf,
    /// The project's files of cases, in the order of their names.
    pub files: Vec<CaseFile>,
}

/// Why a policy cannot be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A folder has no policy, or several.
    #[error("{} has {}; expected one policy, NAME.wasm: qhost policy build {} makes it; or name the file", folder.display(), if found.is_empty() { "no policy".into() } else { found.join(", ") }, folder.display())]
    NoPolicy {
        /// The folder.
        folder: PathBuf,
        /// The names of the policies that the folder has.
        found: Vec<String>,
    },
    /// The project has no cases.
    #[error("{} has no cases/*.toml; expected at least one file with a [[case]]", folder.display())]
    NoCases {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of cases is not understood.
    #[error("{}:{place}: {reason}", path.display())]
    Case {
        /// The file.
        path: PathBuf,
        /// The line, or the case's name.
        place: String,
        /// What was found, and what was expected.
        reason: String,
    },
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The policy failed in one case.
    #[error(
        "case {case:?}: the policy failed, so that it cannot be measured; if it should fail, set expect.verdict = \"failed\", and bench skips it"
    )]
    InCase {
        /// The case.
        case: String,
        /// The cause.
        source: Box<PolicyError>,
    },
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> TrialError {
    let path = path.to_owned();
    move |source| TrialError::Unreadable { path, source }
}

impl Project {
    /// Opens a project: its folder, or its policy's file.
    pub fn open(path: &Path) -> Result<Self, TrialError> {
        let module = module(path)?;
        let folder = module.parent().unwrap_or(Path::new("")).to_owned();
        let name = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let files = files(&folder.join("cases"), "toml")?;
        let files = files.iter().map(|path| CaseFile::read(path)).collect::<Result<_, _>>()?;
        Ok(Self { name, module, files })
    }

    /// Opens a project that must have cases.
    pub fn with_cases(path: &Path) -> Result<Self, TrialError> {
        let project = Self::open(path)?;
        if project.files.iter().any(|file| !file.cases.is_empty()) {
            Ok(project)
        } else {
            Err(TrialError::NoCases { folder: path.into() })
        }
    }

    /// Every case; if there are none, one with the plain example.
    fn all_cases(&self) -> Result<Vec<Case>, TrialError> {
        let cases: Vec<_> = self.files.iter().flat_map(|file| file.cases.iter().cloned()).collect();
        if cases.is_empty() { Ok(vec![Case::example()?]) } else { Ok(cases) }
    }

    /// A chain of the policy alone, with a case's settings and grants.
    fn chain(&self, loader: &Loader, case: &Case) -> Result<Chain, PolicyError> {
        let tables = case.tables.clone();
        // A table that the cases do not have is empty.
        let find = move |name: &str| {
            let table = tables.get(name).cloned();
            table.map_or_else(|| Table::read(b"{}").map(Arc::new), Ok).map(Some)
        };
        loader.clone().with_tables(Arc::new(find)).chain(vec![Source {
            name: self.name.clone(),
            path: self.module.clone(),
            pin: None,
            signers: None,
            settings: case.settings.to_string(),
            allowance: self.allowance(case),
            mode: Mode::Enforce,
            layer: Layer::Host,
            unseen: vec![],
        }])
    }

    fn allowance(&self, case: &Case) -> Allowance {
        Allowance { wasi: case.wasi, seed_text: case.seed_text, ..Allowance::default() }
    }
}

/// Finds a policy's file: the path itself, or the only component of its project's folder.
pub fn module(path: &Path) -> Result<PathBuf, TrialError> {
    if fs::metadata(path).map_err(unreadable(path))?.is_dir() {
        only_module(path)
    } else {
        Ok(path.to_owned())
    }
}

fn only_module(folder: &Path) -> Result<PathBuf, TrialError> {
    let mut modules = files(folder, "wasm")?;
    match (modules.pop(), modules.is_empty()) {
        (Some(module), true) => Ok(module),
        (module, _) => {
            let found = modules.into_iter().chain(module);
            let found =
                found.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
            Err(TrialError::NoPolicy { folder: folder.into(), found: found.collect() })
        }
    }
}

/// A folder's files of a kind, by name; none if the folder is not there.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, TrialError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(unreadable(folder)(error)),
    };
    let entries = entries.collect::<io::Result<Vec<_>>>().map_err(unreadable(folder))?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    Ok(files)
}
