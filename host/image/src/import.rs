//! Imports a file of this host into the store as if a source had served it.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use tokio::{fs::File, io::AsyncReadExt as _, task::spawn_blocking};
use url::Url;

use qhost_model::digest::FileDigest;

use super::{
    ImageError, Mismatch, Progress, Step,
    fetch::Fetched,
    hashers::{Digests, Hashers},
    packing::Packing,
    pipe::{Pipe, Transferred, hash_prefix},
    store::{Fetcher, Part},
    unpack::Bounds,
};
use crate::limits;

/// The SHA-256 of a file.
///
/// # Errors
/// The path is no file that can be read.
pub async fn digest(path: &Path, progress: &dyn Progress) -> Result<FileDigest, ImageError> {
    let (file, bytes) = open(path).await?;
    progress.begins(Step::Checking, Some(bytes));
    let file = file.into_std().await;
    let hashing = spawn_blocking(move || {
        let mut hashers = Hashers::new(false);
        let done = hash_prefix(&mut |bytes| hashers.update(bytes), &file, bytes, &mut |_| ());
        done.map(|()| hashers.finish())
    });
    let hashed = hashing.await.map_err(std::io::Error::other).and_then(|hashed| hashed);
    let Digests { sha256, .. } = hashed.map_err(unreadable(path))?;
    progress.done(bytes);
    Ok(FileDigest::Sha256(sha256))
}

/// Copies a file that must have a digest into `part`, and unpacks it where it is packed. `source` stands for the file in
/// the record.
pub(super) async fn file<'a>(
    path: &Path,
    source: &'a Url,
    expected: FileDigest,
    part: &mut Part,
    Fetcher { config, progress, .. }: Fetcher<'_>,
) -> Result<Fetched<'a>, ImageError> {
    let (mut file, total) = open(path).await?;
    let most = config.max_bytes;
    if total > most {
        let reason = format!("it has {total} bytes, more than image.max_bytes, {most}");
        return Err(unreadable(path)(std::io::Error::other(reason)));
    }
    part.clear()?;
    part.claim().all(total)?;
    part.has_room_for(total, source)?;
    progress.begins(Step::Copying, Some(total));
    let mut piece = read(&mut file, path).await?;
    let bounds = Bounds { bytes: config.max_bytes, ratio: config.max_unpack_ratio };
    let unpacking = Packing::of(&piece).map(|packing| (packing, bounds));
    let sha512 = matches!(expected, FileDigest::Sha512(_));
    let mut pipe = Pipe::open(part, 0, unpacking, sha512, progress).await?;
    let mut bytes = 0;
    // When a stage has ended early, finishing the pipe says why.
    while !piece.is_empty() {
        bytes += piece.len() as u64;
        if pipe.send(piece).await.is_err() {
            break;
        }
        progress.done(bytes);
        piece = read(&mut file, path).await?;
    }
    let through = pipe.finish().await.map_err(|broken| broken.error(expected, part.path()))?;
    let Transferred { served: digests, content, fault } = through;
    let found = digests.like(expected);
    if found != expected {
        part.clear()?;
        let (url, encoding) = (path.display().to_string(), None);
        let mismatch = Mismatch { url, expected, found, bytes, encoding };
        return Err(ImageError::Mismatch(Box::new(mismatch)));
    }
    if let Some(refusal) = fault {
        part.clear()?;
        return Err(ImageError::Unsafe { digest: expected, refusal });
    }
    Ok(Fetched { digests, content, source })
}

async fn open(path: &Path) -> Result<(File, u64), ImageError> {
    // Opening a pipe would wait for its writer, so that the kind of file is looked at first.
    let metadata = tokio::fs::metadata(path).await.map_err(unreadable(path))?;
    if !metadata.is_file() {
        let reason = std::io::Error::other("it is no regular file");
        return Err(unreadable(path)(reason));
    }
    let file = File::open(path).await.map_err(unreadable(path))?;
    Ok((file, metadata.len()))
}

/// Reads the next piece, which is full except for the last one, and empty at the end.
async fn read(file: &mut File, path: &Path) -> Result<Bytes, ImageError> {
    let mut piece = BytesMut::with_capacity(limits::BLOCK_BYTES);
    while piece.len() < limits::BLOCK_BYTES {
        if file.read_buf(&mut piece).await.map_err(unreadable(path))? == 0 {
            break;
        }
    }
    Ok(piece.freeze())
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> ImageError {
    let path = PathBuf::from(path);
    move |source| ImageError::File { path, source }
}
