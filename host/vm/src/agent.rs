//! QEMU's guest agent, by its protocol: lines of JSON over a channel of the guest's (QEMU's `docs/interop/qemu-ga-ref`). QEMU lets one
//! connection at a time use the channel; others wait.
//!
//! What the agent says is the guest's: each answer is bounded and timed, and may say anything.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time,
};

use qhost_model::printable;

use super::{files::AGENT_SOCKET, sockets::connect};
use crate::limits;

/// The byte that no text has. On reading it, the agent drops what it has read of a line, and it sends this byte before its answer to a
/// sync.
const DELIMITER: u8 = 0xff;

/// A connection to a guest's agent that has answered. After an error the connection is of no use any more.
#[derive(Debug)]
pub struct Agent(BufReader<UnixStream>);

/// The reason why the agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent gave no answer in time.
    #[error("the guest's agent did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The channel failed.
    #[error("the channel to the guest's agent failed")]
    Io(#[from] io::Error),
    /// The agent refused a command.
    #[error("the guest's agent refused {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// The agent's words.
        reason: String,
    },
    /// An answer is larger than its bound.
    #[error("the guest's agent answered with more than {} KiB", .0 >> 10)]
    TooLarge(u64),
    /// An answer does not follow the protocol.
    #[error("what the guest's agent answered is not of its protocol")]
    Protocol,
}

/// A command to the agent, and the bounds of its answer.
#[derive(Debug)]
pub struct Command<'a> {
    /// The command's name, for example `guest-get-osinfo`.
    pub name: &'a str,
    /// The arguments, an object.
    pub arguments: Value,
    /// How long the answer may take.
    pub within: Duration,
    /// How large the answer may be, in bytes.
    pub most: u64,
}

impl<'a> Command<'a> {
    /// A command without arguments, whose answer is short.
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            arguments: json!({}),
            within: limits::AGENT_REPLY,
            most: limits::AGENT_ANSWER_BYTES,
        }
    }
}

impl Agent {
    /// Connects to a VM's agent, and waits until it answers: at most [`limits::AGENT_REPLY`].
    ///
    /// # Errors
    /// Fails where the VM has no channel for an agent, or no agent answers.
    pub async fn connect(vm: &Path) -> Result<Self, AgentError> {
        let connected = async {
            let mut agent = Self(BufReader::new(connect(vm, AGENT_SOCKET).await?));
            agent.sync().await?;
            Ok(agent)
        };
        within(limits::AGENT_REPLY, connected).await
    }

