//! Server-sent events, as a client reads them.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread,
};

use serde_json::Value;

use crate::wait_for;

/// A stream of events, which is read until this is dropped.
pub struct Stream {
    process: Child,
    status: Arc<AtomicU16>,
    items: Arc<Mutex<Vec<Item>>>,
    is_over: Arc<AtomicBool>,
}

/// One event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The event's id; empty where it has none.
    pub id: String,
    /// The event's data.
    pub data: Value,
}

impl Stream {
    pub(super) fn of(curl: &mut Command) -> Self {
        let mut process = curl.stdout(Stdio::piped()).spawn().expect("curl");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (items, is_over) = (Arc::new(Mutex::new(vec![])), Arc::new(AtomicBool::new(false)));
        let status = Arc::new(AtomicU16::new(0));
        let (read, over, told) = (Arc::clone(&items), Arc::clone(&is_over), Arc::clone(&status));
        thread::spawn(move || {
            let (mut id, mut is_end) = (String::new(), false);
            for line in output.lines().map_while(Result::ok) {
                if line.starts_with("HTTP/") {
                    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
                    told.store(status.expect("a status"), Ordering::Release);
                } else if let Some(now) = line.strip_prefix("id: ") {
                    now.clone_into(&mut id);
                } else if line == "event: end" {
                    is_end = true;
                } else if let Some(data) = line.strip_prefix("data: ").filter(|_| !is_end) {
                    let data = serde_json::from_str(data).expect("JSON");
                    let item = Item { id: std::mem::take(&mut id), data };
                    read.lock().expect("the items").push(item);
                }
            }
            over.store(true, Ordering::Release);
        });
        Self { process, status, items, is_over }
    }

    /// Waits for the status of the answer.
    pub fn status(&self) -> u16 {
        wait_for("a status", || Some(self.status.load(Ordering::Acquire)).filter(|it| *it > 0))
    }

    /// The events that came so far.
    pub fn items(&self) -> Vec<Item> {
        self.items.lock().expect("the items").clone()
    }

    /// Waits until the events that came are the wanted ones.
    pub fn until(&self, what: &str, is_it: impl Fn(&[Item]) -> bool) -> Vec<Item> {
        wait_for(what, || Some(self.items()).filter(|items| is_it(items)))
    }

    /// Waits until the service ends the stream, and gives all events that came.
    pub fn to_its_end(self) -> Vec<Item> {
        wait_for("the stream's end", || self.is_over.load(Ordering::Acquire).then_some(()));
        self.items()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // curl may have ended by itself.
        let _ended = self.process.kill();
        self.process.wait().expect("it ends");
    }
}
