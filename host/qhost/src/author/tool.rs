//! An author's own tools: cargo, clang, componentize-py, jco.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use qhost_sys::spawn;

use super::{AuthorError, Language};
use crate::limits;

/// One of an author's own tools.
pub(super) struct Tool {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is for.
    pub(super) language: Language,
    /// Where it may be besides `$PATH`.
    pub(super) beside: Option<PathBuf>,
}

impl Tool {
    /// Runs it to its end; gives what it printed to standard output. What it says otherwise is shown at once, and all
    /// of it if it fails.
    pub(super) fn run(
        self,
        folder: &Path,
        args: &[impl AsRef<std::ffi::OsStr>],
    ) -> Result<String, AuthorError> {
        let Self { name: tool, language, beside } = self;
        let program = beside.filter(|path| path.exists()).or_else(|| which::which(tool).ok());
        let program = program.ok_or(AuthorError::NoTool { tool, language })?;
        let broken = |source| AuthorError::Tool { tool, source };
        let output = tempfile::tempfile().map_err(broken)?;
        let mut child = spawn::tool(&program, args)
            .current_dir(folder)
            .stdout(Stdio::from(output.try_clone().map_err(broken)?))
            .spawn()
            .map_err(broken)?;
        let status = spawn::wait(&mut child, limits::AUTHOR_TOOL).map_err(broken)?;
        let said = text(output).map_err(broken)?;
        let why = match status {
            Some(status) if status.success() => return Ok(said),
            Some(status) => status.to_string(),
            None => format!("it took longer than {} s", limits::AUTHOR_TOOL.as_secs()),
        };
        io::stderr().write_all(said.as_bytes()).map_err(broken)?;
        Err(AuthorError::Failed { tool, language, why })
    }
}

fn text(mut output: File) -> io::Result<String> {
    output.rewind()?;
    let mut bytes = vec![];
    output.take(limits::AUTHOR_TOOL_SAID_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
