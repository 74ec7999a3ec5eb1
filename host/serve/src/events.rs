//! `/v1/events`, and the consoles of VMs and the progress of operations as streams.

use axum::{
    extract::State,
    http::HeaderMap,
    response::{Response, sse},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio::{task::spawn_blocking, time};

use qhost_vm::{Position, Reader, VmRecord};

use crate::{
    Service,
    caller::Caller,
    limits,
    problem::Problem,
    query::{self, Named, Params},
    streams::{self, EventId},
    vms,
};

/// Which events.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// A tenant's alone.
    tenant: Option<String>,
    /// A VM's alone, by its id.
    vm: Option<String>,
    /// Those after the one of this id, or from `now` on; absent: all that are kept, first. The header `Last-Event-ID` goes before it.
    after: Option<String>,
    /// Those at this time or later, as in `2026-11-30T22:00:00Z`.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// Whether what happens from now on is told too; it is unless this is `false`.
    follow: Option<bool>,
}

pub(crate) async fn all(
    caller: Caller,
    State(service): State<Service>,
    Params(filter): Params<Filter>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Filter { tenant, vm, after, since, follow } = filter;
    let since = query::time("since", since.as_deref())?;
    let asked = after.as_deref().filter(|after| *after != "now");
    let last: Option<EventId> = streams::last(&headers, asked)?;
    let is_from_now = after.as_deref() == Some("now");
    let last = last.or_else(|| is_from_now.then(|| EventId::last_of(Timestamp::now())));
    let from = last.and_then(EventId::time).max(since);
    let log = match &caller.tenant {
        Some(own) => service.engine.events_of(own, from),
        None => service.engine.events(from),
    };
    let place = service.streams.place(&caller)?;
    let is_meant = move |event: &qhost_vm::Event| {
        tenant.as_ref().is_none_or(|tenant| event.tenant == *tenant)
            && vm.as_ref().is_none_or(|vm| event.vm == *vm)
    };
    // Without changes to wait for, the stream ends with the last event that is kept.
    let changes = follow.unwrap_or(true).then(|| place.changes());
    Ok(place.answer(streams::events(log, last, changes, is_meant)))
}

pub(crate) async fn operation(
    caller: Caller,
    State(service): State<Service>,
    Named(id): Named,
) -> Result<Response, Problem> {
    let operation = service.operations.of(&caller, &id)?;
    let place = service.streams.place(&caller)?;
    let mut changes = operation.changes();
    changes.mark_changed();
    let statuses = stream::unfold((changes, false), |(mut changes, is_over)| async move {
        if is_over {
            return None;
        }
        changes.changed().await.ok()?;
        let status = changes.borrow_and_update().clone();
        let is_over = status.is_over();
        let item = sse::Event::default().json_data(status).ok()?;
        Some((item, (changes, is_over)))
    });
    // The operation is remembered for as long as it is followed.
    Ok(place.answer(statuses.map(move |item| {
        let _followed = &operation;
        item
    })))
}

/// From where on a console is told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct From {
    /// What comes after the item of this id; absent: all that is kept, first. The header `Last-Event-ID` goes before it.
    after: Option<String>,
    /// What was said at this time or later, as in `2026-11-30T22:00:00Z`; ignored where `after` or `Last-Event-ID` is given.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// Whether what is said from now on is told too; it is unless this is `false`.
    follow: Option<bool>,
}

pub(crate) async fn console(
    caller: Caller,
    State(service): State<Service>,
    Named(word): Named,
    Params(From { after, since, follow }): Params<From>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let vm = vms::meant(&service, &caller, &word).await?;
    let last: Option<Position> = streams::last(&headers, after.as_deref())?;
    let since = query::time("since", since.as_deref())?;
    let record = vm.record().await;
    let reader = match last {
        Some(after) => Reader::after(&record.folder, after),
        None => record.console(since),
    };
    let place = service.streams.place(&caller)?;
    Ok(place.answer(said(record, reader, follow.unwrap_or(true))))
}

/// Reads a console's log and, if it is followed, the output until the VM's end.
fn said(
    record: VmRecord,
    reader: Reader,
    follow: bool,
) -> impl Stream<Item = sse::Event> + Send + use<> {
    stream::unfold((record, reader), move |(mut record, mut reader)| async move {
        loop {
            // The VM's state is read first, so that the output before its end is read after that.
            let read = spawn_blocking(move || {
                let goes_on = record.again().is_some_and(|now: VmRecord| !now.is_over());
                let mut buffer = vec![0; limits::STREAM_BYTES];
                let read = reader.read(&mut buffer);
                (
                    record,
                    reader,
                    read.map(|read| buffer.into_iter().take(read).collect::<Vec<_>>()),
                    goes_on,
                )
            });
            let (told, next, read, goes_on) = read.await.ok()?;
            let bytes = read
                .inspect_err(|error| tracing::warn!(%error, "a console's log cannot be read"))
                .ok()?;
            (record, reader) = (told, next);
            if !bytes.is_empty() {
                let data = json!({ "bytes": BASE64_STANDARD.encode(bytes) });
                let item =
                    sse::Event::default().id(reader.position().to_string()).json_data(data).ok()?;
                return Some((item, (record, reader)));
            }
            if !goes_on || !follow {
                return None;
            }
            time::sleep(limits::STREAM_CONSOLE).await;
        }
    })
}
