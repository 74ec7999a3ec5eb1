//! Copies a file that is mostly holes, so that the copy has the same holes.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
};

use rustix::{
    fs::{SeekFrom as Sought, seek},
    io::Errno,
};

/// How many bytes are copied between two reports of progress.
const STEP: u64 = 64 << 20;

/// Copies the first `bytes` bytes into an empty file. `progress` is told after each step how many bytes are done, and
/// can end the copying.
pub(crate) fn copy(
    from: &File,
    to: &File,
    bytes: u64,
    progress: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    to.set_len(bytes)?;
    // With reflinks, the copy shares its blocks with the original; any error here means a file system without them.
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return to.set_len(bytes);
    }
    let mut at = 0;
    while let Some(begin) = next_data(from, at)?.filter(|begin| *begin < bytes) {
        let end = seek(from, Sought::Hole(begin))?.min(bytes);
        at = begin;
        while at < end {
            let step = STEP.min(end - at);
            let (mut source, mut target) = (from, to);
            source.seek(SeekFrom::Start(at))?;
            target.seek(SeekFrom::Start(at))?;
            if io::copy(&mut source.take(step), &mut target)? < step {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += step;
            progress(at)?;
        }
    }
    progress(bytes)
}

/// The offset at which data begins, from an offset on; absent where only a hole follows.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, Sought::Data(at)) {
        Ok(begin) => Ok(Some(begin)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    #[test]
    fn what_is_written_is_copied_and_holes_stay_holes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let bytes = 300 << 20;
        from.set_len(bytes).unwrap();
        for at in [0, 128 << 20, bytes - 4096] {
            from.write_all_at(&[7; 4096], at).unwrap();
        }
        let mut last = 0;
        copy(&from, &to, bytes, &mut |done| {
            assert!(done >= last);
            last = done;
            Ok(())
        })
        .unwrap();
        assert_eq!((last, to.metadata().unwrap().len()), (bytes, bytes));
        for at in [0, 128 << 20, bytes - 4096] {
            let mut found = [0; 4096];
            to.read_exact_at(&mut found, at).unwrap();
            assert_eq!(found, [7; 4096]);
        }
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
