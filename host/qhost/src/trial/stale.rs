//! Whether a policy was built before its source was last changed: its cases would then try an old policy.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::Project;
use crate::{author::is_project, limits};

/// Files and folders whose changes do not change the component: build output, generated bindings, cases and unit tests.
const NO_SOURCES: [&str; 9] = [
    "target",
    "node_modules",
    "bindings",
    "editor",
    "cases",
    "test",
    "tests",
    "test_rules.py",
    "rules.test.js",
];
/// The endings of sources in the languages that qhost builds, and of the contract.
const SOURCES: [&str; 7] = ["rs", "py", "js", "c", "h", "wit", "toml"];

/// The source that was changed last, if that was after the component was built. Nothing is known of a component that lies in no project's
/// folder.
pub fn newer_source(project: &Project) -> Option<PathBuf> {
    let built = changed(&project.module)?;
    let folder = project.module.parent().unwrap_or(Path::new(""));
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    if !is_project(folder) {
        return None;
    }
    let mut left = limits::SOURCE_FILES;
    let (latest, source) = latest(folder, limits::SOURCE_FOLDERS, &mut left)?;
    (latest > built).then_some(source)
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Finds the source that was changed last, in a folder and those below it down to `depth`. At most `left` entries are looked at.
fn latest(folder: &Path, depth: usize, left: &mut usize) -> Option<(SystemTime, PathBuf)> {
    let mut all = vec![];
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let Some(fewer) = left.checked_sub(1) else { break };
        *left = fewer;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if name.starts_with('.') || NO_SOURCES.contains(&name.as_str()) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(depth.checked_sub(1).and_then(|depth| latest(&path, depth, left)));
        } else if is_source(&path) {
            all.extend(changed(&path).map(|at| (at, path)));
        }
    }
    all.into_iter().max()
}

fn is_source(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| SOURCES.contains(&extension))
}
