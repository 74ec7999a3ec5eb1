//! A console that a client types into, over a WebSocket (RFC 6455). A browser's WebSocket has no header of its own to name the caller, so
//! that the client asks for a ticket first. Policies are asked then, and the ticket serves for one connection, soon, by the same caller.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use axum::{
    Json,
    body::Bytes,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time,
};
use tokio_util::sync::CancellationToken;

use qhost_policy::Operation;

use crate::{
    Service,
    caller::Caller,
    limits,
    operations::random_id,
    problem::Problem,
    query::{Named, Params},
    streams::StreamPlace,
    vms,
};

/// Tickets that were given out and are not used yet.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, Ticket>>);

/// The VM and the caller that a ticket is for.
struct Ticket {
    vm: String,
    caller: Caller,
    until: Instant,
}

impl Tickets {
    fn give(&self, vm: &str, caller: Caller) -> Result<String, Problem> {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tickets.retain(|_, ticket| ticket.until > now);
        let of_tenant = tickets.values().filter(|it| it.caller.tenant == caller.tenant).count();
        if of_tenant >= limits::TICKETS_OF_TENANT {
            let detail = "too many tickets for consoles are not used yet".into();
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-tickets", detail));
        }
        let ticket = random_id()? + &random_id()?;
        let until = now + limits::TICKET;
        tickets.insert(ticket.clone(), Ticket { vm: vm.to_owned(), caller, until });
        Ok(ticket)
    }

    /// Uses up a ticket, if it is for this console and this caller.
    fn take(&self, ticket: &str, vm: &str, caller: &Caller) -> Result<(), Problem> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(ticket);
        let is_for_it =
            |it: &Ticket| it.vm == vm && it.caller == *caller && it.until > Instant::now();
        if taken.as_ref().is_some_and(is_for_it) {
            return Ok(());
        }
        let detail =
            "the ticket is unknown, used, too old, or for another console or caller".into();
        Err(Problem::new(StatusCode::FORBIDDEN, "no-ticket", detail)
            .hinting("POST …/console/ticket gives one"))
    }
}

/// A ticket that was given.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Given {
    ticket: String,
    expires_in_s: u64,
}

pub(crate) async fn ticket(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
) -> Result<Response, Problem> {
    let vm = vms::permitted(&service, &caller, &word, Operation::Console, "console").await?;
    let ticket = service.tickets.give(vm.id(), caller)?;
    let given = Given { ticket, expires_in_s: limits::TICKET.as_secs() };
    Ok((StatusCode::CREATED, Json(given)).into_response())
}

/// By what a console is attached to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attach {
    /// A ticket for this console.
    ticket: Option<String>,
}

pub(crate) async fn attach(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
    Params(Attach { ticket }): Params<Attach>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let vm = vms::meant(&service, &caller, &word).await?;
    service.tickets.take(&ticket.unwrap_or_default(), vm.id(), &caller)?;
    let upgrade = upgrade
        .map_err(|refused| Problem::new(refused.status(), "no-websocket", refused.body_text()))?;
    let place = service.streams.place(&caller)?;
    let console = vm.console().await?;
    // The console's log is sent first; bytes that come at this very moment may be sent twice.
    let log = vm.record().await.console_log();
    let said = vms::read_tail(log, limits::CONSOLE_BEFORE_BYTES).await?;
    let most = limits::CONSOLE_MESSAGE_BYTES;
    let upgrade = upgrade.max_message_size(most).max_frame_size(most);
    Ok(upgrade.on_upgrade(async move |socket| Attached { socket, console, place }.run(said).await))
}

/// A client at a console.
struct Attached {
    socket: WebSocket,
    console: UnixStream,
    place: StreamPlace,
}

impl Attached {
    /// Serves the client until it goes, the VM ends, or the service leaves.
    async fn run(mut self, before: Vec<u8>) {
        let leave = self.place.leave();
        if let Err(error) = self.exchange(before, &leave).await {
            tracing::debug!(%error, "a client's console ended");
        }
    }

    async fn exchange(
        &mut self,
        before: Vec<u8>,
        leave: &CancellationToken,
    ) -> Result<(), axum::Error> {
        self.send(Message::Binary(before.into())).await?;
        let mut said = vec![0; limits::STREAM_BYTES];
        let mut alive = time::interval(limits::STREAM_ALIVE);
        loop {
            tokio::select! {
                read = self.console.read(&mut said) => match read {
                    Ok(read @ 1..) => {
                        let bytes = Bytes::copy_from_slice(said.get(..read).unwrap_or_default());
                        self.send(Message::Binary(bytes)).await?;
                    }
                    Ok(0) | Err(_) => return self.send(Message::Close(None)).await,
                },
                typed = self.socket.recv() => match typed.transpose()? {
                    Some(Message::Binary(bytes)) => self.type_in(&bytes).await?,
                    Some(Message::Text(text)) => self.type_in(text.as_bytes()).await?,
                    Some(Message::Ping(_) | Message::Pong(_)) => {}
                    Some(Message::Close(_)) | None => return Ok(()),
                },
                _ = alive.tick() => self.send(Message::Ping(Bytes::new())).await?,
                () = leave.cancelled() => return self.send(Message::Close(None)).await,
            }
        }
    }

    async fn type_in(&mut self, bytes: &[u8]) -> Result<(), axum::Error> {
        let typed = time::timeout(limits::CLIENT_SLOW, self.console.write_all(bytes));
        typed.await.map_err(axum::Error::new)?.map_err(axum::Error::new)
    }

    /// Sends a message. A client that takes nothing for too long is given up.
    async fn send(&mut self, message: Message) -> Result<(), axum::Error> {
        let sent = time::timeout(limits::CLIENT_SLOW, self.socket.send(message));
        sent.await.map_err(axum::Error::new)?
    }
}
