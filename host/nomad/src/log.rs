//! Logs as an agent reads them from a plugin's standard error: a JSON object a line, with hclog's keys. Source:
//! github.com/hashicorp/go-hclog, intlogger.go.

use std::{
    fmt,
    io::{self, Write},
};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::{Event, Level, Subscriber, field::Visit};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Has this process log to its standard error in hclog's form.
pub(crate) fn begin() {
    let begun = tracing_subscriber::fmt()
        // The log lines of gRPC about each frame are of no use to an operator.
        .with_max_level(Level::INFO)
        // A line that cannot be written, since the agent has gone, is dropped: only standard error could tell of it.
        .log_internal_errors(false)
        .event_format(Hclog)
        .with_writer(|| Unbroken)
        .try_init();
    if begun.is_err() {
        tracing::debug!("logs go where they went before");
    }
}

/// Standard error, on which writing never fails, even if its reader has gone.
struct Unbroken;

impl Write for Unbroken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match io::stderr().write_all(bytes) {
            Ok(()) | Err(_) => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Hclog;

impl<S, N> FormatEvent<S, N> for Hclog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        fields.put("@level", level);
        fields.put("@module", event.metadata().target());
        fields.put("@timestamp", format!("{:.6}", Timestamp::now()));
        event.record(&mut fields);
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        let name = if name == "message" { "@message" } else { name };
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
        self.put(field.name(), value);
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.put(field.name(), value);
    }

    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.put(field.name(), value);
    }
}
