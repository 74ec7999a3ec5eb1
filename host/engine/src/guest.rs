//! A guest's agent: what it says of the guest, and commands to it. All answers are bounded and timed, and shown as the guest's own words.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time;

use qhost_model::{launch::AccessLevel, printable};
use qhost_vm::{Agent, AgentError, Command, Frozen, Spec, VmError, freeze_guest, take_screenshot};

use crate::{
    engine::blocking,
    error::{EngineError, Failure},
    limits, operation,
    vm::Vm,
};

/// What a guest's agent says of it: the guest's words, which may say anything.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct GuestInfo {
    /// Its operating system, as in `Debian GNU/Linux 12 (bookworm)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// The version of its kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Its host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The addresses of its network interfaces, but for loopback's.
    pub addresses: Vec<GuestAddress>,
    /// Why there is no more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An address of a guest's.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct GuestAddress {
    /// The interface's name in the guest.
    pub interface: String,
    /// The address, as in `10.0.2.15/24`.
    pub address: String,
}

/// A command for a guest.
#[derive(Debug, Clone)]
pub struct Exec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The command's standard input.
    pub stdin: Vec<u8>,
    /// How long the command may take.
    pub timeout: Duration,
}

/// The output of a command in a guest.
#[derive(Debug)]
pub struct ExecOutput {
    /// How the command ended.
    pub status: ExecStatus,
    /// The command's standard output, the guest's bytes.
    pub stdout: Vec<u8>,
    /// The command's standard error, the guest's bytes.
    pub stderr: Vec<u8>,
    /// Whether the agent has left out a part of the output.
    pub truncated: bool,
}

/// How a command in a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecStatus {
    /// The command exited with this code: from 0 to 255 in Linux, any 32 bits in Windows.
    Code(i64),
    /// A signal ended the command; in Windows, an exception of this code.
    Signal(i64),
}

/// The same as programs are told it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ExecReport {
    /// The VM's id.
    pub vm: String,
    /// With what it exited; null where a signal ended it.
    pub exit_code: Option<i64>,
    /// What ended it; null where it exited.
    pub signal: Option<i64>,
    /// Its standard output, with what is no UTF-8 replaced.
    pub stdout: String,
    /// Its standard error, the same.
    pub stderr: String,
    /// Whether the agent has left a part of either out.
    pub truncated: bool,
}

impl ExecOutput {
    /// Makes the report for programs.
    pub fn report(&self, vm: &str) -> ExecReport {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (exit_code, signal) = match self.status {
            ExecStatus::Code(code) => (Some(code), None),
            ExecStatus::Signal(signal) => (None, Some(signal)),
        };
        ExecReport {
            vm: vm.to_owned(),
            exit_code,
            signal,
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            truncated: self.truncated,
        }
    }
}

