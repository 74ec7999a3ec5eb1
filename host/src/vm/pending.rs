//! What a supervisor has asked QEMU for and waits to hear, without waiting: requests and signals come first.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{self, Instant};

use super::{Stats, control::Ask};
use crate::limits;

/// A command whose answer is to come.
#[derive(Debug)]
pub(super) struct Command {
    id: u64,
    pub(super) what: What,
    by: Instant,
}

/// What a command is for.
#[derive(Debug)]
pub(super) enum What {
    /// To have the guest pause or go on, for whoever asked that.
    Turn(Ask),
    /// To find out whether the guest runs, and to tell whoever had it turned.
    Status(Option<Ask>),
    /// To press its power button, or to quit.
    Stop,
    /// What its disks did.
    Disks,
    /// Its connections.
    Connections,
}

/// What is gathered for whoever asks what the VM uses.
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

    /// Tells what is known.
    pub(super) fn answer(self) {
        for ask in self.asks {
            let stats = serde_json::to_value(&self.stats).map_err(|error| error.to_string());
            ask.answer(stats);
        }
    }
}

/// All that is waited for.
#[derive(Debug, Default)]
pub(super) struct Pending {
    commands: Vec<Command>,
    pub(super) gathering: Option<Gathering>,
}

/// What was waited for in vain.
pub(super) enum Late {
    Command(What),
    Gathering(Gathering),
}

impl Pending {
    pub(super) fn add(&mut self, id: u64, what: What, within: Duration) {
        self.commands.push(Command { id, what, by: Instant::now() + within });
    }

    /// What an answer of this number is to; nothing where nothing was asked, or not any more.
    pub(super) fn take(&mut self, id: u64) -> Option<What> {
        let index = self.commands.iter().position(|command| command.id == id)?;
        Some(self.commands.swap_remove(index).what)
    }

    /// Whether the guest's state is on its way.
    pub(super) fn asks_status(&self) -> bool {
        self.commands.iter().any(|command| matches!(command.what, What::Status(_)))
    }

    /// Whether nothing is still to come of what is gathered.
    pub(super) fn has_gathered(&self) -> bool {
        let is_of_it = |what: &What| matches!(what, What::Disks | What::Connections);
        !self.commands.iter().any(|command| is_of_it(&command.what))
    }

    /// Everything, where QEMU says nothing any more.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Late> {
        let commands = std::mem::take(&mut self.commands).into_iter();
        let gathering = self.gathering.take().into_iter().map(Late::Gathering);
        commands.map(|command| Late::Command(command.what)).chain(gathering)
    }

    /// The first that is late, once it is. May be dropped while it waits.
    pub(super) async fn late(&mut self) -> Late {
        let command = self.commands.iter().map(|command| command.by).min();
        let gathering = self.gathering.as_ref().map(|gathering| gathering.by);
        match command.into_iter().chain(gathering).min() {
            Some(by) => time::sleep_until(by).await,
            None => std::future::pending().await,
        }
        let now = Instant::now();
        if let Some(gathering) = self.gathering.take_if(|gathering| gathering.by <= now) {
            return Late::Gathering(gathering);
        }
        match self.commands.iter().position(|command| command.by <= now) {
            Some(index) => Late::Command(self.commands.swap_remove(index).what),
            None => std::future::pending().await,
        }
    }
}

/// The state that `query-status` tells (QEMU's `RunState`).
pub(super) fn run_state(answer: &Value) -> &str {
    answer.get("status").and_then(Value::as_str).unwrap_or_default()
}
