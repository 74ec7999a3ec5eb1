//! What is done when a VM ends, and how it is known that its guest is ready. The keys are the same in both forms.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cursor::{Cursor, Object};
use crate::{
    launch::{PortRequest, Protocol},
    limits,
};

/// When a VM that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartWhen {
    /// Never.
    #[default]
    Never,
    /// When QEMU or the guest's kernel failed, or how it ended is not known.
    OnFailure,
    /// Whenever its end was not asked for.
    Always,
}

impl RestartWhen {
    /// All choices.
    const ALL: [Self; 3] = [Self::Never, Self::OnFailure, Self::Always];

    /// The choice's name in job files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

/// The restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Restart {
    /// When.
    pub policy: RestartWhen,
    /// How often in a row; a VM that then ran for [`limits::RESTART_SETTLED`] begins anew.
    pub attempts: u32,
    /// Seconds before the first; each further one in a row waits twice as long. From the fourth on, no less than
    /// [`limits::RESTART_DELAY_LEAST`], which doubles too.
    pub delay_s: u64,
    /// The longest wait in seconds, unless the least that a host allows is longer.
    pub max_delay_s: u64,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartWhen::Never,
            attempts: limits::RESTART_ATTEMPTS,
            delay_s: limits::RESTART_DELAY.as_secs(),
            max_delay_s: limits::RESTART_DELAY_MOST.as_secs(),
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, attempts, delay_s, max_delay_s } = self;
        let when = match policy {
            RestartWhen::Never => return f.write_str("never"),
            RestartWhen::OnFailure => "on failure",
            RestartWhen::Always => "always",
        };
        write!(f, "{when}, {attempts} times in a row, after {delay_s} s to {max_delay_s} s")
    }
}

impl Restart {
    /// Whether this is the policy of a job that names none.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a VM is started again, given whether it failed.
    pub fn wants(&self, failed: bool) -> bool {
        match self.policy {
            RestartWhen::Never => false,
            RestartWhen::OnFailure => failed,
            RestartWhen::Always => true,
        }
    }

    /// The wait in seconds before another restart after so many in a row; none where no more are made.
    pub fn delay_s(&self, restarts: u32) -> Option<u64> {
        let doubled = self.delay_s.saturating_mul(1 << restarts.min(32)).min(self.max_delay_s);
        (restarts < self.attempts).then_some(doubled.max(least_delay_s(restarts)))
    }
}

/// The least wait before a restart, whatever a job asks for: a guest that fails at once would keep its host busy with
/// starts.
fn least_delay_s(restarts: u32) -> u64 {
    match restarts.checked_sub(limits::RESTARTS_AT_WILL) {
        Some(further) => {
            let doubled =
                limits::RESTART_DELAY_LEAST.as_secs().saturating_mul(1 << further.min(32));
            doubled.min(limits::RESTART_DELAY_MOST.as_secs())
        }
        None => 0,
    }
}

/// How it is known that a guest does what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// What the guest must show.
    #[serde(flatten)]
    pub check: ReadyCheck,
    /// Seconds after which a guest that is not ready has failed.
    pub timeout_s: u64,
}

/// What a guest must show to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyCheck {
    /// A text on the guest's serial console.
    Serial(String),
    /// Bytes from the port of this label. A connection alone says nothing, as QEMU accepts it before any guest runs.
    Tcp(String),
    /// An HTTP status from 200 to 399.
    Http {
        /// The port's label.
        port: String,
        /// The path that is asked for.
        path: String,
    },
    /// An answer of the agent in the guest.
    Agent,
}

pub(super) fn restart(cursor: Cursor<'_>) -> Option<Restart> {
    let default = Restart::default();
    if cursor.value().is_string() {
        let policy = cursor.word(&RestartWhen::ALL, RestartWhen::name)?;
        return Some(Restart { policy, ..default });
    }
    let block = cursor.object(&["policy", "attempts", "delay_s", "max_delay_s"])?;
    let policy = block
        .required("policy", "never, on-failure or always")
        .and_then(|policy| policy.word(&RestartWhen::ALL, RestartWhen::name));
    let attempts = match block.optional("attempts") {
        Some(attempts) => attempts.number(0..=limits::RESTART_ATTEMPTS_MOST, "restarts in a row"),
        None => Some(default.attempts),
    };
    let seconds = |key: &str, default: u64| match block.optional(key) {
        Some(seconds) => seconds.number(0..=limits::LIFECYCLE_MOST.as_secs(), "seconds"),
        None => Some(default),
    };
    let delay_s = seconds("delay_s", default.delay_s);
    let max_delay_s = seconds("max_delay_s", default.max_delay_s);
    Some(Restart {
        policy: policy?,
        attempts: attempts?,
        delay_s: delay_s?,
        max_delay_s: max_delay_s?,
    })
}

