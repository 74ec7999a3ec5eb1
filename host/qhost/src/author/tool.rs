//! An author's own tools: cargo, clang, componentize-py, jco.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use qhost_sys::spawn;

use super::{AuthorError, Language};
use crate::limits;

/// One of an author's own tools, for one project.
pub(super) struct Tool<'a> {
    /// The tool's name.
    pub(super) name: &'static str,
    /// The language that the tool builds.
    pub(super) language: Language,
    /// The project's folder, where the tool runs.
    pub(super) folder: &'a Path,
    /// The project's folder as it was named on the command line.
    pub(super) project: &'a Path,
    /// A place where the tool may be besides `$PATH`.
    pub(super) beside: Option<PathBuf>,
    /// Whether the tool's standard output is for programs, and not worth an author's time.
    pub(super) prints_json: bool,
    /// The parts that the tool can build nothing without.
    pub(super) parts: &'static [Part],
}

/// A part of a tool that is installed by itself.
pub(super) struct Part {
    /// The program that knows the part's path.
    pub(super) program: &'static str,
    /// The arguments by which the program prints the part's path.
    pub(super) args: &'static [&'static str],
}

impl Tool<'_> {
    /// Runs the tool to its end; gives what it printed to standard output. Its standard error is shown at once, and its standard output too
    /// if it fails.
    pub(super) fn run(self, args: &[impl AsRef<OsStr>]) -> Result<String, AuthorError> {
        let (tool, language) = (self.name, self.language);
        let beside = self.beside.clone().filter(|path| path.exists());
        let program = beside.or_else(|| which::which(tool).ok());
        let program = program.ok_or_else(|| {
            let project = self.project.to_owned();
            AuthorError::NoTool { tool, language, project }
        })?;
        let broken = |source| AuthorError::Tool { tool, source };
        let output = tempfile::tempfile().map_err(broken)?;
        let mut child = spawn::tool(&program, args)
            .current_dir(self.folder)
            .stdout(Stdio::from(output.try_clone().map_err(broken)?))
            .spawn()
            .map_err(broken)?;
        let status = spawn::wait(&mut child, limits::AUTHOR_TOOL).map_err(broken)?;
        let said = text(output).map_err(broken)?;
        if status.is_some_and(|status| status.success()) {
            return Ok(said);
        }
        if !self.prints_json {
            io::stderr().write_all(said.as_bytes()).map_err(broken)?;
        }
        let Some(status) = status else {
            let why = format!("it took longer than {} s", limits::AUTHOR_TOOL.as_secs());
            return Err(AuthorError::Failed { tool, why });
        };
        // A tool that a signal ended has not said whether a part is missing.
        if status.code().is_none() {
            return Err(AuthorError::Failed { tool, why: status.to_string() });
        }
        match self.lacks() {
            Some(part) => {
                let install = language.install(self.project);
                let why = format!("{} is missing; to install it: {install}", part.display());
                Err(AuthorError::Failed { tool, why })
            }
            None => Err(AuthorError::Compile { tool, status }),
        }
    }

    /// The first part that the tool lacks.
    fn lacks(&self) -> Option<PathBuf> {
        self.parts.iter().find_map(|part| self.is_without(part))
    }

    fn is_without(&self, Part { program, args }: &Part) -> Option<PathBuf> {
        let program = which::which(program).ok()?;
        let output = tempfile::tempfile().ok()?;
        let mut child = spawn::tool(&program, args)
            .current_dir(self.folder)
            .stdout(Stdio::from(output.try_clone().ok()?))
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        spawn::wait(&mut child, limits::AUTHOR_PART).ok()??;
        let said = text(output).ok()?;
        let part = PathBuf::from(said.trim());
        // A tool that names no path is not said to lack a part.
        (!part.as_os_str().is_empty() && !part.exists()).then_some(part)
    }
}

fn text(mut output: File) -> io::Result<String> {
    output.rewind()?;
    let mut bytes = vec![];
    output.take(limits::AUTHOR_TOOL_SAID_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