impl Vm {
    /// Asks the agent about the guest; absent where the VM's launch has no agent, or the VM has ended.
    pub async fn guest(&self) -> Option<GuestInfo> {
        self.goes_on().await.ok()?;
        let folder = self.folder().to_owned();
        let spec = blocking(move || Ok(Spec::read(&folder)?)).await.ok()?;
        if spec.agent == AccessLevel::None {
            return None;
        }
        let mut info = GuestInfo::default();
        let asked = time::timeout(limits::GUEST_INFO, self.fill(&mut info)).await;
        info.error = match asked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(silent(limits::GUEST_INFO)),
        };
        Some(info)
    }

    async fn fill(&self, info: &mut GuestInfo) -> Result<(), AgentError> {
        let mut agent = Agent::connect(self.folder()).await?;
        let os = agent.execute(&Command::new("guest-get-osinfo")).await?;
        info.os = text(&os, "pretty-name");
        info.kernel = text(&os, "kernel-release");
        let name = agent.execute(&Command::new("guest-get-host-name")).await?;
        info.hostname = text(&name, "host-name");
        let interfaces = agent.execute(&Command::new("guest-network-get-interfaces")).await?;
        info.addresses = addresses(&interfaces);
        Ok(())
    }

    /// Runs a command in the guest by the agent, as the agent's user, which is mostly root, and waits for the command's end. The caller
    /// asks the policies first ([`Vm::permit`]).
    ///
    /// # Errors
    /// Fails where the VM's launch does not give the agent the level `interact`, where the agent does not answer or refuses, and where the
    /// command takes longer than `exec.timeout`, after which the command goes on in the guest.
    pub async fn exec(&self, exec: &Exec) -> Result<ExecOutput, EngineError> {
        self.require_agent().await?;
        let told = |error: AgentError| self.agent_error(error);
        let Some((program, arguments)) = exec.command.split_first() else {
            return Err(Failure::Usage("no command to run in the guest".into()).into());
        };
        operation::command_is_bounded(&exec.command)?;
        let by = Instant::now() + exec.timeout;
        let mut agent = Agent::connect(self.folder()).await.map_err(told)?;
        let started = agent.execute(&begin(program, arguments, &exec.stdin)).await.map_err(told)?;
        let pid = started.get("pid").and_then(Value::as_i64).ok_or(AgentError::Protocol);
        let pid = pid.map_err(told)?;
        // The pauses begin short, so that a quick command is not waited for, and grow, so that a long one is asked about seldom.
        let mut pause = limits::EXEC_LOOK;
        loop {
            let status = Command {
                arguments: json!({ "pid": pid }),
                most: limits::EXEC_ANSWER_BYTES,
                within: limits::EXEC_ANSWER,
                ..Command::new("guest-exec-status")
            };
            let status = agent.execute(&status).await.map_err(told)?;
            if status.get("exited") == Some(&Value::Bool(true)) {
                return ended(&status)
                    .ok_or(AgentError::Protocol)
                    .map_err(|error| told(error).into());
            }
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = exec.timeout.as_secs();
                let reason = format!(
                    "the command has not ended within {seconds} s, and goes on in the guest as its process {pid}; to wait longer: --timeout"
                );
                return Err(VmError::Refused { id: self.id().into(), reason }.into());
            }
            time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(limits::EXEC_LOOK_MOST);
        }
    }

    /// Takes a picture of the guest's display, as PNG. The caller asks the policies first ([`Vm::permit`]).
    ///
    /// # Errors
    /// Fails where the VM's launch has no display, or its supervisor or QEMU does not answer.
    pub async fn screenshot(&self) -> Result<Vec<u8>, EngineError> {
        self.goes_on().await?;
        let taken = take_screenshot(self.folder()).await;
        Ok(taken.map_err(|error| self.refused(error))?)
    }

    /// Freezes the guest's file systems until what this gives is dropped.
    ///
    /// # Errors
    /// Fails where the VM's launch does not let the agent freeze the guest, or the agent does not answer or cannot.
    pub async fn freeze(&self) -> Result<Frozen, EngineError> {
        self.require_agent().await?;
        let frozen = freeze_guest(self.folder()).await;
        Ok(frozen.map_err(|error| self.refused(error))?)
    }

    async fn require_agent(&self) -> Result<(), EngineError> {
        self.goes_on().await?;
        let folder = self.folder().to_owned();
        let spec = blocking(move || Ok(Spec::read(&folder)?)).await?;
        let reason = match spec.agent {
            AccessLevel::Interact => return Ok(()),
            AccessLevel::Watch => {
                "its launch lets the agent in its guest be asked for information alone: set guest_agent to true in its job, if its policies allow it"
            }
            AccessLevel::None => {
                "its launch has no channel to an agent in the guest: set guest_agent to true in its job, if its policies allow it"
            }
        };
        Err(VmError::Refused { id: self.id().into(), reason: reason.into() }.into())
    }

    fn agent_error(&self, error: AgentError) -> VmError {
        let hint = match &error {
            AgentError::Timeout(_) => {
                "; is qemu-guest-agent installed in the guest, and has the guest started it?"
            }
            AgentError::TooLarge(_) => "; have the command write its output to a file",
            AgentError::Io(_) | AgentError::Refused { .. } | AgentError::Protocol => "",
        };
        VmError::Refused { id: self.id().into(), reason: format!("{error}{hint}") }
    }
}

fn silent(most: Duration) -> String {
    AgentError::Timeout(most).to_string()
}

fn text(answer: &Value, key: &str) -> Option<String> {
    let text = answer.get(key)?.as_str().filter(|text| !text.is_empty())?;
    Some(printable::line(text, limits::GUEST_TEXT_CHARS).to_string())
}

fn addresses(interfaces: &Value) -> Vec<GuestAddress> {
    let interfaces = interfaces.as_array().into_iter().flatten();
    let of = |interface: &Value| {
        let name = text(interface, "name").unwrap_or_default();
        let addresses = interface.get("ip-addresses").and_then(Value::as_array);
        let addresses = addresses.into_iter().flatten().filter_map(address);
        addresses
            .map(|address| GuestAddress { interface: name.clone(), address })
            .collect::<Vec<_>>()
    };
    let all = interfaces.flat_map(of).filter(|one| !one.is_loopback());
    all.take(limits::GUEST_ADDRESSES).collect()
}