/// Reads the ready check of a config block, whose port must be one that is forwarded; `ports` is absent where the ports
/// could not be read.
pub(super) fn ready_of(
    config: &Object<'_>,
    ports: Option<&[PortRequest]>,
) -> Option<Option<Ready>> {
    match config.optional("ready") {
        Some(block) => ready(block, config, ports?).map(Some),
        None => Some(None),
    }
}

fn ready(cursor: Cursor<'_>, config: &Object<'_>, ports: &[PortRequest]) -> Option<Ready> {
    let block = cursor.object(&["serial", "tcp", "http", "path", "agent", "timeout_s"])?;
    let timeout_s = match block.optional("timeout_s") {
        Some(timeout) => timeout.number(1..=limits::LIFECYCLE_MOST.as_secs(), "seconds"),
        None => Some(limits::READY.as_secs()),
    };
    let kinds = ["serial", "tcp", "http", "agent"].map(|key| block.optional(key));
    let check = match kinds {
        [Some(text), None, None, None] => text
            .text(limits::READY_TEXT_BYTES, "a text")
            .map(|text| ReadyCheck::Serial(text.into())),
        [None, Some(port), None, None] => label(&port, ports).map(ReadyCheck::Tcp),
        [None, None, Some(port), None] => {
            let path = path(&block);
            label(&port, ports).zip(path).map(|(port, path)| ReadyCheck::Http { port, path })
        }
        [None, None, None, Some(asked)] => agent(&asked, config),
        [_, _, _, _] => block.here().refuse("one of serial, tcp, http and agent"),
    };
    Some(Ready { check: check?, timeout_s: timeout_s? })
}

/// Reads the check that asks the agent, which needs the channel that `guest_agent` asks for.
fn agent(asked: &Cursor<'_>, config: &Object<'_>) -> Option<ReadyCheck> {
    if !asked.boolean()? {
        return asked.refuse("true, or no agent");
    }
    // A wrong value of `guest_agent` is refused where the launch is read.
    let asks = |channel: Cursor<'_>| *channel.value() != Value::Bool(false);
    match config.optional("guest_agent") {
        Some(channel) if asks(channel.clone()) => Some(ReadyCheck::Agent),
        Some(_) | None => asked.refuse_with_hint(
            "no agent, as the guest has no channel for it",
            "set guest_agent to true beside ready, and have the image start qemu-guest-agent",
        ),
    }
}

fn label(cursor: &Cursor<'_>, ports: &[PortRequest]) -> Option<String> {
    let label = cursor.text(limits::LABEL_BYTES, "a port's label")?;
    match ports.iter().find(|port| port.label == label) {
        Some(port) if port.protocol == Protocol::Tcp => Some(label.to_owned()),
        Some(_) => cursor.refuse("the label of a port that is forwarded by TCP"),
        None => cursor.refuse("the label of a port that the task forwards"),
    }
}

fn path(block: &Object<'_>) -> Option<String> {
    let Some(cursor) = block.optional("path") else { return Some("/".into()) };
    let path = cursor.text(limits::URL_BYTES, "a path")?;
    // The path goes into a request line unchanged, so that it has no blanks and no line breaks.
    if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some(path.to_owned())
    } else {
        cursor.refuse("a path that begins with /, of printable ASCII, no spaces")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_cap() {
        let restart =
            Restart { policy: RestartWhen::OnFailure, attempts: 5, delay_s: 3, max_delay_s: 10 };
        let waits: Vec<_> = (0..6).map(|restarts| restart.delay_s(restarts)).collect();
        assert_eq!(waits, [Some(3), Some(6), Some(10), Some(10), Some(10), None]);
        let at_once = Restart { attempts: 1_000_000, delay_s: 0, max_delay_s: 0, ..restart };
        let waits = |range: std::ops::Range<u32>| {
            range.filter_map(|restarts| at_once.delay_s(restarts)).collect::<Vec<_>>()
        };
        assert_eq!(waits(0..11), [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits(999_998..1_000_001), [60, 60]);
        assert!(restart.wants(true) && !restart.wants(false));
        let patient = Restart { attempts: u32::MAX, delay_s: 3600, max_delay_s: 7200, ..restart };
        assert_eq!(patient.delay_s(1000), Some(7200));
    }
}
