//! A disk of 1 MiB that UEFI of aarch64 boots: a FAT12 file system with one program, which prints a text and powers off.

/// Makes the disk. The program is where UEFI looks for one on a disk that it has no boot entry for.
pub fn disk(text: &str) -> Vec<u8> {
    fat12(&program(text))
}

/// Makes an EFI application (UEFI specification, 2.1.1): PE32+ with one section, whose code runs at any address.
fn program(text: &str) -> Vec<u8> {
    // The code is AArch64, in which each instruction has 4 bytes; x1 is the system table (UEFI specification, 4.3).
    const CODE: [u32; 13] = [
        0xaa01_03f3, // mov x19, x1
        0xf940_2260, // ldr x0, [x19, #64]: ConOut
        0x1000_0161, // adr x1, text: 44 bytes on
        0xf940_0408, // ldr x8, [x0, #8]: OutputString
        0xd63f_0100, // blr x8
        0xf940_2e69, // ldr x9, [x19, #88]: RuntimeServices
        0xf940_3528, // ldr x8, [x9, #104]: ResetSystem
        0x5280_0040, // mov w0, #2: EfiResetShutdown
        0xd280_0001, // mov x1, #0: EFI_SUCCESS
        0xd280_0002, // mov x2, #0
        0xd280_0003, // mov x3, #0
        0xd63f_0100, // blr x8
        0x1400_0000, // b .
    ];
    const SECTION: usize = 0x200;
    const ADDRESS: u32 = 0x1000;
    let mut section: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
    section.extend(format!("{text}\r\n\0").encode_utf16().flat_map(u16::to_le_bytes));
    assert!(section.len() <= SECTION, "the text is too long for one section");
    section.resize(SECTION, 0);
    let size = u32::try_from(SECTION).expect("it is small");

    let mut file = b"MZ".to_vec();
    file.resize(0x3c, 0);
    file.extend(0x40_u32.to_le_bytes()); // The offset of the header.
    file.extend(b"PE\0\0");
    words(&mut file, &[0xaa64, 1]); // AArch64, with one section.
    longs(&mut file, &[0, 0, 0]); // No time, no symbols.
    words(&mut file, &[112 + 16 * 8, 0x0022]); // The next header's bytes; executable, large addresses.
    words(&mut file, &[0x020b, 0]); // PE32+.
    longs(&mut file, &[size, 0, 0, ADDRESS, ADDRESS]); // Bytes of code; where it starts.
    longs(&mut file, &[0, 0, 0x1000, 0x200]); // At any address, with this alignment in memory and in the file.
    longs(&mut file, &[0, 0, 0, 0]); // No versions.
    longs(&mut file, &[2 * ADDRESS, size, 0]); // Bytes in memory, and of the headers.
    words(&mut file, &[10, 0]); // An EFI application.
    longs(&mut file, &[0; 8]); // No stack or heap of its own.
    longs(&mut file, &[0, 16]); // Sixteen directories,
    longs(&mut file, &[0; 32]); // all empty.
    file.extend(b".text\0\0\0");
    longs(&mut file, &[size, ADDRESS, size, size]); // The section's place in memory, and in the file behind the headers.
    longs(&mut file, &[0, 0, 0, 0x6000_0020]); // Code, to read and to execute.
    assert!(file.len() <= SECTION, "the headers are in the first 512 bytes");
    file.resize(SECTION, 0);
    file.extend(section);
    file
}

fn words(bytes: &mut Vec<u8>, words: &[u16]) {
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn longs(bytes: &mut Vec<u8>, longs: &[u32]) {
    bytes.extend(longs.iter().flat_map(|long| long.to_le_bytes()));
}

const SECTOR: usize = 512;
const SECTORS: u16 = 2048;
/// The sectors of each of the two tables, with 12 bits for each cluster, which is a sector.
const TABLE_SECTORS: u16 = 6;
const ROOT_ENTRIES: u16 = 64;

/// Makes a file system without a partition table, with one file: `\EFI\BOOT\BOOTAA64.EFI` (Microsoft's FAT specification, 1.03).
fn fat12(file: &[u8]) -> Vec<u8> {
    const FOLDER: u8 = 0x10;
    const ARCHIVE: u8 = 0x20;
    let mut disk = vec![0xeb, 0x3c, 0x90];
    disk.extend(b"QHOST   ");
    words(&mut disk, &[512]);
    disk.push(1); // Sectors of a cluster.
    words(&mut disk, &[1]); // The sectors before the tables.
    disk.push(2); // Tables.
    words(&mut disk, &[ROOT_ENTRIES, SECTORS]);
    disk.push(0xf8); // A disk that stays.
    words(&mut disk, &[TABLE_SECTORS, 32, 2]);
    longs(&mut disk, &[0, 0]);
    disk.extend([0x80, 0, 0x29]);
    longs(&mut disk, &[1]);
    disk.extend(b"QHOST      FAT12   ");
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);

    let clusters = u16::try_from(file.len().div_ceil(SECTOR)).expect("it is small");
    let (efi, boot, first) = (2_u16, 3_u16, 4_u16);
    let last = first + clusters - 1;
    let next = |cluster: u16| {
        if (first..last).contains(&cluster) { cluster + 1 } else { 0xfff }
    };
    let mut entries = vec![0xff8, 0xfff];
    entries.extend((efi..=last).map(next));
    entries.resize(entries.len().next_multiple_of(2), 0);
    let mut table: Vec<u8> = vec![];
    for pair in entries.chunks_exact(2) {
        let both = u32::from(pair[0]) | (u32::from(pair[1]) << 12);
        table.extend(&both.to_le_bytes()[..3]);
    }
    table.resize(usize::from(TABLE_SECTORS) * SECTOR, 0);
    disk.extend(&table);
    disk.extend(&table);

    let bytes = u32::try_from(file.len()).expect("it is small");
    let root = entry(b"EFI        ", FOLDER, efi, 0);
    let root_bytes = usize::from(ROOT_ENTRIES) * 32;
    extend_to(&mut disk, &root, root_bytes);
    let folder = |own: u16, above: u16, inside: Vec<u8>| {
        let dots = [entry(b".          ", FOLDER, own, 0), entry(b"..         ", FOLDER, above, 0)];
        [dots.concat(), inside].concat()
    };
    let in_efi = folder(efi, 0, entry(b"BOOT       ", FOLDER, boot, 0));
    extend_to(&mut disk, &in_efi, SECTOR);
    let in_boot = folder(boot, efi, entry(b"BOOTAA64EFI", ARCHIVE, first, bytes));
    extend_to(&mut disk, &in_boot, SECTOR);
    disk.extend(file);
    disk.resize(usize::from(SECTORS) * SECTOR, 0);
    disk
}

/// Makes an entry of a folder.
fn entry(name: &[u8; 11], attributes: u8, cluster: u16, bytes: u32) -> Vec<u8> {
    let mut entry = name.to_vec();
    entry.push(attributes);
    entry.resize(26, 0);
    words(&mut entry, &[cluster]);
    longs(&mut entry, &[bytes]);
    entry
}

/// Adds bytes, filled up with zeros to `all` bytes.
fn extend_to(disk: &mut Vec<u8>, bytes: &[u8], all: usize) {
    let end = disk.len() + all;
    disk.extend(bytes);
    disk.resize(end, 0);
}