    /// Sends a number that no earlier request had, and reads up to the answer with that number: before it the agent may still send answers
    /// to an earlier connection.
    async fn sync(&mut self) -> Result<(), AgentError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The agent reads a signed number.
        let id = now.as_nanos() & u128::from(u32::MAX >> 1);
        let request = json!({"execute": "guest-sync-delimited", "arguments": {"id": id as u64}});
        let request = [&[DELIMITER][..], request.to_string().as_bytes(), b"\n"].concat();
        self.0.write_all(&request).await?;
        let mut left = limits::AGENT_STALE_BYTES;
        loop {
            left = self.skip(left).await?;
            let answer = self.line(limits::AGENT_ANSWER_BYTES).await?;
            let answer: Option<Value> = serde_json::from_slice(&answer).ok();
            let answered = answer.and_then(|answer| answer.get("return")?.as_u64());
            if answered.is_some_and(|answered| u128::from(answered) == id) {
                return Ok(());
            }
        }
    }

    /// Skips what comes before the next delimiter, at most `left` bytes, and gives how many of these are left.
    async fn skip(&mut self, mut left: u64) -> Result<u64, AgentError> {
        loop {
            let read = self.0.fill_buf().await?;
            if read.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let found = read.iter().position(|byte| *byte == DELIMITER);
            let passed = found.map_or(read.len(), |at| at + 1);
            self.0.consume(passed);
            left = left.checked_sub(passed as u64).ok_or(AgentError::Protocol)?;
            if found.is_some() {
                return Ok(left);
            }
        }
    }

    /// Sends the agent a command, and gives what the command returns.
    ///
    /// # Errors
    /// Fails where the agent refuses, is silent, or answers with what is not of its protocol.
    pub async fn execute(&mut self, command: &Command<'_>) -> Result<Value, AgentError> {
        let Command { name, arguments, within: time, most } = command;
        let exchange = async {
            let line = json!({"execute": name, "arguments": arguments});
            self.0.write_all(format!("{line}\n").as_bytes()).await?;
            let answer = self.line(*most).await?;
            let mut answer: Value =
                serde_json::from_slice(&answer).map_err(|_| AgentError::Protocol)?;
            let returned = answer.get_mut("return").map(Value::take);
            match (answer.get("error"), returned) {
                (Some(error), _) => {
                    let reason = error.get("desc").and_then(Value::as_str).unwrap_or_default();
                    let reason = printable::line(reason, limits::AGENT_REASON_CHARS).to_string();
                    Err(AgentError::Refused { command: (*name).to_owned(), reason })
                }
                (None, Some(returned)) => Ok(returned),
                (None, None) => Err(AgentError::Protocol),
            }
        };
        within(*time, exchange).await
    }

    async fn line(&mut self, most: u64) -> Result<Vec<u8>, AgentError> {
        let mut line = vec![];
        let read = (&mut self.0).take(most).read_until(b'\n', &mut line).await? as u64;
        match line.last() {
            Some(b'\n') => Ok(line),
            _ if read == most => Err(AgentError::TooLarge(most)),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

async fn within<T>(
    most: Duration,
    answered: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, AgentError> {
    time::timeout(most, answered).await.unwrap_or(Err(AgentError::Timeout(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives the answer of an agent that does this with each line that it is sent.
    async fn answered(
        command: &Command<'_>,
        agent: impl AsyncFn(&mut UnixStream, &Value) + Send + 'static,
    ) -> Result<Value, AgentError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = async move {
            let mut theirs = BufReader::new(theirs);
            let mut line = vec![];
            while theirs.read_until(b'\n', &mut line).await.unwrap_or(0) > 0 {
                let request =
                    serde_json::from_slice(line.strip_prefix(&[DELIMITER]).unwrap_or(&line));
                agent(theirs.get_mut(), &request.unwrap()).await;
                line.clear();
            }
        };
        let asking = async {
            let mut agent = Agent(BufReader::new(ours));
            within(limits::AGENT_REPLY, agent.sync()).await?;
            agent.execute(command).await
        };
        tokio::select! {
            biased;
            answer = asking => answer,
            () = serving => Err(AgentError::Protocol),
        }
    }

    /// Answers a sync as an agent must, and gives whether the request was one.
    async fn syncs(stream: &mut UnixStream, request: &Value) -> bool {
        let is_sync = request["execute"] == "guest-sync-delimited";
        if is_sync {
            let answer = json!({"return": request["arguments"]["id"]});
            let answer = [&[DELIMITER][..], answer.to_string().as_bytes(), b"\n"].concat();
            stream.write_all(&answer).await.unwrap();
        }
        is_sync
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_agent_says_is_bounded_and_timed() {
        let ping = Command::new("guest-ping");
        let says = async |text: &'static [u8]| {
            answered(&ping, async move |stream: &mut UnixStream, request: &Value| {
                if !syncs(stream, request).await {
                    stream.write_all(text).await.unwrap_or_default();
                }
            })
            .await
        };
        assert_eq!(says(b"{\"return\": 7}\n").await.unwrap(), 7);
        assert!(matches!(says(b"").await, Err(AgentError::Timeout(_))));
        assert!(matches!(says(b"{\"return\": 7}").await, Err(AgentError::Timeout(_))));
        for garbage in [&b"\n"[..], b"[]\n", b"\xff\xfe\n", b"{\"returned\": 7}\n"] {
            assert!(matches!(says(garbage).await, Err(AgentError::Protocol)), "{garbage:?}");
        }
        static LARGE: [u8; limits::AGENT_ANSWER_BYTES as usize] =
            [b'x'; limits::AGENT_ANSWER_BYTES as usize];
        assert!(matches!(says(&LARGE).await, Err(AgentError::TooLarge(_))));
        let refused = says(b"{\"error\": {\"desc\": \"no\\u001b[2J\"}}\n").await.unwrap_err();
        assert_eq!(refused.to_string(), "the guest's agent refused guest-ping: no\\u{1b}[2J");
    }

    /// Answers to an earlier connection, and to other numbers, come before the agent's answer.
    #[tokio::test(start_paused = true)]
    async fn an_earlier_answer_is_passed_over() {
        let ping = Command::new("guest-ping");
        let answer = answered(&ping, async |stream: &mut UnixStream, request: &Value| {
            if request["execute"] == "guest-sync-delimited" {
                stream.write_all(b"{\"return\": \"late\"}\n\xff{\"return\": 1}\n").await.unwrap();
            }
            if !syncs(stream, request).await {
                stream.write_all(b"{\"return\": {}}\n").await.unwrap();
            }
        });
        assert_eq!(answer.await.unwrap(), json!({}));
    }

    /// A guest that never stops sending is given up.
    #[tokio::test]
    async fn an_agent_that_floods_is_given_up() {
        let ping = Command::new("guest-ping");
        let answer = answered(
            &ping,
            async |stream: &mut UnixStream, _: &Value| {
                while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
            },
        );
        let answer = answer.await;
        assert!(matches!(answer, Err(AgentError::Protocol | AgentError::Timeout(_))), "{answer:?}");
    }
}
