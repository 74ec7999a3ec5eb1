//! A seed as a guest reads it: an ISO 9660 file system labelled `cidata` (ECMA-119), which cloud-init's NoCloud looks for. Its names
//! stand there in Joliet's form too, for guests that read no others. The same files give the same bytes.

/// The bytes of a block of the file system.
const BLOCK: usize = 2048;
/// The label that NoCloud looks for.
const LABEL: &str = "cidata";

/// A file of a seed.
#[derive(Clone, Copy)]
pub struct SeedFile<'a> {
    /// The file's name: letters, digits, `-` and `.`; at most 30 bytes.
    pub name: &'a str,
    /// The file's content.
    pub bytes: &'a [u8],
}

/// The two forms of names that a disk has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Iso,
    Joliet,
}

impl Names {
    fn encoded(self, name: &str) -> Vec<u8> {
        match self {
            // Linux and the BSDs show the name in lower case and without the version.
            Self::Iso => format!("{};1", name.to_uppercase()).into_bytes(),
            Self::Joliet => name.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        }
    }

    /// The blocks of the two path tables and of the root folder in this form.
    fn places(self) -> Places {
        match self {
            Self::Iso => Places { little: 19, big: 20, root: 23 },
            Self::Joliet => Places { little: 21, big: 22, root: 24 },
        }
    }
}

struct Places {
    little: u32,
    big: u32,
    root: u32,
}

/// The first block that holds a file.
const FILES: u32 = 25;

