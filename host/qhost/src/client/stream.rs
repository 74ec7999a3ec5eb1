//! Server-sent events (the HTML standard's `EventSource`) that are resumed when the connection, or the service, was lost.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{Stream, StreamExt as _};
use reqwest::Method;
use serde::de::DeserializeOwned;
use sse_stream::{Sse, SseByteStream};
use tokio::time;
use url::Url;

use super::{Client, ClientError};
use crate::limits;

/// The kind of the last item of a stream that has come to its end.
const END: &str = "end";

type Items = Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>;

/// A stream of a service that is followed.
pub struct Follow<'c> {
    client: &'c Client,
    url: Url,
    /// The id of the last item that has come.
    last: Option<String>,
    items: Option<Items>,
    has_connected: bool,
    /// Bytes since the last item.
    taken: Arc<AtomicUsize>,
}

impl Client {
    /// Follows a stream from its beginning.
    pub fn follow(&self, url: Url) -> Follow<'_> {
        let (last, items, taken) = (None, None, Arc::default());
        Follow { client: self, url, last, items, has_connected: false, taken }
    }

    /// Follows a stream from the last item that another stream of the same source had.
    pub fn follow_after(&self, url: Url, before: Follow<'_>) -> Follow<'_> {
        Follow { last: before.last, ..self.follow(url) }
    }

    async fn stream(
        &self,
        url: Url,
        last: Option<&str>,
        taken: &Arc<AtomicUsize>,
    ) -> Result<Items, ClientError> {
        let request = self.request(Method::GET, url, None);
        let request = match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        };
        let taken = Arc::clone(taken);
        taken.store(0, Ordering::Relaxed);
        let bytes = self.answered(request).await?.bytes_stream();
        // The count of bytes bounds an item that has no end.
        let bounded = bytes.map(move |bytes| {
            let bytes = bytes.map_err(io::Error::other)?;
            let before = taken.fetch_add(bytes.len(), Ordering::Relaxed);
            if before > limits::HOST_ITEM_BYTES {
                return Err(io::Error::other("an item is too long"));
            }
            Ok(bytes)
        });
        Ok(Box::pin(SseByteStream::new(bounded)))
    }
}

impl Follow<'_> {
    /// The next item; none if the stream has ended.
    ///
    /// # Errors
    /// The service refuses, or stays away for longer than [`limits::HOST_ABSENT`].
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            let items = match &mut self.items {
                Some(items) => items,
                None => match self.connected().await? {
                    Some(items) => self.items.insert(items),
                    None => return Ok(None),
                },
            };
            // The service says something every 15 s; a connection that is dead says nothing.
            let item = time::timeout(limits::HOST_STREAM_SILENT, items.next()).await;
            match item {
                Ok(Some(Ok(item))) => {
                    self.taken.store(0, Ordering::Relaxed);
                    self.last = item.id.or(self.last.take());
                    if item.event.as_deref() == Some(END) {
                        return Ok(None);
                    }
                    let Some(data) = item.data else { continue };
                    return self.client.object(data.as_bytes()).map(Some);
                }
                // The connection, or the service, is lost, which is not the end of the stream.
                Ok(Some(Err(_)) | None) | Err(_) => {
                    self.items = None;
                    time::sleep(limits::HOST_AGAIN).await;
                }
            }
        }
    }

    /// Connects, even if the service is absent for a while; none if the stream's source has gone meanwhile.
    async fn connected(&mut self) -> Result<Option<Items>, ClientError> {
        let is_again = std::mem::replace(&mut self.has_connected, true);
        let ask =
            async || self.client.stream(self.url.clone(), self.last.as_deref(), &self.taken).await;
        let connected = if is_again { super::patiently(ask).await } else { ask().await };
        match connected {
            Err(ClientError::Problem(problem)) if problem.is_not_found() && is_again => Ok(None),
            connected => connected.map(Some),
        }
    }
}
