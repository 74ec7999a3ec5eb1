//! The log lines of policies.

use std::fmt;

use serde::{Deserialize, Serialize};

use qhost_model::printable;

use crate::limits;

/// The log lines of a policy, up to the limits of a decision.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) lines: Vec<LogLine>,
    pub(super) dropped: u64,
    /// The bytes of all lines of the decision, lines already taken included.
    pub(super) bytes: usize,
    pub(super) count: usize,
}

/// One line of a policy's log, safe to print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// How much the line matters.
    pub level: Level,
    /// The text, with control characters escaped.
    pub message: String,
}

/// How much a line of a policy's log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A detail of how an answer came about.
    Debug,
    /// Something that an operator wants to see.
    Info,
    /// Something that is not as it should be.
    Warn,
    /// Something that made an answer impossible.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

impl Log {
    /// Adds a line, if the limits leave room for it.
    pub(super) fn line(&mut self, level: Level, message: &str) {
        if self.count == limits::POLICY_LOG_LINES || self.bytes >= limits::POLICY_LOG_BYTES {
            self.dropped += 1;
            return;
        }
        let message = printable::line(message, limits::POLICY_LOG_LINE_BYTES).to_string();
        self.bytes += message.len();
        self.count += 1;
        self.lines.push(LogLine { level, message });
    }
}
