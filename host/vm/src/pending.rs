//! Commands that a supervisor has sent to QEMU and that are not answered yet. No code here waits for the answers, so that requests and
//! signals are heard meanwhile.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{self, Instant};

use super::{Stats, request::Ask};
use crate::limits;

/// A command whose answer is to come.
#[derive(Debug)]
pub(super) struct Command {
    id: u64,
    pub(super) what: CommandPurpose,
    by: Instant,
}

/// What a command is for.
#[derive(Debug)]
pub(super) enum CommandPurpose {
    /// To pause or resume the guest, for this request.
    SetPaused(Ask),
    /// To find out whether the guest runs, and then to answer this request to pause or resume it, if there is one.
    Status(Option<Ask>),
    /// To press the guest's power button, or to make QEMU quit.
    Stop,
    /// To learn what the VM's disks did.
    Disks,
    /// To learn how many connections the VM has.
    Connections,
    /// To give QEMU the file for a picture of the display.
    File {
        /// The request for the picture.
        ask: Ask,
        /// The set that QEMU has the file in.
        fdset: u64,
    },
    /// To take a picture of the display.
    Screenshot {
        /// The request for the picture.
        ask: Ask,
        /// The set that QEMU has the file in.
        fdset: u64,
    },
    /// To close the picture's file in QEMU.
    Close,
}

/// Statistics that are being gathered, with the requests for them.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) asks: Vec<Ask>,
    pub(super) stats: Stats,
    by: Instant,
}

impl Gathering {
    pub(super) fn begin(ask: Ask, stats: Stats) -> Self {
        Self { asks: vec![ask], stats, by: Instant::now() + limits::QMP_STATS }
    }

    /// Answers with what is known.
    pub(super) fn answer(self) {
        for ask in self.asks {
            let stats = serde_json::to_value(&self.stats).map_err(|error| error.to_string());
            ask.answer(stats);
        }
    }
}

/// All commands and requests that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    commands: Vec<Command>,
    pub(super) gathering: Option<Gathering>,
}

/// A command or a gathering that got no answer in time.
pub(super) enum Overdue {
    Command(CommandPurpose),
    Gathering(Gathering),
}

impl Pending {
    pub(super) fn add(&mut self, id: u64, what: CommandPurpose, within: Duration) {
        self.commands.push(Command { id, what, by: Instant::now() + within });
    }

    /// Takes the purpose of the command of this number; nothing if there is none, or it was given up.
    pub(super) fn take(&mut self, id: u64) -> Option<CommandPurpose> {
        let index = self.commands.iter().position(|command| command.id == id)?;
        Some(self.commands.swap_remove(index).what)
    }

    /// Whether `query-status` is not answered yet.
    pub(super) fn asks_status(&self) -> bool {
        self.commands.iter().any(|command| matches!(command.what, CommandPurpose::Status(_)))
    }

    /// Whether all commands of a gathering are answered.
    pub(super) fn has_gathered(&self) -> bool {
        let is_of_it = |what: &CommandPurpose| {
            matches!(what, CommandPurpose::Disks | CommandPurpose::Connections)
        };
        !self.commands.iter().any(|command| is_of_it(&command.what))
    }

    /// Takes all that is not answered yet, once QEMU answers no more.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Overdue> {
        let commands = std::mem::take(&mut self.commands).into_iter();
        let gathering = self.gathering.take().into_iter().map(Overdue::Gathering);
        commands.map(|command| Overdue::Command(command.what)).chain(gathering)
    }

    /// Waits until the first answer is overdue. The wait may be dropped.
    pub(super) async fn late(&mut self) -> Overdue {
        let command = self.commands.iter().map(|command| command.by).min();
        let gathering = self.gathering.as_ref().map(|gathering| gathering.by);
        match command.into_iter().chain(gathering).min() {
            Some(by) => time::sleep_until(by).await,
            None => std::future::pending().await,
        }
        let now = Instant::now();
        if let Some(gathering) = self.gathering.take_if(|gathering| gathering.by <= now) {
            return Overdue::Gathering(gathering);
        }
        match self.commands.iter().position(|command| command.by <= now) {
            Some(index) => Overdue::Command(self.commands.swap_remove(index).what),
            None => std::future::pending().await,
        }
    }
}

/// The state that `query-status` tells (QEMU's `RunState`).
pub(super) fn run_state(answer: &Value) -> &str {
    answer.get("status").and_then(Value::as_str).unwrap_or_default()
}