/// Makes a disk with these files in its root folder, in whole blocks. There may be at most eight files, since the folder has one block.
pub fn seed_disk(files: &[SeedFile<'_>]) -> Vec<u8> {
    let mut files = files.to_vec();
    files.sort_by_key(|file| file.name);
    let mut next = FILES;
    let mut extents = vec![];
    for file in &files {
        let extent = Extent { block: next, bytes: file.bytes.len() };
        next += extent.blocks();
        extents.push(extent);
    }
    let mut disk = Disk(vec![0; 16 * BLOCK]);
    for names in [Names::Iso, Names::Joliet] {
        disk.block(&volume_descriptor(names, next));
    }
    disk.block(&[&[255], b"CD001".as_slice(), &[1]].concat());
    for names in [Names::Iso, Names::Joliet] {
        let root = names.places().root;
        disk.block(&path_table(root.to_le_bytes(), 1_u16.to_le_bytes()));
        disk.block(&path_table(root.to_be_bytes(), 1_u16.to_be_bytes()));
    }
    for names in [Names::Iso, Names::Joliet] {
        disk.block(&root_folder(names, &files, &extents));
    }
    for file in &files {
        disk.block(file.bytes);
    }
    disk.0
}

struct Disk(Vec<u8>);

impl Disk {
    /// Adds bytes, filled up to whole blocks.
    fn block(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}

/// The place of a file or folder.
struct Extent {
    block: u32,
    bytes: usize,
}

impl Extent {
    fn blocks(&self) -> u32 {
        u32::try_from(self.bytes.div_ceil(BLOCK)).unwrap_or(u32::MAX)
    }
}

/// A number in both byte orders (ECMA-119, 7.3.3).
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// A short number in both byte orders (ECMA-119, 7.2.3).
fn both_short(number: u16) -> [u8; 4] {
    let [a, b] = number.to_le_bytes();
    [a, b, b, a]
}

/// A text filled up with blanks to a field's width, in the descriptor's form of text.
fn field(names: Names, text: &str, width: usize) -> Vec<u8> {
    let mut bytes = match names {
        Names::Iso => text.as_bytes().to_vec(),
        Names::Joliet => Names::Joliet.encoded(text),
    };
    let blank: &[u8] = if names == Names::Iso { b" " } else { &[0, b' '] };
    while bytes.len() + blank.len() <= width {
        bytes.extend(blank);
    }
    bytes.resize(width, 0);
    bytes
}

/// The primary volume descriptor, or Joliet's supplementary one (8.4, 8.5).
fn volume_descriptor(names: Names, blocks: u32) -> Vec<u8> {
    let Places { little, big, root } = names.places();
    let (kind, escapes) = match names {
        Names::Iso => (1, [0; 32]),
        Names::Joliet => {
            let mut escapes = [0; 32];
            // The escape sequence stands for UCS-2, level 3.
            escapes[..3].copy_from_slice(b"%/E");
            (2, escapes)
        }
    };
    let mut bytes = vec![kind];
    bytes.extend(b"CD001");
    bytes.extend([1, 0]);
    bytes.extend(field(names, "", 32));
    bytes.extend(field(names, LABEL, 32));
    bytes.extend([0; 8]);
    bytes.extend(both(blocks));
    bytes.extend(escapes);
    // The disk is one volume of a set of one.
    bytes.extend(both_short(1));
    bytes.extend(both_short(1));
    bytes.extend(both_short(2048));
    bytes.extend(both(PATH_TABLE_BYTES));
    bytes.extend(little.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(big.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(record(&[0], Kind::Folder, &Extent { block: root, bytes: BLOCK }));
    // These fields are volume set, publisher, preparer and application, then copyright, abstract and bibliography.
    for width in [128, 128, 128, 128, 37, 37, 37] {
        bytes.extend(field(names, "", width));
    }
    // The times of creation, change, expiry and effect are not known (8.4.26.1).
    for _ in 0..4 {
        bytes.extend([b'0'; 16]);
        bytes.push(0);
    }
    bytes.push(1);
    bytes
}

const PATH_TABLE_BYTES: u32 = 10;

/// A path table with the root folder alone (9.4).
fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    [&[1, 0], root.as_slice(), &parent, &[0, 0]].concat()
}

fn root_folder(names: Names, files: &[SeedFile<'_>], extents: &[Extent]) -> Vec<u8> {
    let root = Extent { block: names.places().root, bytes: BLOCK };
    // The first record is of the folder itself, the second of its parent, which is the root again.
    let mut bytes = [record(&[0], Kind::Folder, &root), record(&[1], Kind::Folder, &root)].concat();
    for (file, extent) in files.iter().zip(extents) {
        bytes.extend(record(&names.encoded(file.name), Kind::File, extent));
    }
    bytes
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    Folder,
}

/// The bytes of a directory record before its name.
const RECORD_BYTES: usize = 33;

/// Makes a directory record (9.1). Its times are in 1980, so that they are valid and say nothing.
fn record(name: &[u8], kind: Kind, extent: &Extent) -> Vec<u8> {
    let length = (RECORD_BYTES + name.len()).next_multiple_of(2);
    let mut bytes = vec![u8::try_from(length).unwrap_or(u8::MAX), 0];
    bytes.extend(both(extent.block));
    bytes.extend(both(u32::try_from(extent.bytes).unwrap_or(u32::MAX)));
    bytes.extend([80, 1, 1, 0, 0, 0, 0]);
    bytes.push(match kind {
        Kind::File => 0,
        Kind::Folder => 2,
    });
    bytes.extend([0, 0]);
    bytes.extend(both_short(1));
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(name);
    bytes.resize(length, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_file_system_of_whole_blocks_and_the_same_each_time() {
        let (long, short) = (vec![b'x'; 5000], b"{}".as_slice());
        let files = [
            SeedFile { name: "user-data", bytes: &long },
            SeedFile { name: "meta-data", bytes: short },
        ];
        let disk = seed_disk(&files);
        assert_eq!(disk.len(), (25 + 1 + 3) * BLOCK);
        assert_eq!(&disk[16 * BLOCK + 1..][..5], b"CD001");
        assert_eq!(&disk[16 * BLOCK + 40..][..8], b"cidata  ");
        assert_eq!(&disk[25 * BLOCK..][..2], short, "sorted by name");
        assert_eq!(&disk[26 * BLOCK..][..5000], &long[..]);
        assert_eq!(disk, seed_disk(&[files[1], files[0]]));
    }
}