fn address(value: &Value) -> Option<String> {
    let address: std::net::IpAddr = value.get("ip-address")?.as_str()?.parse().ok()?;
    let prefix = value.get("prefix").and_then(Value::as_u64).filter(|prefix| *prefix <= 128)?;
    Some(format!("{address}/{prefix}"))
}

impl GuestAddress {
    fn is_loopback(&self) -> bool {
        let address = self.address.split('/').next().unwrap_or_default();
        address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// The agent's command that starts a command in the guest.
fn begin(program: &str, arguments: &[String], stdin: &[u8]) -> Command<'static> {
    let mut start = json!({"path": program, "arg": arguments, "capture-output": true});
    if !stdin.is_empty()
        && let Some(start) = start.as_object_mut()
    {
        start.insert("input-data".into(), BASE64_STANDARD.encode(stdin).into());
    }
    let begin = Command::new("guest-exec");
    let within = if stdin.is_empty() { begin.within } else { limits::EXEC_ANSWER };
    Command { arguments: start, within, ..begin }
}

/// The output of a command that has ended; absent where the agent's answer does not say how.
fn ended(answer: &Value) -> Option<ExecOutput> {
    let number = |key: &str| answer.get(key).and_then(Value::as_i64);
    let status = match (number("signal"), number("exitcode")) {
        (Some(signal), _) => ExecStatus::Signal(signal),
        (None, Some(code)) => ExecStatus::Code(code),
        (None, None) => return None,
    };
    let bytes = |key: &str| match answer.get(key) {
        Some(data) => BASE64_STANDARD.decode(data.as_str()?).ok(),
        None => Some(vec![]),
    };
    let is_true = |key: &str| answer.get(key) == Some(&Value::Bool(true));
    Some(ExecOutput {
        status,
        stdout: bytes("out-data")?,
        stderr: bytes("err-data")?,
        truncated: is_true("out-truncated") || is_true("err-truncated"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_of_addresses_is_checked() {
        let address = |address: &str, prefix| json!({"ip-address": address, "prefix": prefix, "ip-address-type": "ipv4"});
        let interfaces = json!([
            {"name": "lo", "ip-addresses": [address("127.0.0.1", 8), address("::1", 128)]},
            {"name": "eth0\u{1b}[2J", "ip-addresses": [address("10.0.2.15", 24), address("not one", 24), address("fec0::1", 64), address("10.0.0.1", 400)]},
            {"name": "down"},
            7,
        ]);
        let found = addresses(&interfaces);
        let found: Vec<_> =
            found.iter().map(|one| (one.interface.as_str(), one.address.as_str())).collect();
        let name = "eth0\\u{1b}[2J";
        assert_eq!(found, [(name, "10.0.2.15/24"), (name, "fec0::1/64")]);
        let many: Vec<_> = (0..1000)
            .map(|_| json!({"name": "x", "ip-addresses": [address("10.0.0.1", 8)]}))
            .collect();
        assert_eq!(addresses(&json!(many)).len(), limits::GUEST_ADDRESSES);
    }

    #[test]
    fn a_command_has_time_to_reach_a_slow_guest() {
        let begin = begin("/bin/cat", &[], &vec![0; limits::EXEC_STDIN_BYTES]);
        let bytes = begin.arguments.to_string().len() as u64;
        // A guest under tcg beside two others reads so many bytes a second.
        assert!(begin.within.as_secs() * (100 << 10) > bytes, "{:?}", begin.within);
    }

    #[test]
    fn how_a_command_ended() {
        let output = ended(
            &json!({"exited": true, "exitcode": 3, "out-data": "aGk=", "err-truncated": true}),
        )
        .unwrap();
        assert_eq!(
            (output.status, output.stdout, output.stderr, output.truncated),
            (ExecStatus::Code(3), b"hi".to_vec(), vec![], true)
        );
        let killed = ended(&json!({"exited": true, "signal": 9})).unwrap();
        assert_eq!(killed.status, ExecStatus::Signal(9));
        for wrong in [
            json!({"exited": true}),
            json!({"exited": true, "exitcode": "0"}),
            json!({"exited": true, "exitcode": 0, "out-data": "not base64!"}),
            json!({"exited": true, "exitcode": 0, "out-data": 7}),
        ] {
            assert!(ended(&wrong).is_none(), "{wrong}");
        }
    }
}
