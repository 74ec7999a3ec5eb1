//! `qhost serve`: the host as a service, until it is told to stop.

use std::{path::PathBuf, sync::Arc};

use rustix::process::geteuid;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use qhost_engine::Engine;
use qhost_serve::{Identity, Place, Socket, reload_from_disk, systemd};

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
    let passed = systemd::passed();
    let engine = engine(shared)?;
    // A service whose policies do not load does not start.
    engine.policies().await?;
    engine.recover().await;
    engine.sweep_components();
    qhost_sys::memory::share_one_arena();
    let signals = |kind| signal(kind).map_err(RunError::Runtime);
    let mut terminate = signals(SignalKind::terminate())?;
    let (mut interrupt, mut hangup) =
        (signals(SignalKind::interrupt())?, signals(SignalKind::hangup())?);
    let usage = |error: &dyn std::error::Error| RunError::Usage(in_a_line(error));
    // The lock is taken before a socket is there, so that a second service listens nowhere.
    std::mem::forget(qhost_serve::hold(&engine).map_err(|error| usage(&error))?);
    let identity = engine.config().api_tls().map(|files| Identity::read(&files)).transpose();
    let identity = identity.map_err(|error| usage(&error))?.map(Arc::new);
    let mut sockets = passed.sockets(identity.as_ref()).map_err(|error| usage(&error))?;
    let places = match args.listen.as_slice() {
        [] if sockets.is_empty() => vec![default_place()?],
        places => places.to_vec(),
    };
    for place in places {
        let socket = Socket::bind(place, identity.as_ref()).await.map_err(|error| usage(&error))?;
        sockets.push(socket);
    }
    for socket in &sockets {
        show::say(&format!("serving   {}", socket.place()));
    }
    let leave = CancellationToken::new();
    let serving = qhost_serve::serve(engine.clone(), sockets, identity.clone(), leave.clone());
    let mut serving = std::pin::pin!(serving);
    let mut watchdog = std::pin::pin!(systemd::keep_watchdog());
    let stop = || {
        systemd::stopping();
        leave.cancel();
    };
    loop {
        tokio::select! {
            () = &mut serving => return Ok(()),
            _ = terminate.recv() => stop(),
            _ = interrupt.recv() => stop(),
            () = &mut watchdog => {}
            _ = hangup.recv() => {
                // The reload does not keep the service from serving meanwhile.
                tokio::spawn(reload(engine.clone(), identity.clone()));
            }
        }
    }
}

/// Takes over the configuration on disk as a whole, or keeps the one before.
async fn reload(engine: Engine, identity: Option<Arc<Identity>>) {
    systemd::reloading();
    match reload_from_disk(&engine, identity.as_ref()).await {
        Ok(()) => show::say("reloaded  the configuration"),
        Err(error) => tracing::error!(error, "the configuration stays as it was"),
    }
    systemd::ready();
}

/// The default place of the socket: root's is the host's, a user's is where the user's session has its sockets.
fn default_place() -> Result<Place, RunError> {
    if geteuid().is_root() {
        return Ok(Place::Unix("/run/qhost/api.sock".into()));
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let none = || RunError::Usage("XDG_RUNTIME_DIR is not set; name the socket: --listen".into());
    Ok(Place::Unix(PathBuf::from(runtime.ok_or_else(none)?).join("qhost.sock")))
}

fn in_a_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
