//! The events of VMs, counted from the log that all doors write.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{Service, limits, metrics::OfEvent};

/// Counts events from now on, until the service leaves.
pub(crate) async fn count(service: Service, leave: CancellationToken) {
    let mut log = service.engine.events(Some(Timestamp::now()));
    loop {
        let event = tokio::select! {
            event = log.next() => event,
            () = leave.cancelled() => return,
        };
        match event {
            Ok(event) => {
                let tenant = service.metrics.counted_as(&event.tenant);
                let of = OfEvent { tenant, event: event.event };
                service.metrics.events.get_or_create(&of).inc();
            }
            Err(error) => {
                tracing::warn!(%error, "events are not counted for a while");
                tokio::time::sleep(limits::EVENTS_AGAIN).await;
            }
        }
    }
}
