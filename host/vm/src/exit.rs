//! What was seen of one QEMU and asked of it, and the end that comes of that.

use qhost_model::printable;

use super::{End, StoppedBy, process::ProcessExit, qmp::Event};

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    PoweringDown,
    Quitting,
    Killing,
}

/// What was asked of a VM that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct StopIntent {
    /// Its end.
    pub(super) end: bool,
    /// To be started again after that.
    pub(super) again: bool,
}

/// What QEMU's events said, and what was asked.
#[derive(Debug)]
pub(super) struct ExitEvidence {
    pub(super) asked: bool,
    pub(super) again: bool,
    pub(super) phase: Phase,
    panicked: bool,
    /// The reason of the SHUTDOWN event.
    shutdown: Option<String>,
    pub(super) failure: Option<String>,
}

impl Default for ExitEvidence {
    fn default() -> Self {
        Self {
            asked: false,
            again: false,
            phase: Phase::Running,
            panicked: false,
            shutdown: None,
            failure: None,
        }
    }
}

impl ExitEvidence {
    /// What was asked.
    pub(super) fn asked(&self) -> StopIntent {
        StopIntent { end: self.asked, again: self.again }
    }

    pub(super) fn note(&mut self, event: &Event) {
        tracing::debug!(event = %event.name, reason = ?event.reason, "QEMU");
        match event.name.as_str() {
            "GUEST_PANICKED" => self.panicked = true,
            "SHUTDOWN" => {
                let reason = event.reason.as_deref().unwrap_or_default();
                self.shutdown.get_or_insert(
                    printable::line(reason, qhost_model::limits::SHOWN_CHARS).to_string(),
                );
            }
            _ => {}
        }
    }

    /// Tells apart how it ended; what the guest or QEMU did counts for more than what was asked. `oom` where the kernel killed
    /// something in its cgroup.
    pub(super) fn end(self, ending: ProcessExit, stderr: &str, oom: bool) -> End {
        if let Some(message) = self.failure {
            return End::Failed { message };
        }
        if self.panicked {
            return End::Panicked;
        }
        // Of a QEMU that another supervisor started, only its events say how it ended.
        let clean = match ending {
            ProcessExit::Code(code) => code == 0,
            ProcessExit::Signal(_) => false,
            ProcessExit::Unseen => self.shutdown.is_some(),
        };
        match (self.shutdown.as_deref(), clean) {
            (_, _) if self.asked && self.phase == Phase::Killing => {
                End::Stopped { by: StoppedBy::Kill }
            }
            (Some("guest-shutdown"), true) if self.asked => {
                End::Stopped { by: StoppedBy::Powerdown }
            }
            (_, true) if self.asked => End::Stopped { by: StoppedBy::Quit },
            (Some("guest-shutdown"), true) => End::ShutDown,
            (Some(reason), true) => {
                End::Failed { message: format!("QEMU was ended from outside: {reason}") }
            }
            (_, _) if oom => End::Failed {
                message: "the kernel killed QEMU: it took more memory than its cgroup may have"
                    .into(),
            },
            (_, _) => {
                let said = if stderr.is_empty() { "it said nothing" } else { stderr };
                End::Failed { message: format!("QEMU ended with {ending}: {said}") }
            }
        }
    }
}
