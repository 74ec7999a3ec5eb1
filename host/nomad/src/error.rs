//! Errors of this door, and the engine's as Nomad takes them: a status, with whether its restart policy applies.

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
    /// It was started by hand.
    #[error(
        "this is started by an agent of Nomad's, which sets NOMAD_PLUGIN_MAGIC_COOKIE: link it into the agent's plugin_dir as qhost, and name it in a block plugin \"qhost\""
    )]
    NotByAgent,
    /// An agent of another time.
    #[error(
        "the agent offers the plugin protocols {offered}; this plugin speaks 2, as Nomad 0.9 and later do"
    )]
    Protocol {
        /// The versions.
        offered: String,
    },
    /// An agent's certificate.
    #[error("PLUGIN_CLIENT_CERT: {0}; expected the agent's certificate, in PEM")]
    AgentCertificate(String),
    /// The plugin's own certificate.
    #[error("cannot make a certificate for the plugin's socket: {0}")]
    Certificate(String),
    /// The socket.
    #[error("cannot make a socket in {}: {source}", folder.display())]
    Socket {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The line.
    #[error("cannot tell the agent where the socket is: {0}")]
    Announce(io::Error),
    /// Signals.
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
    /// The plugin block's config.
    #[error("the config block of plugin \"qhost\": {0}")]
    Settings(String),
    /// The server.
    #[error("cannot serve")]
    Serve(#[from] tonic::transport::Error),
}

/// The status of a call about what is not there, or in another state than it must be.
pub(crate) fn refused(code: Code, message: impl Into<String>) -> Status {
    status(code, message.into(), false)
}

/// What the engine did not do, as a status.
pub(crate) fn of_engine(error: &EngineError) -> Status {
    // Where a job that was made of a task has the task's own keys.
    let mut text = in_a_line(error).replace("/TaskGroups/0/Tasks/0/Config/", "/config/");
    // The reasons are events too, of which an agent shows the last ten.
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

/// Why a task was refused: what the policies say that refuse it, and the host's own rules.
fn violations(decision: &Decision) -> impl Iterator<Item = &Violation> {
    let of_policies = decision.policies.iter().filter(|policy| policy.refuses());
    of_policies.flat_map(|policy| &policy.violations).chain(&decision.host.violations)
}

/// A status; `may_help` is whether the task is worth another try.
pub(crate) fn status(code: Code, message: String, may_help: bool) -> Status {
    // Text of others' is in it; and a client gives a call up whose trailer is too long.
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

/// An error with its causes.
pub(crate) fn in_a_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
