//! A policy's project: made from a template, built into a component with its language's own tools.
//!
//! The file that has the rules tells which language a project is in. The output of a tool goes where qhost's own messages go; if a tool is
//! missing, the error says how to install it.

mod template;
mod tool;
mod build;
mod c;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use clap::ValueEnum;

pub use build::{Built, build, is_project};
pub use template::new;

/// What a policy can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Rust: 20 kB, 30 µs a decision
    Rust,
    /// Python: 18 MB, an interpreter in it
    Python,
    /// JavaScript: 1.6 MB, an interpreter in it
    Js,
    /// C: 20 kB, 30 µs a decision
    C,
}

impl Language {
    const ALL: [Self; 4] = [Self::Rust, Self::Python, Self::Js, Self::C];

    /// The file by which a project of this language is known.
    fn rules(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml",
            Self::Python => "rules.py",
            Self::Js => "rules.js",
            Self::C => "rules.c",
        }
    }

    /// The commands that install the tools that build a project, to be run in the current folder.
    fn install(self, project: &Path) -> String {
        let inside = match project {
            here if here == Path::new(".") => String::new(),
            folder => format!("cd {} && ", folder.display()),
        };
        match self {
            Self::Rust => {
                "rustup target add wasm32-unknown-unknown; without rustup, see guest-policies/README.md of qhost".into()
            }
            Self::Python => {
                format!("{inside}python3 -m venv .venv && .venv/bin/pip install -r requirements.txt")
            }
            Self::Js => format!("{inside}npm install"),
            Self::C => "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32".into(),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::Js => "JavaScript",
            Self::C => "C",
        })
    }
}

/// Why a project was not made or not built.
#[derive(Debug, thiserror::Error)]
pub enum AuthorError {
    /// The project's name cannot be used.
    #[error(
        "{name:?} cannot name a policy's project: expected 1 to 64 lower-case letters, digits and -, a letter first"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The folder exists already.
    #[error("{} is there already; choose another name, or remove it", folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },
    /// A file cannot be read.
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
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The folder is no project, or several.
    #[error("{} has {}; expected one of Cargo.toml, rules.py, rules.js, rules.c: qhost policy new makes a project", folder.display(), if found.is_empty() { "no policy's source".into() } else { found.join(" and ") })]
    NoProject {
        /// The folder.
        folder: PathBuf,
        /// The files by which a project is known that the folder has.
        found: Vec<&'static str>,
    },
    /// WASI was asked for in a language that has no use for it.
    #[error(
        "--wasi is for Python and JavaScript: a policy in {language} needs no WASI; the decision's time is in the request"
    )]
    NoWasi {
        /// The project's language.
        language: Language,
    },
    /// A tool is not installed.
    #[error("{tool} is not installed, and a policy in {language} needs it: {}", language.install(project))]
    NoTool {
        /// The tool.
        tool: &'static str,
        /// The project's language.
        language: Language,
        /// The project.
        project: PathBuf,
    },
    /// A tool cannot be started.
    #[error("cannot run {tool}")]
    Tool {
        /// The tool.
        tool: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A tool took too long, or lacks a part.
    #[error("{tool} failed: {why}")]
    Failed {
        /// The tool.
        tool: &'static str,
        /// The reason, and what to do about it.
        why: String,
    },
    /// A tool exited by itself, after it printed the reason.
    #[error("{tool} failed ({status}); its output is on standard error")]
    Compile {
        /// The tool.
        tool: &'static str,
        /// The tool's exit status.
        status: ExitStatus,
    },
    /// The output is no component, nor can it be made one.
    #[error("{}: {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> AuthorError {
    let path = path.to_owned();
    move |source| AuthorError::Unreadable { path, source }
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> AuthorError {
    let path = path.to_owned();
    move |source| AuthorError::Unwritable { path, source }
}
