//! Server-sent events (the HTML standard's `EventSource`): what happens to VMs, and what their consoles say, as it happens. Each item has
//! an id, so that a client that lost its connection, or whose service was killed, goes on without a gap and without a duplicate.

use std::{convert::Infallible, fmt, num::ParseIntError, path::PathBuf, str::FromStr, sync::Arc};

use axum::{
    http::HeaderMap,
    response::{IntoResponse as _, Response, Sse, sse},
};
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use qhost_engine::{Engine, EventLog};
use qhost_sys::watch::FolderWatch;
use qhost_vm::Event;

use crate::{
    admission::{Admission, Place},
    caller::Caller,
    limits,
    problem::Problem,
};

/// The header in which a client names the last item that it had.
const LAST_EVENT_ID: &str = "last-event-id";

/// The kind of the last item of a stream that has come to its end.
const END: &str = "end";

/// Tells streams of possible changes, and bounds how many streams there are.
pub(crate) struct Streams {
    /// One kernel watch serves all streams, since a user has only 128.
    changes: watch::Sender<()>,
    leave: CancellationToken,
    admission: Arc<Admission>,
}

impl Streams {
    /// Watches the log of events until the service leaves.
    pub(crate) fn new(engine: &Engine, leave: CancellationToken) -> Arc<Self> {
        let changes = watch::Sender::new(());
        let (told, left) = (changes.clone(), leave.clone());
        let folders = EventLog::folders(engine.state());
        tokio::spawn(async move {
            loop {
                // The folder of events comes with the first event.
                let has_all = folders.iter().all(|folder| folder.exists());
                let mut watch = FolderWatch::new(folders.iter().map(PathBuf::as_path));
                // No watch tells of changes from before it began, so that streams look for themselves here.
                told.send_replace(());
                loop {
                    tokio::select! {
                        () = left.cancelled() => return,
                        () = watch.changed(limits::STREAM_LOOK) => {}
                    }
                    told.send_replace(());
                    if !has_all && folders.iter().all(|folder| folder.exists()) {
                        break;
                    }
                }
            }
        });
        Arc::new(Self { changes, leave, admission: Admission::of_streams() })
    }

    /// The number of streams.
    pub(crate) fn count(&self) -> usize {
        self.admission.count()
    }

    /// Takes a place for one more stream of a caller.
    pub(crate) fn place(self: &Arc<Self>, caller: &Caller) -> Result<StreamPlace, Problem> {
        let place = self.admission.admit(caller.tenant.as_deref())?;
        Ok(StreamPlace { streams: Arc::clone(self), place })
    }
}

/// A stream's place, given back when it is dropped.
pub(crate) struct StreamPlace {
    streams: Arc<Streams>,
    place: Place,
}

impl StreamPlace {
    /// Answers with a stream that goes on until its items end, its client goes, or the service leaves.
    pub(crate) fn answer(self, items: impl Stream<Item = sse::Event> + Send + 'static) -> Response {
        let Self { streams, place } = self;
        let leave = streams.leave.clone();
        // By this item, a client tells the end of the stream from a service that leaves, or a connection that breaks.
        let end = sse::Event::default().event(END).data("{}");
        let items = items.chain(stream::iter([end]));
        let items = items.take_until(leave.cancelled_owned()).map(move |item| {
            // The stream has its place for as long as it is read.
            let _held = &place;
            Ok::<_, Infallible>(item)
        });
        let alive = sse::KeepAlive::new().interval(limits::STREAM_ALIVE);
        Sse::new(items).keep_alive(alive).into_response()
    }

    /// The token that is cancelled when the service leaves.
    pub(crate) fn leave(&self) -> CancellationToken {
        self.streams.leave.clone()
    }

    /// The receiver that is told of possible changes.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.streams.changes.subscribe()
    }
}

/// Reads which item a client had last: from the header of a repeated connection, or from the parameter.
pub(crate) fn last<T: FromStr>(
    headers: &HeaderMap,
    asked: Option<&str>,
) -> Result<Option<T>, Problem> {
    let header = headers.get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or_default());
    let Some(id) = header.filter(|id| !id.is_empty()).or(asked) else { return Ok(None) };
    let expected = || Problem::invalid("after: expected the id of an item of this stream".into());
    id.parse().map(Some).map_err(|_| expected())
}

/// The id of an event: its time in nanoseconds since 1970, and its number among the events of that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventId {
    at: i128,
    index: u32,
}

impl EventId {
    /// The id of an event that comes after the event of another id.
    fn next(before: Option<Self>, event: &Event) -> Self {
        let at = event.at.as_nanosecond();
        let same = before.filter(|before| before.at == at);
        Self { at, index: same.map_or(0, |before| before.index + 1) }
    }

    /// The last id of a time.
    pub(crate) fn last_of(time: Timestamp) -> Self {
        Self { at: time.as_nanosecond(), index: u32::MAX }
    }

    /// The event's time.
    pub(crate) fn time(self) -> Option<Timestamp> {
        Timestamp::from_nanosecond(self.at).ok()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.at, self.index)
    }
}

impl FromStr for EventId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (at, index) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { at: at.parse()?, index: index.parse()? })
    }
}

/// Gives the events after the event of an id, with their ids. The first item has the given id and no data, so that a client that loses its
/// connection before its first event knows where to go on. Without changes to wait for, the stream ends with the last event that is kept.
pub(crate) fn events(
    log: EventLog,
    after: Option<EventId>,
    changes: Option<watch::Receiver<()>>,
    is_meant: impl Fn(&Event) -> bool + Send + 'static,
) -> impl Stream<Item = sse::Event> + Send {
    let known = after.map(|after| sse::Event::default().id(after.to_string()));
    let begin = (log, None, after, changes, is_meant);
    let told =
        stream::unfold(begin, |(mut log, mut last, mut after, mut changes, is_meant)| async move {
            loop {
                // A change from here on is told, even if the read below has it already.
                if let Some(changes) = &mut changes {
                    changes.mark_unchanged();
                }
                match log.next_kept().await {
                    Ok(Some(event)) => {
                        let id = EventId::next(last, &event);
                        last = Some(id);
                        if after.is_some_and(|after| id <= after) || !is_meant(&event) {
                            continue;
                        }
                        let Ok(item) = sse::Event::default().id(id.to_string()).json_data(&event)
                        else {
                            continue;
                        };
                        return Some((item, (log, last, after, changes, is_meant)));
                    }
                    Ok(None) => {
                        // The next event counts as later than all before, whatever the host's clock says.
                        after = None;
                        changes.as_mut()?.changed().await.ok()?;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a stream of events ends");
                        return None;
                    }
                }
            }
        });
    stream::iter(known).chain(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_by_time_and_then_by_order() {
        let event = |second| {
            let at = Timestamp::from_second(second).unwrap();
            let text = || "web".to_owned();
            Event {
                at,
                vm: text(),
                task: text(),
                tenant: text(),
                event: text(),
                request: None,
                actor: None,
                by: None,
                reason: None,
            }
        };
        let first = EventId::next(None, &event(1));
        let second = EventId::next(Some(first), &event(1));
        let third = EventId::next(Some(second), &event(2));
        assert!(first < second && second < third && third.index == 0);
        assert_eq!(second.to_string().parse(), Ok(second));
        assert_eq!(second.time(), Timestamp::from_second(1).ok());
        for text in ["", "-", "1", "x-0", "1-x"] {
            text.parse::<EventId>().unwrap_err();
        }
    }
}
