//! QEMU's control protocol, QMP: JSON lines over a Unix socket (QEMU's `docs/interop/qmp-spec.rst`).
//!
//! QEMU is not trusted once a guest runs in it: lines, their rate and waits are bounded, and a message may have any content.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use serde_json::{Value, json};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{self, Instant},
};
use tokio_stream::StreamExt as _;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use qhost_model::printable;

use super::token_bucket::TokenBucket;
use crate::limits;

/// A connection whose greeting was read.
#[derive(Debug)]
pub(super) struct Qmp {
    lines: FramedRead<OwnedReadHalf, LinesCodec>,
    writer: OwnedWriteHalf,
    /// Events that came while an answer was awaited.
    events: VecDeque<Event>,
    next_id: u64,
    bucket: TokenBucket,
    /// When the next line may be read.
    read_at: Option<Instant>,
}

/// A message of QEMU's.
#[derive(Debug)]
pub(super) enum Message {
    /// A message that answers no command.
    Event(Event),
    /// The answer to a command.
    Answer {
        /// The command's number.
        id: u64,
        /// What the command returns, or QEMU's words of refusal.
        result: Result<Value, String>,
    },
}

/// An event that QEMU reports.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// The event's name, for example `SHUTDOWN`.
    pub name: String,
    /// The reason, if the event has one.
    pub reason: Option<String>,
}

/// The reason why a connection is of no use any more, or a command failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU closed the connection.
    #[error("QEMU closed its control socket")]
    Closed,
    /// The socket failed.
    #[error("QEMU's control socket failed")]
    Io(#[from] io::Error),
    /// QEMU gave no answer in time.
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
    /// QEMU does not read what is sent to it.
    #[error("QEMU does not read its control socket")]
    Deaf,
    /// QEMU has sent more than the allowed rate for too long.
    #[error(
        "QEMU flooded its control socket: for {} s it sent more than {} KiB a second",
        limits::QMP_FLOOD.as_secs(),
        limits::QMP_RATE.per_second >> 10
    )]
    Flood,
    /// QEMU sent what is not QMP.
    #[error("QEMU's control socket sent what is not QMP: {0}")]
    Garbage(String),
}

impl Qmp {
    /// Reads the greeting. QEMU takes commands after [`Qmp::negotiate`].
    pub(super) async fn greeted(stream: UnixStream) -> Result<Self, QmpError> {
        let (reader, writer) = stream.into_split();
        let lines =
            FramedRead::new(reader, LinesCodec::new_with_max_length(limits::QMP_LINE_BYTES));
        let bucket = TokenBucket::new(limits::QMP_RATE);
        let mut qmp =
            Self { lines, writer, events: VecDeque::new(), next_id: 0, bucket, read_at: None };
        let greeting = qmp.read().await?;
        if greeting.get("QMP").is_none() {
            return Err(garbage(&greeting.to_string()));
        }
        Ok(qmp)
    }

    /// Leaves the state in which QEMU takes no other command. QEMU answers this once its machine is built, some time after its greeting. On
    /// a busy host that takes longer than other answers, so that the caller bounds the wait.
    pub(super) async fn negotiate(&mut self) -> Result<(), QmpError> {
        self.exchange("qmp_capabilities").await.map(drop)
    }

