//! Errors of job files. One error carries all problems of a file.

use std::{cell::RefCell, fmt};

use serde::{Deserialize, Serialize};

use crate::{limits, printable};

/// Why a job file was not understood.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The file is larger than a job may be.
    #[error("{file}: larger than {most} bytes, the most that a job file may have")]
    TooLarge {
        /// The file's name.
        file: String,
        /// The limit in bytes.
        most: u64,
    },
    /// The file is not JSON.
    #[error("{file}: not JSON")]
    NotJson {
        /// The file's name.
        file: String,
        /// The parser's error, with line and column.
        source: serde_json::Error,
    },
    /// The file is not HCL.
    #[error("{file}: not HCL, at line {line}, column {column}: {reason}")]
    NotHcl {
        /// The file's name.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What was found, or was expected.
        reason: String,
    },
    /// The file is in another format.
    #[error("{file}: looks like {format}; qhost reads jobs in JSON and in Nomad's HCL")]
    OtherFormat {
        /// The file's name.
        file: String,
        /// The format's name.
        format: &'static str,
    },
    /// The JSON is not a job.
    #[error("{file}: {}{}", count(problems), listed(problems))]
    Invalid {
        /// The file's name.
        file: String,
        /// Every problem found, in the order of the file's parts.
        problems: Vec<Problem>,
    },
}

impl JobError {
    /// The problems of the job; empty where the file was not read as far as that.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } => problems,
            Self::TooLarge { .. }
            | Self::NotJson { .. }
            | Self::NotHcl { .. }
            | Self::OtherFormat { .. } => &[],
        }
    }
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// A problem: where it is, what was found, what was expected, what to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// The place as a JSON pointer (RFC 6901); empty for the whole file.
    pub pointer: String,
    /// The place in the text of a job specification in HCL, which has no such pointers.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// What was found there.
    pub found: String,
    /// What was expected there.
    pub expected: String,
    /// What to do about the problem, where that is more than giving what was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(
        pointer: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            pointer: pointer.into(),
            position: None,
            found: found.into(),
            expected: expected.into(),
            hint: None,
        }
    }

    pub(crate) fn at(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.position.map(|at| format!("line {}, column {}", at.line, at.column));
        let pointer = printable::line(&self.pointer, limits::SHOWN_CHARS);
        let place = match (self.pointer.as_str(), line) {
            ("", None) => "(the whole file)".into(),
            ("", Some(line)) => line,
            (_, None) => pointer.to_string(),
            (_, Some(line)) => format!("{pointer} ({line})"),
        };
        write!(f, "  {place}\n    found    {}\n    expected {}", self.found, self.expected)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    hint     {hint}"),
            None => Ok(()),
        }
    }
}

/// Collects problems while a file is read, up to a limit: a file that is full of faults costs no more than others.
#[derive(Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(crate) fn push(&self, problem: Problem) {
        let mut problems = self.0.borrow_mut();
        if problems.len() < limits::PROBLEMS {
            problems.push(problem);
        }
    }

    /// Whether there are so many problems that another one is not worth much work.
    pub(crate) fn are_many(&self) -> bool {
        self.0.borrow().len() >= limits::SHOWN_PROBLEMS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

fn count(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "1 problem".into(),
        limits::PROBLEMS.. => format!("{} problems or more", limits::PROBLEMS),
        n => format!("{n} problems"),
    }
}

fn listed(problems: &[Problem]) -> String {
    let mut text: String = problems
        .iter()
        .take(limits::SHOWN_PROBLEMS)
        .map(|problem| format!("\n{problem}"))
        .collect();
    if problems.len() > limits::SHOWN_PROBLEMS {
        text += &format!("\n  … and {} more", problems.len() - limits::SHOWN_PROBLEMS);
    }
    text
}
