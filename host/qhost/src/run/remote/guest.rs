//! Commands in a guest of another host: `exec` and `screenshot`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use qhost_engine::{Exec, ExecReport};

use super::Host;
use crate::{
    cli::{ExecArgs, ScreenshotArgs},
    exit::{Exit, ExitStatus},
    run::{
        RunError,
        vms::{exec, screenshot},
    },
};

/// The result of a command in a guest.
#[derive(Deserialize)]
struct Ran {
    #[serde(flatten)]
    report: ExecReport,
    stdout_base64: String,
    stderr_base64: String,
}

impl Host<'_> {
    pub(super) async fn exec(&self, args: &ExecArgs) -> Result<ExitStatus, RunError> {
        let Exec { command, stdin, timeout } = exec::asked(args)?;
        let body = json!({
            "command": command,
            "stdin": BASE64_STANDARD.encode(stdin),
            "timeout_s": timeout.as_secs(),
        });
        let at = self.client.at(&["v1", "vms", &args.which.name(), "exec"], &[]);
        let body = Some(body.to_string().into_bytes());
        // A guest's output is no text of the service: it is shown as the command's own output is.
        let said = self.client.bytes(Method::POST, at, body).await?;
        let malformed = |error: &dyn std::fmt::Display| self.client.malformed(error.to_string());
        let ran: Ran = serde_json::from_slice(&said).map_err(|error| malformed(&error))?;
        let bytes = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| malformed(&error));
        let (out, err) = (bytes(&ran.stdout_base64)?, bytes(&ran.stderr_base64)?);
        Ok(exec::told(self.shared, &ran.report, &out, &err))
    }

    pub(super) async fn screenshot(&self, args: &ScreenshotArgs) -> Result<Exit, RunError> {
        screenshot::may_be_written(self.shared, args)?;
        let vm = self.details(&args.which.name()).await?.vm.id;
        let at = self.client.at(&["v1", "vms", &vm, "screenshot"], &[]);
        let png = self.client.bytes(Method::POST, at, None).await?;
        screenshot::write(self.shared, args, &vm, &png)
    }
}
