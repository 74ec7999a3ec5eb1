//! What one QEMU's events said and what was asked of the VM, and the end that follows from both.

use qhost_model::printable;

use super::{End, StoppedBy, process::ProcessExit, qmp::Event};

/// The phase that stopping has reached.
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
    /// The VM is to end.
    pub(super) end: bool,
    /// The VM is to be started again after that.
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
    /// What was asked of the VM.
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

    /// Gives the VM's end. What the guest or QEMU did counts for more than what was asked. `oom` says that the kernel killed a process in
    /// the VM's cgroup for its memory.
    pub(super) fn end(self, ending: ProcessExit, stderr: &str, oom: bool) -> End {
        if let Some(message) = self.failure {
            return End::Failed { message };
        }
        if self.panicked {
            return End::Panicked;
        }
        // How a QEMU ended that another supervisor started can be told from its events only.
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
            (_, _) if oom => End::OutOfMemory,
            (_, _) => {
                let said = if stderr.is_empty() { "it said nothing" } else { stderr };
                End::Failed { message: format!("QEMU ended with {ending}: {said}") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU's events, its exit, the phase of stopping if a stop was asked for, and the end that is expected.
    struct Row {
        events: &'static [(&'static str, &'static str)],
        exit: ProcessExit,
        asked: Option<Phase>,
        end: Result<End, &'static str>,
    }

    const SHUT_DOWN: &[(&str, &str)] = &[("SHUTDOWN", "guest-shutdown")];
    const CLEAN: ProcessExit = ProcessExit::Code(0);

    fn row(
        events: &'static [(&'static str, &'static str)],
        exit: ProcessExit,
        asked: Option<Phase>,
        end: Result<End, &'static str>,
    ) -> Row {
        Row { events, exit, asked, end }
    }

    #[test]
    fn each_way_to_end() {
        let stopped = |by| Ok(End::Stopped { by });
        let (down, quit, kill) = (Phase::PoweringDown, Phase::Quitting, Phase::Killing);
        let rows = [
            row(SHUT_DOWN, CLEAN, None, Ok(End::ShutDown)),
            row(SHUT_DOWN, ProcessExit::Unseen, None, Ok(End::ShutDown)),
            row(SHUT_DOWN, CLEAN, Some(down), stopped(StoppedBy::Powerdown)),
            row(SHUT_DOWN, CLEAN, Some(quit), stopped(StoppedBy::Powerdown)),
            row(&[("SHUTDOWN", "host-qmp-quit")], CLEAN, Some(quit), stopped(StoppedBy::Quit)),
            row(&[], CLEAN, Some(quit), stopped(StoppedBy::Quit)),
            row(&[], ProcessExit::Signal(9), Some(kill), stopped(StoppedBy::Kill)),
            row(SHUT_DOWN, CLEAN, Some(kill), stopped(StoppedBy::Kill)),
            row(&[("GUEST_PANICKED", "")], CLEAN, None, Ok(End::Panicked)),
            row(
                &[("GUEST_PANICKED", ""), ("SHUTDOWN", "guest-shutdown")],
                CLEAN,
                Some(down),
                Ok(End::Panicked),
            ),
            row(
                &[("SHUTDOWN", "host-signal")],
                CLEAN,
                None,
                Err("QEMU was ended from outside: host-signal"),
            ),
            // The first reason counts.
            row(
                &[("SHUTDOWN", "host-signal"), ("SHUTDOWN", "guest-shutdown")],
                CLEAN,
                None,
                Err("QEMU was ended from outside: host-signal"),
            ),
            row(&[], ProcessExit::Code(1), None, Err("QEMU ended with exit status: 1: words")),
            row(
                SHUT_DOWN,
                ProcessExit::Code(1),
                None,
                Err("QEMU ended with exit status: 1: words"),
            ),
            row(&[], ProcessExit::Signal(11), Some(down), Err("QEMU ended with signal: 11: words")),
            row(
                &[],
                ProcessExit::Unseen,
                None,
                Err("QEMU ended with an exit status that was not seen: words"),
            ),
        ];
        for (number, row) in rows.into_iter().enumerate() {
            let mut seen = ExitEvidence::default();
            for (name, reason) in row.events {
                seen.note(&Event { name: (*name).into(), reason: Some((*reason).into()) });
            }
            seen.asked = row.asked.is_some();
            seen.phase = row.asked.unwrap_or(Phase::Running);
            let expected =
                row.end.unwrap_or_else(|message| End::Failed { message: message.into() });
            assert_eq!(seen.end(row.exit, "words", false), expected, "row {number}");
        }
    }

    #[test]
    fn what_the_kernel_killed_for_its_memory_is_told_from_other_signals() {
        let end = |oom| ExitEvidence::default().end(ProcessExit::Signal(9), "words", oom);
        assert_eq!(end(true), End::OutOfMemory);
        assert!(matches!(end(false), End::Failed { .. }));
    }

    #[test]
    fn a_failure_of_its_own_counts_for_more() {
        let failure = Some("not ready".into());
        let mut seen = ExitEvidence { failure, ..ExitEvidence::default() };
        seen.note(&Event { name: "GUEST_PANICKED".into(), reason: None });
        assert_eq!(seen.end(CLEAN, "", false), End::Failed { message: "not ready".into() });
    }
}
