//! The job's ready check, by which the guest shows that it does its work, and a watch for firmware that finds no guest to boot.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{broadcast, oneshot},
    task::AbortHandle,
    time,
};

use qhost_model::{
    job::{Ready, ReadyCheck},
    launch::Forward,
};

use super::{agent::Agent, console};
use crate::limits;

/// Something that a task beside the VM finds out, once. The task ends when this is dropped.
struct Finding<T> {
    /// The channel for the finding; absent once it has ended, so that it is not waited for again.
    found: Option<oneshot::Receiver<T>>,
    task: AbortHandle,
}

impl<T: Send + 'static> Finding<T> {
    /// Begins the task. If its future gives nothing, nothing will be found.
    fn begin(finding: impl Future<Output = Option<T>> + Send + 'static) -> Self {
        let (tell, found) = oneshot::channel();
        let task = tokio::spawn(async move {
            if let Some(finding) = finding.await
                && tell.send(finding).is_err()
            {
                tracing::debug!("the VM has ended");
            }
        });
        Self { found: Some(found), task: task.abort_handle() }
    }

    /// Waits for the finding, and for ever if nothing will be found any more. The wait may be dropped.
    async fn wait(&mut self) -> T {
        if let Some(found) = &mut self.found {
            let found = found.await;
            self.found = None;
            if let Ok(found) = found {
                return found;
            }
        }
        std::future::pending().await
    }
}

impl<T> Drop for Finding<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A check that is tried until it holds or its time is over.
pub(super) struct Check {
    holds: Finding<bool>,
    timeout_s: u64,
}

impl Check {
    /// Begins the check.
    pub(super) fn begin(
        ready: Ready,
        forwards: &[Forward],
        vm: &Path,
        said: broadcast::Receiver<Bytes>,
    ) -> Self {
        let address = |label: &str| {
            let forward = forwards.iter().find(|forward| forward.label == label)?;
            // A forward on every address is on the loopback address too.
            let bind =
                if forward.bind.is_unspecified() { [127, 0, 0, 1].into() } else { forward.bind };
            Some(SocketAddr::from((bind, forward.host)))
        };
        let port = match &ready.check {
            ReadyCheck::Serial(_) | ReadyCheck::Agent => None,
            ReadyCheck::Tcp(port) | ReadyCheck::Http { port, .. } => address(port),
        };
        let timeout_s = ready.timeout_s;
        let vm = vm.to_owned();
        let check = async move {
            match (&ready.check, port) {
                (ReadyCheck::Serial(text), _) => console::says(said, &[text.as_str()]).await,
                (ReadyCheck::Tcp(_), Some(port)) => until(|| speaks(port)).await,
                (ReadyCheck::Http { path, .. }, Some(port)) => until(|| answers(port, path)).await,
                (ReadyCheck::Agent, _) => until(async || Agent::connect(&vm).await.is_ok()).await,
                // A policy took the port away, so that the port will never answer.
                (ReadyCheck::Tcp(_) | ReadyCheck::Http { .. }, None) => {
                    std::future::pending::<()>().await;
                }
            }
        };
        let holds = Finding::begin(async move {
            Some(time::timeout(Duration::from_secs(timeout_s), check).await.is_ok())
        });
        Self { holds, timeout_s }
    }

    /// Waits for the check, which fails if it did not hold in time.
    async fn held(&mut self) -> Result<(), String> {
        if self.holds.wait().await {
            Ok(())
        } else {
            Err(format!("the guest was not ready within {} s", self.timeout_s))
        }
    }
}

/// The failure of a VM whose firmware writes that it can boot nothing.
pub(super) const NOTHING_BOOTS: &str = "the firmware found no bootable device";
/// The text that SeaBIOS writes when it finds nothing that can be booted.
const OF_BIOS: [&str; 1] = ["No bootable device"];
/// The texts that edk2's UEFI writes when it finds nothing that can be booted, with a shell in it and without.
const OF_UEFI: [&str; 2] = ["\"EFI Internal Shell\"", "No bootable option or device"];

/// A watch of the console for firmware that finds nothing to boot.
pub(super) struct BootWatch(Finding<()>);

impl BootWatch {
    /// Begins the watch, for a bounded time: what is written later is the guest's, not the firmware's.
    pub(super) fn begin(said: broadcast::Receiver<Bytes>, is_uefi: bool) -> Self {
        Self(Finding::begin(async move {
            let texts = if is_uefi { &OF_UEFI[..] } else { &OF_BIOS };
            time::timeout(limits::FIRMWARE, console::says(said, texts)).await.ok()
        }))
    }
}

/// Waits for a check, if there is one. The check fails if it did not hold in time.
pub(super) async fn held(check: &mut Option<Check>) -> Result<(), String> {
    match check {
        Some(check) => check.held().await,
        None => std::future::pending().await,
    }
}

/// Ends when the firmware finds nothing to boot, if there is a watch for that.
pub(super) async fn boot_fails(watch: &mut Option<BootWatch>) {
    match watch {
        Some(watch) => watch.0.wait().await,
        None => std::future::pending().await,
    }
}

async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    while !matches!(time::timeout(limits::READY_TRY, holds()).await, Ok(true)) {
        time::sleep(limits::READY_AGAIN).await;
    }
}

/// Whether a guest sends bytes at a port. QEMU accepts connections before any guest runs, so that a connection alone proves nothing.
async fn speaks(port: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(port).await else { return false };
    matches!(stream.read(&mut [0]).await, Ok(1..))
}

/// Whether an HTTP server answers with a status from 200 to 399. An HTTP client library would be as large as all the rest of a supervisor.
async fn answers(port: SocketAddr, path: &str) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(port).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    // "HTTP/1.1 200"
    let Ok(answer) = exchange.await else { return false };
    let is_http = answer.starts_with(b"HTTP/1.");
    is_http && matches!(answer.get(9), Some(b'2' | b'3'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A supervisor once panicked at the first event that came after the firmware's time.
    #[tokio::test(start_paused = true)]
    async fn a_firmware_that_boots_is_listened_to_for_its_time_and_then_no_more() {
        let (say, said) = broadcast::channel(8);
        let mut watch = Some(BootWatch::begin(said, false));
        for _ in 0..3 {
            let waited = time::timeout(limits::FIRMWARE * 2, boot_fails(&mut watch)).await;
            assert!(waited.is_err());
            say.send(Bytes::from_static(b"No bootable device")).unwrap_or_default();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_firmware_says_where_nothing_boots() {
        for (is_uefi, text, fails) in [
            (false, "No bootable device.", true),
            (false, "starting Boot0002 \"EFI Internal Shell\" from", false),
            (true, "starting Boot0002 \"EFI Internal Shell\" from", true),
            (true, "BdsDxe: No bootable option or device was found.", true),
            (true, "starting Boot0001 \"UEFI Misc Device\" from", false),
        ] {
            let (say, said) = broadcast::channel(8);
            let mut watch = Some(BootWatch::begin(said, is_uefi));
            let (first, rest) = text.split_at(10);
            for part in [first, rest] {
                say.send(Bytes::copy_from_slice(part.as_bytes())).unwrap();
            }
            let failed = time::timeout(limits::FIRMWARE * 2, boot_fails(&mut watch)).await;
            assert_eq!(failed.is_ok(), fails, "{text}");
        }
    }
}
