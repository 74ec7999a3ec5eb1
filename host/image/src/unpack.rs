//! Unpacks an image while it arrives. The decoders are memory-safe, their memory is bounded, and their output is bounded by a size
//! and by a ratio to their input (CVE-2023-0475).

use std::{
    cell::Cell,
    io::{self, BufRead, Read},
};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use tokio::sync::mpsc::{Receiver, Sender};

use super::{
    Refusal,
    hashers::{Digests, Hashers},
    packing::Packing,
};
use crate::limits;

/// The bounds on a decoder's output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) bytes: u64,
    pub(super) ratio: u64,
}

/// Why unpacking ended early.
pub(super) enum Stop {
    /// The next stage has ended, and its result says why.
    StageClosed,
    Refused(Refusal),
}

/// Unpacks the bytes that arrive, and hands the result to the next stage.
pub(super) fn unpack(
    packing: Packing,
    bounds: Bounds,
    hashers: Hashers,
    arriving: Receiver<Bytes>,
    onward: &Sender<Bytes>,
) -> Result<Served, Stop> {
    let arrived = Cell::new(0);
    let mut served = Arriving { arriving, piece: Bytes::new(), hashers, arrived: &arrived };
    let mut unpacked = Unpacked { onward, bounds, bytes: 0, arrived: &arrived };
    let decoded = match packing {
        Packing::Gzip => unpacked.take(&mut Members(Some(GzDecoder::new(&mut served)))),
        Packing::Xz => {
            let most = limits::UNPACK_MEMORY_KIB;
            let mut decoder = lzma_rust2::XzReader::new_mem_limit(&mut served, true, most);
            unpacked.take(&mut decoder)
        }
        Packing::Zstd => unpacked.take(&mut Frames::new(&mut served)),
    };
    let broken = match decoded {
        Ok(()) => None,
        Err(Ended::Early(stop)) => return Err(stop),
        Err(Ended::Broken(reason)) => Some(reason),
    };
    // The rest is read to the end, so that a wrong file is reported as a wrong file and not as a broken one.
    served.drain();
    let fault = broken.map(|reason| Refusal {
        check: "unpack",
        reason: format!("it is {}-compressed, and cannot be unpacked: {reason}", packing.name()),
    });
    Ok(Served { digests: served.hashers.finish(), fault })
}

/// The served file, once all of it has arrived.
pub(super) struct Served {
    pub(super) digests: Digests,
    /// Why the file could not be unpacked.
    pub(super) fault: Option<Refusal>,
}

/// The reason why decoding ended before the file's end.
enum Ended {
    Early(Stop),
    /// The file is not packed as it should be.
    Broken(String),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        let too_wide = error.kind() == io::ErrorKind::OutOfMemory;
        Self::Broken(if too_wide { too_much_memory() } else { error.to_string() })
    }
}

fn too_much_memory() -> String {
    format!(
        "unpacking it takes more than {} MiB of memory; pack it with a smaller dictionary or window: xz -9, zstd -19",
        limits::UNPACK_MEMORY_KIB >> 10
    )
}

/// The bytes that arrive, hashed as they are read.
struct Arriving<'a> {
    arriving: Receiver<Bytes>,
    piece: Bytes,
    hashers: Hashers,
    arrived: &'a Cell<u64>,
}

impl Arriving<'_> {
    fn drain(&mut self) {
        while self.refill() {
            self.piece = Bytes::new();
        }
    }

    /// Whether the next bytes are these.
    fn begins_with(&mut self, magic: &[u8]) -> bool {
        while self.piece.len() < magic.len() {
            let begun = std::mem::take(&mut self.piece);
            if !self.refill() {
                self.piece = begun;
                return false;
            }
            self.piece = [begun, std::mem::take(&mut self.piece)].concat().into();
        }
        self.piece.starts_with(magic)
    }

    /// Whether there is more to read.
    fn refill(&mut self) -> bool {
        while self.piece.is_empty() {
            let Some(piece) = self.arriving.blocking_recv() else { return false };
            self.hashers.update(&piece);
            self.arrived.set(self.arrived.get() + piece.len() as u64);
            self.piece = piece;
        }
        true
    }
}

impl BufRead for Arriving<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.refill();
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        // The caller consumes no more than it was given.
        drop(self.piece.split_to(amount.min(self.piece.len())));
    }
}

impl Read for Arriving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// A gzip file: members in a row. Zeros and foreign bytes after the last member do not belong to the file, as with gunzip: tapes
/// were padded, and OpenWrt's images have a signature there.
struct Members<'a, 'b>(Option<GzDecoder<&'a mut Arriving<'b>>>);

