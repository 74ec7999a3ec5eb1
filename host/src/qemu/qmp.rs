//! QEMU's control protocol, QMP: JSON lines over a Unix socket (QEMU's `docs/interop/qmp-spec.rst`).
//!
//! QEMU is not trusted once a guest runs in it: lines, events and waits are bounded.

use std::{collections::VecDeque, io};

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time,
};
use tokio_stream::StreamExt as _;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use crate::{limits, printable};

/// A connection whose greeting was read.
#[derive(Debug)]
pub struct Qmp {
    lines: FramedRead<OwnedReadHalf, LinesCodec>,
    writer: OwnedWriteHalf,
    events: VecDeque<Event>,
    next_id: u64,
}

/// Something that QEMU says of its own accord.
#[derive(Debug, Clone)]
pub struct Event {
    /// For example `SHUTDOWN`.
    pub name: String,
    /// Why, where it says so.
    pub reason: Option<String>,
}

/// Why a connection is of no use any more, or a command failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU closed the connection.
    #[error("QEMU closed its control socket")]
    Closed,
    /// The socket failed.
    #[error("QEMU's control socket failed")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("QEMU did not answer {command} within {} s", limits::QMP_REPLY.as_secs())]
    Timeout {
        /// The command.
        command: String,
    },
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// What came is not QMP.
    #[error("QEMU's control socket sent what is not QMP: {0}")]
    Garbage(String),
}

impl Qmp {
    /// Reads the greeting. QEMU takes commands once [`Qmp::negotiate`] was heard.
    pub async fn greeted(stream: UnixStream) -> Result<Self, QmpError> {
        let (reader, writer) = stream.into_split();
        let lines =
            FramedRead::new(reader, LinesCodec::new_with_max_length(limits::QMP_LINE_BYTES));
        let mut qmp = Self { lines, writer, events: VecDeque::new(), next_id: 0 };
        let greeting = qmp.read().await?;
        if greeting.get("QMP").is_none() {
            return Err(garbage(&greeting.to_string()));
        }
        Ok(qmp)
    }

    /// Leaves the state in which QEMU takes no other command. It hears this when its machine is built, some time after its
    /// greeting.
    pub async fn negotiate(&mut self) -> Result<(), QmpError> {
        self.execute("qmp_capabilities").await.map(drop)
    }

    /// Runs a command that takes no arguments, and gives what it returns.
    pub async fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        self.run(command, json!({})).await
    }

    /// What QEMU's monitor for people prints: some of what QEMU knows, it tells nobody else.
    pub async fn human(&mut self, command: &str) -> Result<String, QmpError> {
        let arguments = json!({ "command-line": command });
        let answer = self.run("human-monitor-command", arguments).await?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    async fn run(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        match time::timeout(limits::QMP_REPLY, self.exchange(command, arguments)).await {
            Ok(answer) => answer,
            Err(_) => Err(QmpError::Timeout { command: command.into() }),
        }
    }

    async fn exchange(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let line = json!({"execute": command, "arguments": arguments, "id": id});
        let line = format!("{line}\n");
        self.writer.write_all(line.as_bytes()).await?;
        loop {
            let mut message = self.read().await?;
            if let Some(event) = event(&message) {
                if self.events.len() < limits::QMP_EVENTS {
                    self.events.push_back(event);
                }
            } else if message.get("id") == Some(&id.into()) {
                return match message.get("error") {
                    Some(error) => {
                        let reason = error.get("desc").and_then(Value::as_str).unwrap_or_default();
                        let reason = printable::line(reason, 300).to_string();
                        Err(QmpError::Refused { command: command.into(), reason })
                    }
                    None => Ok(message.get_mut("return").map(Value::take).unwrap_or_default()),
                };
            }
        }
    }

    /// The next event. May be dropped while it waits: nothing is lost.
    pub async fn event(&mut self) -> Result<Event, QmpError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if let Some(event) = event(&self.read().await?) {
                return Ok(event);
            }
        }
    }

    async fn read(&mut self) -> Result<Value, QmpError> {
        match self.lines.next().await {
            Some(Ok(line)) => serde_json::from_str(&line).map_err(|_| garbage(&line)),
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => Err(QmpError::Garbage(format!(
                "a line of more than {} bytes",
                limits::QMP_LINE_BYTES
            ))),
            // A reset is how QEMU's end closes when it exits with our command unread.
            Some(Err(LinesCodecError::Io(error)))
                if error.kind() == io::ErrorKind::ConnectionReset =>
            {
                Err(QmpError::Closed)
            }
            Some(Err(LinesCodecError::Io(error))) => Err(error.into()),
            None => Err(QmpError::Closed),
        }
    }
}

fn event(message: &Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    // Of all that QEMU may say, only this is of use, and only so much: events are kept while an answer is awaited.
    let reason = message.get("data").and_then(|data| data.get("reason")?.as_str());
    let short = |text: &str| text.chars().take(limits::SHOWN_CHARS).collect::<String>();
    Some(Event { name: short(&name), reason: reason.map(short) })
}

fn garbage(line: &str) -> QmpError {
    QmpError::Garbage(printable::line(line, limits::SHOWN_CHARS).to_string())
}
