//! The stages that a body goes through after it has arrived. Each runs on a thread of its own, so that network, disk and
//! hash work at the same time and no byte is read twice:
//!
//! ```text
//! network ──▶ (unpack) ──▶ write ──▶ hash
//! ```
//!
//! The channel between two stages is bounded, so that a slow stage holds up those before it.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::Path,
};

use bytes::Bytes;
use tokio::{
    sync::{
        mpsc::{self, Receiver, Sender},
        watch,
    },
    task::{JoinHandle, spawn_blocking},
};

use qhost_model::digest::{FileDigest, Sha256};
use qhost_sys::failpoint;

use super::{
    ImageError, Progress, Refusal,
    hashers::{Digests, Hashers},
    packing::Packing,
    store::{Claim, Part},
    unpack::{Bounds, Served, Stop, unpack},
};
use crate::limits;

/// The sending end of the first stage, and the results of all stages.
pub(super) struct Pipe {
    pieces: Sender<Bytes>,
    /// Whether the network ever waited for the other stages.
    waited: bool,
    unpacked: Option<JoinHandle<Result<Served, Stop>>>,
    written: JoinHandle<Result<u64, StageError>>,
    hashed: JoinHandle<io::Result<Digests>>,
}

/// The digests of a file that went through the pipe.
pub(super) struct Transferred {
    /// The digests of the file as it arrived.
    pub(super) served: Digests,
    /// The digest of the file that was written, which is the same unless the file was unpacked.
    pub(super) content: Sha256,
    /// Why the file could not be unpacked, even if it has the digest that was asked for.
    pub(super) fault: Option<Refusal>,
}

/// Why a stage ended early.
pub(super) enum StageError {
    Disk(io::Error),
    Refused(Refusal),
    /// The file is larger than may be stored.
    Beyond(ImageError),
}

impl From<io::Error> for StageError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl StageError {
    /// Turns this into the error about an image of this digest, in this file.
    pub(super) fn error(self, digest: FileDigest, path: &Path) -> ImageError {
        match self {
            Self::Disk(source) => ImageError::store(path)(source),
            Self::Refused(refusal) => ImageError::Unsafe { digest, refusal },
            Self::Beyond(error) => error,
        }
    }
}

/// A stage has ended early; [`Pipe::finish`] says why.
pub(super) struct StageClosed;

impl Pipe {
    /// Opens a pipe for a part that has its first `start` bytes already. These bytes are hashed first, and the pipe is given
    /// when that is done, so that no server is kept waiting for it. The stages hold the part's lock until nothing writes to
    /// the part any more, whatever becomes of the fetch.
    pub(super) async fn open(
        part: &Part,
        start: u64,
        unpacking: Option<(Packing, Bounds)>,
        sha512: bool,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        let (file, claim) = (part.file()?, part.claim());
        let prefix = part.file()?;
        // Blocks of zeros are skipped when they are written, so that the file must hold nothing behind `start`.
        file.set_len(start).map_err(ImageError::store(part.path()))?;
        let (pieces, arriving) = mpsc::channel(limits::FETCH_PIECES);
        let (arriving, unpacked) = match unpacking {
            None => (arriving, None),
            Some((packing, bounds)) => {
                let (onward, unpacked) = mpsc::channel(limits::FETCH_PIECES);
                let hashers = Hashers::new(sha512);
                let unpacked_by =
                    spawn_blocking(move || unpack(packing, bounds, hashers, arriving, &onward));
                (unpacked, Some(unpacked_by))
            }
        };
        let (onward, written_pieces) = mpsc::channel(limits::FETCH_PIECES);
        let (ready, mut prepared) = watch::channel(0);
        let hashers = Hashers::new(sha512 && unpacked.is_none());
        let hashed = spawn_blocking(move || hash(hashers, &prefix, start, ready, written_pieces));
        let written = spawn_blocking(move || write(&file, start, &claim, arriving, &onward));
        // The hashing stage drops its sender when the prefix is hashed, or cannot be; its result then says so.
        while prepared.changed().await.is_ok() {
            progress.done(*prepared.borrow_and_update());
        }
        Ok(Self { pieces, waited: false, unpacked, written, hashed })
    }

    /// Sends a piece into the first stage.
    pub(super) async fn send(&mut self, piece: Bytes) -> Result<(), StageClosed> {
        self.waited |= self.pieces.capacity() == 0;
        self.pieces.send(piece).await.map_err(|_| StageClosed)
    }

    /// Whether the other stages have always been as fast as the network.
    pub(super) fn is_ahead(&self) -> bool {
        !self.waited
    }