impl Read for Members<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let read = member.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            if let Some(served) = self.0.take().map(GzDecoder::into_inner)
                && served.begins_with(&[0x1f, 0x8b])
            {
                self.0 = Some(GzDecoder::new(served));
            }
        }
        Ok(0)
    }
}

/// A zstd file: frames in a row, some of which are skippable (RFC 8878, 3.1). One decoder reads them all: a frame may be of only
/// ten bytes, and a new decoder for each would allocate a window and tables every time.
struct Frames<'a, 'b> {
    served: &'a mut Arriving<'b>,
    decoder: FrameDecoder,
}

impl<'a, 'b> Frames<'a, 'b> {
    fn new(served: &'a mut Arriving<'b>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(u64::from(limits::UNPACK_MEMORY_KIB) << 10);
        Self { served, decoder }
    }

    /// Begins the next frame; gives false where there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.served.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut *self.served) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.served.take(length.into()), &mut io::sink())?;
                }
                Err(FrameDecoderError::WindowSizeTooBig { .. }) => {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl Read for Frames<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A decoder that has begun no frame counts as finished, too.
        while self.decoder.can_collect() == 0 {
            if !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut *self.served, one);
                decoded.map_err(io::Error::other)?;
            } else if !self.begin()? {
                return Ok(0);
            }
        }
        self.decoder.read(buffer)
    }
}

/// The decoder's output, counted and handed to the next stage.
struct Unpacked<'a> {
    onward: &'a Sender<Bytes>,
    bounds: Bounds,
    bytes: u64,
    arrived: &'a Cell<u64>,
}

