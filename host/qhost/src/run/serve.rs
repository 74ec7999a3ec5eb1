//! `qhost serve`: the host as a service, until it is told to stop.

use std::path::PathBuf;

use rustix::process::geteuid;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use qhost_engine::{Engine, config::Config};
use qhost_serve::Socket;

use super::{RunError, engine, show};
use crate::{
    cli::{ServeArgs, Shared},
    exit::Exit,
};

pub(super) async fn serve(shared: &Shared, args: &ServeArgs) -> Exit {
    match served(shared, args).await {
        Ok(()) => Exit::Done,
        Err(error) => show::failure(shared, &error),
    }
}

async fn served(shared: &Shared, args: &ServeArgs) -> Result<(), RunError> {
    let engine = engine(shared)?;
    // A service whose policies do not load is not one.
    engine.policies().await?;
    engine.recover().await;
    let path = match &args.listen {
        Some(path) => path.clone(),
        None => default_socket()?,
    };
    qhost_sys::memory::share_one_arena();
    let signals = |kind| signal(kind).map_err(RunError::Runtime);
    let mut terminate = signals(SignalKind::terminate())?;
    let (mut interrupt, mut hangup) =
        (signals(SignalKind::interrupt())?, signals(SignalKind::hangup())?);
    let socket = Socket::bind(&path).await.map_err(|error| RunError::Usage(in_a_line(&error)))?;
    show::say(&format!("serving   unix:{}", path.display()));
    let leave = CancellationToken::new();
    let serving = qhost_serve::serve(engine.clone(), socket, leave.clone());
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            () = &mut serving => return Ok(()),
            _ = terminate.recv() => leave.cancel(),
            _ = interrupt.recv() => leave.cancel(),
            _ = hangup.recv() => reload(shared, &engine).await,
        }
    }
}

/// Takes the configuration over as it is now, whole, or goes on with the one before.
async fn reload(shared: &Shared, engine: &Engine) {
    let reloaded = match Config::load(shared.config.as_deref()) {
        Ok(config) => engine.reload(config).await.map_err(|error| in_a_line(&error)),
        Err(error) => Err(in_a_line(&error)),
    };
    match reloaded {
        Ok(()) => show::say("reloaded  the configuration"),
        Err(error) => tracing::error!(error, "the configuration stays as it was"),
    }
}

/// Root's is the host's; a user's is where the user's session has its sockets.
fn default_socket() -> Result<PathBuf, RunError> {
    if geteuid().is_root() {
        return Ok("/run/qhost/api.sock".into());
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let none = || RunError::Usage("XDG_RUNTIME_DIR is not set; name the socket: --listen".into());
    Ok(PathBuf::from(runtime.ok_or_else(none)?).join("qhost.sock"))
}

fn in_a_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
