//! A copy of the console into a named pipe that another program reads, as Nomad's log collector does. The copy never holds the guest up:
//! what the reader does not take in time is left out, and the copy says so. When a reader goes and another comes, the copy goes on with
//! that one.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe,
    sync::broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    task::JoinHandle,
    time,
};
use tokio_util::sync::CancellationToken;

use super::LogPipes;
use crate::limits;

/// The text that stands where a part of the console was left out.
const LEFT_OUT: &[u8] = b"\r\n[qhost: a part of the console was left out here]\r\n";

/// A copy that goes on until it is finished.
pub(super) struct ConsoleCopy {
    ended: CancellationToken,
    copying: JoinHandle<()>,
}

impl ConsoleCopy {
    /// Begins to copy the console's output from now on.
    pub(super) fn begin(pipes: LogPipes, said: broadcast::Receiver<Bytes>) -> Self {
        let ended = CancellationToken::new();
        let copying = tokio::spawn(copy(said, pipes, ended.clone()));
        Self { ended, copying }
    }

    /// Writes the console's last output, and ends the copy.
    pub(super) async fn finish(self) {
        self.ended.cancel();
        if time::timeout(limits::CONSOLE_COPY_END, self.copying).await.is_err() {
            tracing::debug!("the console's last words were not read");
        }
    }
}

async fn copy(mut said: broadcast::Receiver<Bytes>, pipes: LogPipes, ended: CancellationToken) {
    let mut pipe = Pipe { path: pipes.stdout, sender: None };
    // The log collector waits until both pipes have a writer; nothing is ever written to the second.
    let held = tokio::spawn(async move {
        match pipes.stderr {
            Some(stderr) => opened(&stderr).await.map(Some),
            None => Ok(None),
        }
    });
    let mut is_open = false;
    loop {
        let next = tokio::select! {
            biased;
            next = said.recv() => next,
            opened = pipe.open(), if !is_open => {
                is_open = true;
                if let Err(error) = opened {
                    tracing::info!(path = %pipe.path.display(), %error, "the console is not copied");
                    return;
                }
                continue;
            }
            () = ended.cancelled() => match said.try_recv() {
                Ok(bytes) => Ok(bytes),
                Err(TryRecvError::Lagged(pieces)) => Err(RecvError::Lagged(pieces)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            },
        };
        let written = match next {
            Ok(bytes) => pipe.write(&bytes).await,
            Err(RecvError::Lagged(_)) => pipe.write(LEFT_OUT).await,
            Err(RecvError::Closed) => break,
        };
        if let Err(error) = written {
            tracing::info!(path = %pipe.path.display(), %error, "the console is not copied");
            return;
        }
    }
    held.abort();
}

struct Pipe {
    path: PathBuf,
    sender: Option<pipe::Sender>,
}

impl Pipe {
    async fn open(&mut self) -> io::Result<()> {
        if self.sender.is_none() {
            self.sender = Some(opened(&self.path).await?);
        }
        Ok(())
    }

    /// Writes all bytes, to one reader after another if need be.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        loop {
            let sender = match &mut self.sender {
                Some(sender) => sender,
                None => self.sender.insert(opened(&self.path).await?),
            };
            match sender.write_all(bytes).await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.sender = None,
                written => return written,
            }
        }
    }
}

/// Opens the pipe, once it has a reader.
async fn opened(path: &Path) -> io::Result<pipe::Sender> {
    loop {
        // A link, which other tasks of the group can put there, could lead to a pipe of another tenant's.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(pipe) => {
                let kind = FileType::from_raw_mode(fstat(&pipe)?.st_mode);
                if kind != FileType::Fifo {
                    return Err(io::Error::other("it is no named pipe"));
                }
                return pipe::Sender::from_owned_fd(pipe);
            }
            // The pipe has no reader now.
            Err(rustix::io::Errno::NXIO) => time::sleep(limits::CONSOLE_COPY_LOOK).await,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _};

    use rustix::fs::mkfifoat;
    use tokio::task::spawn_blocking;

    use super::*;

    fn fifo() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        (folder, path)
    }

    fn to(path: &Path) -> LogPipes {
        LogPipes { stdout: path.to_owned(), stderr: None }
    }

    async fn read(path: &Path, bytes: usize) -> String {
        let path = path.to_owned();
        let read = spawn_blocking(move || {
            let mut buffer = vec![0; bytes];
            File::open(path).unwrap().read_exact(&mut buffer).unwrap();
            String::from_utf8(buffer).unwrap()
        });
        read.await.unwrap()
    }

    #[tokio::test]
    async fn a_reader_that_goes_and_comes_again_is_written_to() {
        let (_folder, path) = fifo();
        let (said, listener) = broadcast::channel(limits::CONSOLE_PIECES);
        let copy = ConsoleCopy::begin(to(&path), listener);
        said.send(Bytes::from_static(b"one")).unwrap();
        assert_eq!(read(&path, 3).await, "one");
        let again = read(&path, 3);
        said.send(Bytes::from_static(b"two")).unwrap();
        let (text, ()) = tokio::join!(again, copy.finish());
        assert_eq!(text, "two");
    }

    #[tokio::test]
    async fn what_is_not_read_in_time_is_left_out_and_holds_nothing_up() {
        let (_folder, path) = fifo();
        let (said, listener) = broadcast::channel(2);
        let copy = ConsoleCopy::begin(to(&path), listener);
        // The pieces are sent before the copy has its turn.
        for piece in ["1", "2", "3", "4"] {
            said.send(Bytes::from_static(piece.as_bytes())).unwrap();
        }
        let expected = format!("{}34", str::from_utf8(LEFT_OUT).unwrap());
        assert_eq!(read(&path, expected.len()).await, expected);
        copy.finish().await;
        // The end of a copy without a reader does not wait for ever.
        let (said, listener) = broadcast::channel(2);
        let copy = ConsoleCopy::begin(to(&path), listener);
        said.send(Bytes::from_static(b"last")).unwrap();
        copy.finish().await;
    }

    #[tokio::test]
    async fn both_pipes_have_a_writer_before_the_guest_says_anything() {
        let ((_folder, stdout), (_other, stderr)) = (fifo(), fifo());
        let (_said, listener) = broadcast::channel(2);
        let pipes = LogPipes { stdout: stdout.clone(), stderr: Some(stderr.clone()) };
        let copy = ConsoleCopy::begin(pipes, listener);
        for path in [stdout, stderr] {
            // Waits for a writer.
            spawn_blocking(move || File::open(path).unwrap()).await.unwrap();
        }
        copy.finish().await;
    }

    #[tokio::test]
    async fn neither_a_file_nor_a_link_is_written_to() {
        let (folder, path) = fifo();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        let others = folder.path().join("logs");
        std::fs::write(&file, "kept").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::os::unix::fs::symlink(folder.path(), &others).unwrap();
        for to in [&file, &link, &others.join("fifo")] {
            assert!(opened(to).await.is_err(), "{}", to.display());
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }
}