impl Unpacked<'_> {
    fn take(&mut self, decoder: &mut impl Read) -> Result<(), Ended> {
        loop {
            let mut block = vec![0; limits::BLOCK_BYTES];
            let mut filled = 0;
            while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match decoder.read(rest)? {
                    0 => break,
                    read => filled += read,
                }
            }
            if filled == 0 {
                return Ok(());
            }
            block.truncate(filled);
            self.bytes += filled as u64;
            self.within_bounds().map_err(|refusal| Ended::Early(Stop::Refused(refusal)))?;
            self.onward.blocking_send(block.into()).map_err(|_| Ended::Early(Stop::StageClosed))?;
        }
    }

    fn within_bounds(&self) -> Result<(), Refusal> {
        let Bounds { bytes, ratio } = self.bounds;
        if self.bytes > bytes {
            return Err(Refusal {
                check: "unpack-size",
                reason: format!("unpacked, it is larger than image.max_bytes, {bytes} bytes"),
            });
        }
        let most = self.arrived.get().saturating_mul(ratio).max(limits::UNPACK_FREE_BYTES);
        if self.bytes <= most {
            Ok(())
        } else {
            Err(Refusal {
                check: "unpack-ratio",
                reason: format!(
                    "it unpacks to more than {ratio} times its size, image.max_unpack_ratio"
                ),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use qhost_model::digest::Sha256;
    use tokio::sync::mpsc;

    use super::*;

    fn unpacked(
        packing: Packing,
        packed: &[u8],
        bounds: Bounds,
    ) -> (Result<Sha256, String>, Vec<u8>) {
        let (sender, arriving) = mpsc::channel(1000);
        for piece in packed.chunks(1000) {
            sender.blocking_send(Bytes::copy_from_slice(piece)).unwrap();
        }
        drop(sender);
        let (onward, mut out) = mpsc::channel::<Bytes>(10);
        let reader = std::thread::spawn(move || {
            let pieces: Vec<_> = std::iter::from_fn(|| out.blocking_recv()).collect();
            // Each piece costs a block of memory, and the stages after this one their time: however small the file's parts are, pieces are full.
            let (_, full) = pieces.split_last().unzip();
            assert!(full.is_none_or(|full| full.iter().all(|it| it.len() == limits::BLOCK_BYTES)));
            pieces.concat()
        });
        let ended = unpack(packing, bounds, Hashers::new(false), arriving, &onward);
        drop(onward);
        let bytes = reader.join().unwrap();
        let ended = match ended {
            Ok(Served { digests, fault: None }) => Ok(digests.sha256),
            Ok(Served { fault: Some(refusal), .. }) | Err(Stop::Refused(refusal)) => {
                Err(refusal.check.to_owned())
            }
            Err(Stop::StageClosed) => Err("gone".into()),
        };
        (ended, bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const WIDE: Bounds = Bounds { bytes: 1 << 30, ratio: 2000 };

    #[test]
    fn gzip_of_one_member_and_of_two() {
        let packed = [gzip(b"one, "), gzip(&[7; 100_000])].concat();
        let (digest, bytes) = unpacked(Packing::Gzip, &packed, WIDE);
        assert_eq!(bytes, [&b"one, "[..], &[7; 100_000]].concat());
        assert_eq!(digest, Ok(Sha256::of(&packed)));
    }

    #[test]
    fn gzip_with_what_is_not_its_own_after_it() {
        let one = gzip(b"one, ");
        for after in [&[0; 5000][..], b"FWx0", b"\x1f", b"\x1fx", b"FWx0\x1f\x8b\x08"] {
            let packed = [&one[..], after].concat();
            assert_eq!(
                unpacked(Packing::Gzip, &packed, WIDE),
                (Ok(Sha256::of(&packed)), b"one, ".to_vec()),
                "{after:?}"
            );
        }
        // A broken member does not count as foreign bytes.
        let packed = [&one[..], &one[..12]].concat();
        assert_eq!(unpacked(Packing::Gzip, &packed, WIDE).0, Err("unpack".into()));
    }

    /// The result is the same whatever pieces the file arrives in.
    #[test]
    fn members_whose_magic_is_in_two_pieces() {
        let first = gzip(&[7; 10]);
        for cut in 0..4 {
            let (sender, arriving) = mpsc::channel(10);
            let packed = [&first[..], &gzip(b"two")].concat();
            let (one, two) = packed.split_at(first.len() + cut);
            sender.blocking_send(Bytes::copy_from_slice(one)).unwrap();
            sender.blocking_send(Bytes::copy_from_slice(two)).unwrap();
            drop(sender);
            let (onward, mut out) = mpsc::channel(10);
            assert!(unpack(Packing::Gzip, WIDE, Hashers::new(false), arriving, &onward).is_ok());
            drop(onward);
            let bytes = std::iter::from_fn(|| out.blocking_recv()).collect::<Vec<_>>().concat();
            assert_eq!(bytes, [&[7; 10][..], b"two"].concat());
        }
    }

    #[test]
    fn zstd_of_two_frames_with_one_to_skip_between() {
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        let frame = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let packed = [frame(b"one, "), skipped, frame(&[7; 100_000])].concat();
        let (digest, bytes) = unpacked(Packing::Zstd, &packed, WIDE);
        assert_eq!(bytes, [&b"one, "[..], &[7; 100_000]].concat());
        assert_eq!(digest, Ok(Sha256::of(&packed)));
    }

    /// Each frame has ten bytes and the largest window there may be; pzstd's files and seekable files have such frames, with
    /// smaller windows.
    #[test]
    fn many_small_frames_in_zstd() {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, (1 << 3) | (1 << 1) | 1, 0, 0, b'x'];
        let packed = frame.repeat((256 << 10) / frame.len());
        let (digest, bytes) = unpacked(Packing::Zstd, &packed, WIDE);
        assert_eq!(bytes, vec![b'x'; packed.len() / frame.len()]);
        assert_eq!(digest, Ok(Sha256::of(&packed)));
        let wider = [0x28, 0xb5, 0x2f, 0xfd, 0, (17 << 3) + 1, (1 << 3) | (1 << 1) | 1, 0, 0, b'x'];
        assert_eq!(unpacked(Packing::Zstd, &wider, WIDE).0, Err("unpack".into()));
    }

    #[test]
    fn bounds() {
        let packed = gzip(&vec![0; 80 << 20]);
        for (bounds, check) in [
            (Bounds { bytes: 1 << 20, ratio: 2000 }, "unpack-size"),
            (Bounds { bytes: 1 << 30, ratio: 10 }, "unpack-ratio"),
        ] {
            assert_eq!(unpacked(Packing::Gzip, &packed, bounds).0, Err(check.into()));
        }
    }

    #[test]
    fn what_is_not_packed() {
        for packing in [Packing::Gzip, Packing::Xz, Packing::Zstd] {
            let (ended, bytes) = unpacked(packing, &[7; 5000], WIDE);
            assert_eq!((ended, bytes), (Err("unpack".into()), vec![]));
        }
        let half = &gzip(&[7; 100_000])[..60];
        assert_eq!(unpacked(Packing::Gzip, half, WIDE).0, Err("unpack".into()));
    }
}