    /// Waits until all pieces have gone through the stages.
    pub(super) async fn finish(self) -> Result<Transferred, StageError> {
        drop(self.pieces);
        let panicked = |error| StageError::Disk(io::Error::other(error));
        let unpacked = match self.unpacked {
            // A panic of the decoder counts as a fault of the file.
            Some(unpacked) => Some(unpacked.await.unwrap_or_else(|error| {
                let reason = format!("its decoder failed: {error}");
                Err(Stop::Refused(Refusal { check: "unpack", reason }))
            })),
            None => None,
        };
        self.written.await.map_err(panicked)??;
        let written = self.hashed.await.map_err(panicked)?.map_err(StageError::Disk)?;
        let content = written.sha256;
        match unpacked {
            None => Ok(Transferred { served: written, content, fault: None }),
            Some(Ok(Served { digests, fault })) => {
                Ok(Transferred { served: digests, content, fault })
            }
            Some(Err(Stop::Refused(refusal))) => Err(StageError::Refused(refusal)),
            Some(Err(Stop::StageClosed)) => {
                Err(StageError::Disk(io::Error::other("a stage ended early")))
            }
        }
    }
}

/// Writes at the file's end. A block of zeros is skipped, which leaves a hole: most of a machine's disk is empty.
fn write(
    file: &File,
    start: u64,
    claim: &Claim,
    mut arriving: Receiver<Bytes>,
    onward: &Sender<Bytes>,
) -> Result<u64, StageError> {
    static ZEROS: [u8; limits::BLOCK_BYTES] = [0; limits::BLOCK_BYTES];
    let (mut end, mut flushed) = (start, start);
    let mut taken = file.metadata()?.blocks() * 512;
    while let Some(piece) = arriving.blocking_recv() {
        for block in piece.chunks(limits::BLOCK_BYTES) {
            if ZEROS.get(..block.len()) != Some(block) {
                taken += block.len() as u64;
                claim.at_least(taken).map_err(StageError::Beyond)?;
                write_block(file, end, block, claim)?;
            }
            end += block.len() as u64;
        }
        failpoint::reach("pipe.written");
        if end - flushed >= limits::WRITE_BEHIND_BYTES {
            let (free, reserve) = claim.make_room(file, 0)?;
            if free < reserve {
                let reason = format!("{free} bytes are free, of which {reserve} stay free");
                return Err(io::Error::new(io::ErrorKind::StorageFull, reason).into());
            }
            begin_writeback(file, flushed, end - flushed);
            flushed = end;
        }
        // The hashing stage ends early only if it cannot read, and its result says so.
        if onward.blocking_send(piece).is_err() {
            break;
        }
    }
    // Zeros at the end were not written and only count in the file's length.
    if end != start {
        file.set_len(end)?;
    }
    Ok(end)
}

/// Writes a block, and removes unfinished downloads that no process is fetching while the disk is full.
fn write_block(file: &File, at: u64, block: &[u8], claim: &Claim) -> io::Result<()> {
    loop {
        match file.write_all_at(block, at) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && claim.remove_oldest() => {}
            written => return written,
        }
    }
}

/// Has the kernel begin to write a part to the disk, so that little is left to wait for at the end.
#[expect(unsafe_code, reason = "a system call that rustix has no function for")]
fn begin_writeback(file: &File, from: u64, length: u64) {
    let range = i64::try_from(from).ok().zip(i64::try_from(length).ok());
    let Some((from, length)) = range else { return };
    // SAFETY: the call takes an open descriptor and numbers.
    let begun = unsafe {
        libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE)
    };
    if begun != 0 {
        // A write that failed is reported again when the whole file is synced.
        tracing::debug!(error = %io::Error::last_os_error(), "no early writing here");
    }
}

fn hash(
    mut hashers: Hashers,
    prefix: &File,
    length: u64,
    ready: watch::Sender<u64>,
    mut written: Receiver<Bytes>,
) -> io::Result<Digests> {
    hash_prefix(&mut |bytes| hashers.update(bytes), prefix, length, &mut |hashed| {
        ready.send_replace(hashed);
    })?;
    drop(ready);
    while let Some(piece) = written.blocking_recv() {
        hashers.update(&piece);
    }
    Ok(hashers.finish())
}

/// Hashes the first bytes of a file, all of which must be there, and reports its progress.
pub(super) fn hash_prefix(
    update: &mut dyn FnMut(&[u8]),
    file: &File,
    length: u64,
    hashed: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut block = vec![0; limits::BLOCK_BYTES];
    let mut at = 0;
    while at < length {
        let wanted = usize::try_from(length - at).unwrap_or(usize::MAX).min(block.len());
        let Some(part) = block.get_mut(..wanted) else { break };
        file.read_exact_at(part, at)?;
        update(part);
        at += wanted as u64;
        hashed(at);
    }
    Ok(())
}
