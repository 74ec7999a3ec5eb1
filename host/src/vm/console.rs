//! Keeps what QEMU's pipes say, up to a limit, and goes on reading beyond it: a pipe that nobody reads stops the
//! guest, and a log without a limit fills the disk.

use std::{
    fs::File,
    io::{self, Write as _},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

const TRUNCATED: &[u8] = b"\n[qhost: the console log is full; the rest is not kept]\n";

/// Copies a console into a log of at most `most` bytes and a mark. A log that cannot be written is given up, with a
/// warning, and the console is still read. Returns the log's last bytes.
pub(super) async fn drain(
    mut console: impl AsyncRead + Unpin,
    mut log: File,
    most: u64,
    tail: usize,
) -> Vec<u8> {
    let mut room = most;
    let mut last = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = console.read(&mut buffer).await {
        let bytes = buffer.get(..read).unwrap_or_default();
        last.extend_from_slice(bytes);
        last.drain(..last.len().saturating_sub(tail));
        if room == 0 {
            continue;
        }
        let kept = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        room -= kept as u64;
        if let Err(error) = write(&mut log, bytes.get(..kept).unwrap_or_default(), room == 0) {
            tracing::warn!(%error, "the console log cannot be written; the console is not kept from here on");
            room = 0;
        }
    }
    last
}

fn write(log: &mut File, bytes: &[u8], full: bool) -> io::Result<()> {
    log.write_all(bytes)?;
    if full { log.write_all(TRUNCATED) } else { Ok(()) }
}

/// Keeps the first bytes of a stream and reads the rest.
pub(super) async fn keep_first(mut stream: impl AsyncRead + Unpin, most: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let room = most.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read as _, Seek as _},
    };

    use super::*;

    #[tokio::test]
    async fn a_console_beyond_the_limit_is_read_but_not_kept() {
        let mut log = tempfile::tempfile().unwrap();
        let flood = vec![b'x'; 1 << 20];
        let last = drain(flood.as_slice(), log.try_clone().unwrap(), 1000, 16).await;
        assert_eq!(last, b"xxxxxxxxxxxxxxxx");
        let mut kept = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut kept).unwrap();
        assert_eq!(kept, "x".repeat(1000) + std::str::from_utf8(TRUNCATED).unwrap());
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_stops_nothing() {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let last = drain(&b"the guest goes on"[..], full, 1000, 8).await;
        assert_eq!(last, b" goes on");
    }

    #[tokio::test]
    async fn the_first_bytes_are_kept() {
        let flood = vec![b'e'; 1 << 20];
        assert_eq!(keep_first(flood.as_slice(), 10).await, b"eeeeeeeeee");
    }
}
