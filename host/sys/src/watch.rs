//! Waits for changes in folders by the kernel's events (inotify(7)), for changes that no other process could send a message about.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, time};

use crate::limits;

/// Folders whose changes are waited for: files that are created, removed, written to or closed by their last writer. Closing a file
/// is also how a lock is released.
#[derive(Debug)]
pub struct FolderWatch {
    /// The kernel's events; absent where the user has as many watches as the kernel allows (`fs.inotify.max_user_instances`), or none
    /// of the folders exists.
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl FolderWatch {
    /// Watches for every change from now on. A folder that does not exist has none.
    pub fn new<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Self {
        let inotify = watch(folders)
            .inspect_err(|error| tracing::debug!(%error, "changes are looked for at intervals"));
        Self { inotify: inotify.ok() }
    }

    /// Waits for a change since the last call or since this was made, and no longer than `within`. Where the kernel sends no events,
    /// the wait ends after [`limits::FOLDER_POLL`]: the caller looks in any case.
    pub async fn changed(&mut self, within: Duration) {
        let Some(inotify) = &self.inotify else {
            return time::sleep(limits::FOLDER_POLL.min(within)).await;
        };
        let changed = async {
            match inotify.readable().await {
                Ok(mut ready) => {
                    drain(inotify.get_ref());
                    ready.clear_ready();
                }
                Err(_) => time::sleep(limits::FOLDER_POLL).await,
            }
        };
        if time::timeout(within, changed).await.is_err() {
            tracing::trace!("no change in a folder that is watched");
        }
    }
}

#[expect(unsafe_code, reason = "tokio asks for a promise that any owned descriptor keeps")]
fn watch<'a>(folders: impl IntoIterator<Item = &'a Path>) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let changes = WatchFlags::CREATE
        | WatchFlags::MOVE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE;
    let mut watched = Err(Errno::NOENT);
    for folder in folders {
        watched = inotify::add_watch(&inotify, folder, changes).or(watched);
    }
    watched?;
    // SAFETY: the descriptor is owned, and stays open and the same for as long as the runtime has it.
    Ok(unsafe { AsyncFd::register(inotify) }?)
}

/// Reads all events, which say only that something changed: the caller looks up what did.
fn drain(inotify: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); limits::INOTIFY_BYTES];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    // Each item is one event, and an error after the last one ends the loop.
    while reader.next().is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;

    #[tokio::test]
    async fn a_change_ends_the_wait_and_one_before_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let long = Duration::from_secs(60);
        let mut watch = FolderWatch::new([folder.path()]);
        assert!(watch.inotify.is_some());
        fs::write(folder.path().join("one"), "x").unwrap();
        watch.changed(long).await;
        let (began, path) = (Instant::now(), folder.path().to_owned());
        let writes = tokio::spawn(async move {
            time::sleep(Duration::from_millis(50)).await;
            fs::remove_file(path.join("one")).unwrap();
        });
        watch.changed(long).await;
        writes.await.unwrap();
        assert!(began.elapsed() < long);
        watch.changed(Duration::from_millis(1)).await;
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_looked_for_at_intervals() {
        let mut watch = FolderWatch::new([Path::new("/nonexistent/folder")]);
        assert!(watch.inotify.is_none());
        watch.changed(Duration::from_secs(60)).await;
    }
}
