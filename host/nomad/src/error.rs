//! Errors of this door, and the engine's errors as Nomad takes them: a status that says whether Nomad's restart policy
//! applies.

use std::{fmt::Write as _, io, path::PathBuf};

use prost::Message as _;
use tonic::{Code, Status};

use qhost_engine::EngineError;
use qhost_model::{kind::Kind, launch::Violation, printable};
use qhost_policy::Decision;

use crate::{
    limits,
    proto::{google::rpc, structs::RecoverableError},
};

/// Why the plugin does not serve.
#[derive(Debug, thiserror::Error)]
pub enum NomadError {
    /// The plugin was started by hand.
    #[error(
        "this is started by an agent of Nomad's, which sets NOMAD_PLUGIN_MAGIC_COOKIE: link it into the agent's plugin_dir as qhost, and name it in a block plugin \"qhost\""
    )]
    NotByAgent,
    /// The agent speaks another version of the protocol.
    #[error(
        "the agent offers the plugin protocols {offered}; this plugin speaks 2, as Nomad 0.9 and later do"
    )]
    Protocol {
        /// The versions that the agent offers.
        offered: String,
    },
    /// The agent's certificate cannot be read.
    #[error("PLUGIN_CLIENT_CERT: {0}; expected the agent's certificate, in PEM")]
    AgentCertificate(String),
    /// The plugin's own certificate cannot be made.
    #[error("cannot make a certificate for the plugin's socket: {0}")]
    Certificate(String),
    /// The socket cannot be made.
    #[error("cannot make a socket in {}: {source}", folder.display())]
    Socket {
        /// The folder that the socket was to be in.
        folder: PathBuf,
        /// Why the socket cannot be made.
        source: io::Error,
    },
    /// The agent cannot be told where the socket is.
    #[error("cannot tell the agent where the socket is: {0}")]
    Announce(io::Error),
    /// Signals cannot be listened to.
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
    /// The config in the plugin's block cannot be used.
    #[error("the config block of plugin \"qhost\": {0}")]
    Settings(String),
    /// The server failed.
    #[error("cannot serve")]
    Serve(#[from] tonic::transport::Error),
}

/// The status of a call that is not worth another try, such as one about a task that does not exist or is in another
/// state.
pub(crate) fn refused(code: Code, message: impl Into<String>) -> Status {
    status(code, message.into(), false)
}

/// The status of a call that the engine refused or failed.
pub(crate) fn of_engine(error: &EngineError) -> Status {
    // Places of the job that was made from the task become places of the task's own config.
    let mut text = in_a_line(error).replace("/TaskGroups/0/Tasks/0/Config/", "/config/");
    // The reasons are events too, and an agent shows only the last ten events, so that they stand here as well.
    for violation in error.verdict().into_iter().flat_map(violations) {
        let hint = violation.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let _written: Result<(), _> =
            write!(text, "\n{}: {}{hint}", violation.code, violation.message);
    }
    if let Some(hint) = error.hint() {
        let _written: Result<(), _> = write!(text, "\n{hint}");
    }
    let (code, may_help) = match error.kind() {
        Kind::InvalidArgument => (Code::FailedPrecondition, false),
        Kind::InvalidJob => (Code::InvalidArgument, false),
        Kind::Denied => (Code::PermissionDenied, false),
        Kind::PolicyFailed => (Code::Internal, false),
        Kind::ChecksumMismatch => (Code::DataLoss, false),
        Kind::ImageRejected => (Code::FailedPrecondition, false),
        // Another try, here or on another host, may find the network, the room or the port.
        Kind::Unavailable => (Code::Unavailable, true),
        Kind::HostUnable => (Code::ResourceExhausted, true),
        Kind::VmFailed => (Code::Aborted, true),
        Kind::Cancelled => (Code::Cancelled, true),
        Kind::CheckFailed => (Code::FailedPrecondition, false),
    };
    status(code, text, may_help)
}

/// The violations for which a task was refused, of policies and of the host's own rules.
fn violations(decision: &Decision) -> impl Iterator<Item = &Violation> {
    let of_policies = decision.policies.iter().filter(|policy| policy.refuses());
    of_policies.flat_map(|policy| &policy.violations).chain(&decision.host.violations)
}

/// Makes a status; `may_help` is whether the task is worth another try.
pub(crate) fn status(code: Code, message: String, may_help: bool) -> Status {
    // The message has text of others in it, and a client gives up a call whose trailer is too long.
    let mut message = printable::lines(&message, limits::STATUS_BYTES).to_string();
    if message.len() > limits::STATUS_BYTES {
        message.truncate(message.floor_char_boundary(limits::STATUS_BYTES));
        message.push('…');
    }
    let detail = prost_types::Any {
        type_url: "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError"
            .into(),
        value: RecoverableError { recoverable: may_help }.encode_to_vec(),
    };
    let details =
        rpc::Status { code: code as i32, message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// An error and its causes in one line.
pub(crate) fn in_a_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
