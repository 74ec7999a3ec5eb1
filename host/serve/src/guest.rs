//! The requests that a guest answers: by its agent, and by its display.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use qhost_engine::{Exec, ExecReport, GuestInfo};
use qhost_policy::Operation;

use crate::{
    Service,
    caller::Caller,
    limits,
    problem::Problem,
    query::{Named, Object},
    vms,
};

/// A command for a guest.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    command: Vec<String>,
    /// Its standard input, in Base64; empty unless it is given.
    #[serde(default)]
    #[schemars(extend("contentEncoding" = "base64"))]
    stdin: String,
    /// How long it may take, in seconds from 1 to 180; 60 unless they are given. It goes on in the guest after that.
    #[schemars(range(min = 1, max = 180))]
    timeout_s: Option<u64>,
}

impl Command {
    fn exec(self) -> Result<Exec, Problem> {
        let timeout = self.timeout_s.map_or(qhost_engine::limits::EXEC, Duration::from_secs);
        if timeout.is_zero() || timeout > limits::EXEC_MOST {
            let most = limits::EXEC_MOST.as_secs();
            return Err(Problem::invalid(format!("timeout_s: expected a number from 1 to {most}")));
        }
        let stdin = BASE64_STANDARD.decode(self.stdin).ok();
        let stdin =
            stdin.filter(|stdin| stdin.len() <= limits::EXEC_STDIN_BYTES).ok_or_else(|| {
                let most = limits::EXEC_STDIN_BYTES >> 10;
                Problem::invalid(format!("stdin: expected at most {most} KiB, in Base64"))
            })?;
        Ok(Exec { command: self.command, stdin, timeout })
    }
}

/// What a command in a guest has come to.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ran {
    #[serde(flatten)]
    report: ExecReport,
    /// Its standard output as it wrote it, in Base64.
    #[schemars(extend("contentEncoding" = "base64"))]
    stdout_base64: String,
    /// Its standard error, the same.
    #[schemars(extend("contentEncoding" = "base64"))]
    stderr_base64: String,
}

/// What a guest says of itself.
pub(crate) async fn info(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<Json<Option<GuestInfo>>, Problem> {
    Ok(Json(vms::meant(&service, &caller, &word).await?.guest().await))
}

pub(crate) async fn exec(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
    Object(command): Object<Command>,
) -> Result<Json<Ran>, Problem> {
    let exec = command.exec()?;
    let operation = Operation::Exec(exec.command.clone());
    let vm = vms::permitted(&service, &caller, &word, operation, "exec").await?;
    let output = vm.exec(&exec).await?;
    let [stdout_base64, stderr_base64] =
        [&output.stdout, &output.stderr].map(|bytes| BASE64_STANDARD.encode(bytes));
    Ok(Json(Ran { report: output.report(vm.id()), stdout_base64, stderr_base64 }))
}

pub(crate) async fn screenshot(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<Response, Problem> {
    let vm = vms::permitted(&service, &caller, &word, Operation::Screenshot, "screenshot").await?;
    let png = vm.screenshot().await?;
    // The guest has drawn the picture, so that a browser must not take its bytes for another type.
    let headers =
        [(header::CONTENT_TYPE, "image/png"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, png).into_response())
}
