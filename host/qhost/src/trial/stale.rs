//! Whether a policy was built before its source was last changed: then its cases try what is no more.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::Project;
use crate::limits;

/// What a language's tools, or an author's, leave in a project's folder, and what is no source of the component.
const NO_SOURCES: [&str; 5] = ["target", "node_modules", "cases", "bindings", "tests"];
/// What the languages that qhost builds are written in, and the contract.
const SOURCES: [&str; 7] = ["rs", "py", "js", "c", "h", "wit", "toml"];

/// The source that was changed last, if that was after the component was built.
pub fn newer_source(project: &Project) -> Option<PathBuf> {
    let built = changed(&project.module)?;
    let folder = project.module.parent().unwrap_or(Path::new(""));
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    let (latest, source) = latest(folder, limits::SOURCE_FOLDERS)?;
    (latest > built).then_some(source)
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// The source in a folder, and in those below it as deep as this, that was changed last.
fn latest(folder: &Path, depth: usize) -> Option<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(folder).ok()?.flatten().take(limits::SOURCE_FILES);
    let of = |entry: fs::DirEntry| {
        let (name, kind) = (entry.file_name().into_string().ok()?, entry.file_type().ok()?);
        let path = entry.path();
        if name.starts_with('.') || NO_SOURCES.contains(&name.as_str()) {
            None
        } else if kind.is_dir() {
            latest(&path, depth.checked_sub(1)?)
        } else {
            let is_source = path.extension()?.to_str().is_some_and(|it| SOURCES.contains(&it));
            is_source.then_some((changed(&path)?, path))
        }
    };
    entries.filter_map(of).max()
}