    /// Runs a command that takes no arguments, and gives what it returns; events that come meanwhile are kept.
    pub(super) async fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        match time::timeout(limits::QMP_REPLY, self.exchange(command)).await {
            Ok(answer) => answer,
            Err(_) => Err(QmpError::Timeout { command: command.into() }),
        }
    }

    async fn exchange(&mut self, command: &str) -> Result<Value, QmpError> {
        let asked = self.send(command, &json!({}), None)?;
        loop {
            match self.message().await? {
                Message::Event(event) => {
                    if self.events.len() < limits::QMP_EVENTS {
                        self.events.push_back(event);
                    }
                }
                Message::Answer { id, result } if id == asked => {
                    let refused = |reason| QmpError::Refused { command: command.into(), reason };
                    return result.map_err(refused);
                }
                Message::Answer { .. } => {}
            }
        }
    }

    /// Sends a command, with a file if the command takes one, without waiting. Gives the number that the answer will have.
    pub(super) fn send(
        &mut self,
        command: &str,
        arguments: &Value,
        file: Option<&OwnedFd>,
    ) -> Result<u64, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let line = json!({"execute": command, "arguments": arguments, "id": id});
        let line = format!("{line}\n");
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let files: Vec<_> = file.into_iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            with.push(SendAncillaryMessage::ScmRights(&files));
        }
        let line_of = [IoSlice::new(line.as_bytes())];
        match sendmsg(self.writer.as_ref(), &line_of, &mut with, flags) {
            Ok(written) if written == line.len() => Ok(id),
            // A command is short, so that the socket takes it whole unless QEMU reads none.
            Ok(_) | Err(Errno::AGAIN) => Err(QmpError::Deaf),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(QmpError::Closed),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Waits for the next event or answer. The wait may be dropped: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Message, QmpError> {
        match self.events.pop_front() {
            Some(event) => Ok(Message::Event(event)),
            None => self.message().await,
        }
    }

    async fn message(&mut self) -> Result<Message, QmpError> {
        loop {
            let mut message = self.read().await?;
            if let Some(event) = event(&message) {
                return Ok(Message::Event(event));
            }
            let Some(id) = message.get("id").and_then(Value::as_u64) else { continue };
            let result = match message.get("error") {
                Some(error) => {
                    let reason = error.get("desc").and_then(Value::as_str).unwrap_or_default();
                    Err(printable::line(reason, 300).to_string())
                }
                None => Ok(message.get_mut("return").map(Value::take).unwrap_or_default()),
            };
            return Ok(Message::Answer { id, result });
        }
    }

    async fn read(&mut self) -> Result<Value, QmpError> {
        if let Some(at) = self.read_at {
            time::sleep_until(at).await;
            self.read_at = None;
        }
        match self.lines.next().await {
            Some(Ok(line)) => {
                // A short line takes time too, so that it counts for more than its bytes.
                let wait = self.bucket.take(line.len() as u64 + limits::QMP_MESSAGE_BYTES);
                self.read_at = (!wait.is_zero()).then(|| Instant::now() + wait);
                if self.bucket.empty_for() > limits::QMP_FLOOD {
                    return Err(QmpError::Flood);
                }
                serde_json::from_str(&line).map_err(|_| garbage(&line))
            }
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => Err(QmpError::Garbage(format!(
                "a line of more than {} bytes",
                limits::QMP_LINE_BYTES
            ))),
            // The connection is reset when QEMU exits before it has read a command.
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
    // Only the reason of an event's data is of use. It is cut short, since events are kept while an answer is awaited.
    let reason = message.get("data").and_then(|data| data.get("reason")?.as_str());
    let short =
        |text: &str| text.chars().take(qhost_model::limits::SHOWN_CHARS).collect::<String>();
    Some(Event { name: short(&name), reason: reason.map(short) })
}

fn garbage(line: &str) -> QmpError {
    QmpError::Garbage(printable::line(line, qhost_model::limits::SHOWN_CHARS).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;

    /// Runs a conversation with a QEMU that answers its first command after a while.
    fn with_answer_after<T>(wait: Duration, answer: &str, talk: impl AsyncFnOnce(Qmp) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let qemu = async {
                let (reader, mut writer) = theirs.into_split();
                writer.write_all(b"{\"QMP\": {}}\n").await.unwrap();
                let mut command = String::new();
                BufReader::new(reader).read_line(&mut command).await.unwrap();
                time::sleep(wait).await;
                // The reader may have given up.
                drop(writer.write_all(answer.as_bytes()).await);
                writer
            };
            let talk = async { talk(Qmp::greeted(ours).await.unwrap()).await };
            tokio::join!(talk, qemu).0
        })
    }

    #[test]
    fn a_machine_that_takes_long_to_build_is_waited_for() {
        let late = limits::QMP_REPLY + Duration::from_secs(1);
        with_answer_after(late, "{\"return\": {}, \"id\": 0}\n", async |mut qmp| {
            qmp.negotiate().await.unwrap();
        });
    }

    #[test]
    fn what_a_command_is_answered() {
        fn at_once(answer: &str) -> Result<Value, QmpError> {
            with_answer_after(Duration::ZERO, answer, async |mut qmp| qmp.execute("stop").await)
        }
        assert_eq!(at_once("{\"return\": {\"a\": 1}, \"id\": 0}\n").unwrap(), json!({"a": 1}));
        // Before the answer come one to another command, an event, and one to no command.
        let others = "{\"return\": 1, \"id\": 7}\n{\"event\": \"STOP\"}\n";
        assert_eq!(at_once(&format!("{others}{{\"return\": 2, \"id\": 0}}\n")).unwrap(), 2);
        let refused = at_once("{\"error\": {\"desc\": \"no\"}, \"id\": 0}\n").unwrap_err();
        assert!(refused.to_string().contains("QEMU refused stop: no"), "{refused}");
        let garbage = at_once("nonsense\n").unwrap_err();
        assert!(matches!(garbage, QmpError::Garbage(_)), "{garbage}");
        let long = format!("{}\n", "x".repeat(limits::QMP_LINE_BYTES + 1));
        assert!(at_once(&long).is_err());
    }
}
