//! Commands to QEMU for the requests that a supervisor gets, and what is done with QEMU's answers.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    monitor::Monitor,
    pending::{CommandPurpose, Gathering, Overdue, run_state},
    qmp::QmpError,
    request::Ask,
    stats,
};
use crate::limits;

impl Monitor<'_> {
    pub(super) fn gather(&mut self, ask: Ask) {
        if let Some(gathering) = &mut self.pending.gathering {
            gathering.asks.push(ask);
            return;
        }
        let process = self.of.dir.status().qemu.clone();
        let stats = stats::of_process(&self.of.spec, process.as_ref());
        self.pending.gathering = Some(Gathering::begin(ask, stats));
        let none = json!({});
        self.command_with("query-blockstats", &none, CommandPurpose::Disks, limits::QMP_STATS);
        // QEMU lists connections in no other answer.
        let usernet = json!({"command-line": "info usernet"});
        let human = "human-monitor-command";
        self.command_with(human, &usernet, CommandPurpose::Connections, limits::QMP_STATS);
        self.tell_what_was_gathered();
    }

    /// Gives QEMU the file that the picture goes to.
    pub(super) fn take_picture(&mut self, mut ask: Ask) {
        let file = ask.file.take();
        // Each picture's file has its own number, so that the file is closed even if QEMU answers too late.
        self.fdsets += 1;
        let fdset = self.fdsets;
        let qmp = self.qmp.as_mut().ok_or(QmpError::Closed);
        let set = json!({ "fdset-id": fdset });
        let sent = qmp.and_then(|qmp| qmp.send("add-fd", &set, file.as_ref()));
        match sent {
            Ok(id) => self.pending.add(id, CommandPurpose::File { ask, fdset }, limits::QMP_REPLY),
            Err(error) => ask.answer(Err(error.to_string())),
        }
    }

    /// Closes the file in QEMU, whatever became of the picture.
    fn picture_taken(&mut self, ask: Ask, fdset: u64, taken: Result<Value, String>) {
        let file = json!({"fdset-id": fdset});
        self.command_with("remove-fd", &file, CommandPurpose::Close, limits::QMP_REPLY);
        ask.answer(taken);
    }

    fn tell_what_was_gathered(&mut self) {
        if self.pending.has_gathered()
            && let Some(gathering) = self.pending.gathering.take()
        {
            gathering.answer();
        }
    }

    /// Acts on an answer of QEMU's.
    pub(super) fn heard(&mut self, id: u64, result: Result<Value, String>) {
        let Some(what) = self.pending.take(id) else { return };
        let answer = match result {
            Ok(answer) => answer,
            Err(reason) => return self.unheard(what, &format!("QEMU refused: {reason}")),
        };
        match what {
            CommandPurpose::SetPaused(ask) => {
                self.turned = None;
                self.look(Some(ask));
            }
            CommandPurpose::Status(ask) => {
                self.note_run_state(run_state(&answer));
                if let Some(ask) = ask {
                    ask.answer(Ok(Value::Null));
                }
            }
            CommandPurpose::Stop | CommandPurpose::Close => {}
            CommandPurpose::File { ask, fdset } => {
                let to = json!({"filename": format!("/dev/fdset/{fdset}"), "format": "png"});
                let what = CommandPurpose::Screenshot { ask, fdset };
                self.command_with("screendump", &to, what, limits::SCREENSHOT);
            }
            CommandPurpose::Screenshot { ask, fdset } => {
                self.picture_taken(ask, fdset, Ok(Value::Null));
            }
            CommandPurpose::Disks => {
                if let Some(gathering) = &mut self.pending.gathering {
                    gathering.stats.note_disks(&answer);
                }
                self.tell_what_was_gathered();
            }
            CommandPurpose::Connections => {
                if let Some(gathering) = &mut self.pending.gathering {
                    gathering.stats.note_connections(&answer);
                }
                self.tell_what_was_gathered();
            }
        }
    }

    pub(super) fn late(&mut self, late: Overdue) {
        match late {
            Overdue::Command(what) => {
                let seconds = limits::QMP_REPLY.as_secs();
                self.unheard(what, &format!("QEMU did not answer within {seconds} s"));
            }
            Overdue::Gathering(gathering) => gathering.answer(),
        }
    }

    /// Acts on a command that was not sent, not answered, or refused.
    pub(super) fn unheard(&mut self, what: CommandPurpose, why: &str) {
        match what {
            CommandPurpose::SetPaused(ask) | CommandPurpose::Status(Some(ask)) => {
                ask.answer(Err(why.to_owned()))
            }
            CommandPurpose::File { ask, fdset } | CommandPurpose::Screenshot { ask, fdset } => {
                self.picture_taken(ask, fdset, Err(why.to_owned()));
            }
            CommandPurpose::Close => tracing::debug!(why, "a picture's file stays open in QEMU"),
            CommandPurpose::Status(None) => tracing::debug!(why, "asking QEMU how it is"),
            // A command that failed leaves nothing to wait for.
            CommandPurpose::Stop => self.deadline = Some(Instant::now()),
            CommandPurpose::Disks | CommandPurpose::Connections => self.tell_what_was_gathered(),
        }
    }

    /// Gives up the control connection, which is of no use any more.
    pub(super) fn lost(&mut self, error: &QmpError) {
        self.qmp = None;
        // The socket closes when QEMU exits. A QEMU that only closes the socket, or sends garbage or a flood, is ended.
        if !matches!(error, QmpError::Closed) {
            self.seen.failure.get_or_insert(error.to_string());
        }
        self.deadline.get_or_insert(Instant::now() + limits::STOP_QUIT);
        let late: Vec<_> = self.pending.give_up().collect();
        for late in late {
            match late {
                Overdue::Command(what) => self.unheard(what, &error.to_string()),
                Overdue::Gathering(gathering) => gathering.answer(),
            }
        }
    }
}
