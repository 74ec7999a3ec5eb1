//! Pictures of a guest's display. QEMU is given a file in memory, open, to write a picture to, so that QEMU opens no file of the host's by
//! name.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    sync::{mpsc, oneshot},
};

use super::request::{Ask, Request};
use crate::limits;

/// Asks for a picture, and sends it after the answer's line.
pub(super) async fn serve(mut stream: UnixStream, asks: mpsc::Sender<Ask>) -> io::Result<()> {
    match taken(asks).await {
        Ok(png) => {
            stream.write_all(b"{\"return\":null}\n").await?;
            stream.write_all(&png).await
        }
        Err(reason) => {
            let answer = json!({"error": reason});
            stream.write_all(format!("{answer}\n").as_bytes()).await
        }
    }
}

/// Asks for a picture. QEMU truncates the picture's file first, so that a pipe will not do, and wants the file to be open for writing only.
async fn taken(asks: mpsc::Sender<Ask>) -> Result<Vec<u8>, String> {
    let no_file = |error: io::Error| format!("no file in memory for it: {error}");
    let file = memfd_create("screenshot", MemfdFlags::CLOEXEC);
    let file = File::from(file.map_err(|error| no_file(error.into()))?);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let writes = File::options().write(true).open(path).map_err(no_file)?;
    let answer = ask(asks, writes.into()).await?.await;
    answer.unwrap_or_else(|_| Err("the VM has ended".into()))?;
    let mut png = vec![];
    let most = limits::SCREENSHOT_BYTES as u64;
    file.take(most + 1).read_to_end(&mut png).map_err(no_file)?;
    if png.len() as u64 > most {
        Err(format!("the picture has more than {} MiB", most >> 20))
    } else if png.starts_with(b"\x89PNG\r\n\x1a\n") {
        Ok(png)
    } else {
        Err("the picture that QEMU wrote is not a PNG file".into())
    }
}

async fn ask(
    asks: mpsc::Sender<Ask>,
    file: OwnedFd,
) -> Result<oneshot::Receiver<Result<serde_json::Value, String>>, String> {
    let (answer, answered) = oneshot::channel();
    let ask = Ask { request: Request::Screenshot, file: Some(file), answer };
    asks.send(ask).await.map_err(|_| "the VM has ended")?;
    Ok(answered)
}
