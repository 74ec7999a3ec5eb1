//! Images that must not reach QEMU: one for every attack that is known against opening a tenant's image, and for every
//! check of OpenStack's `format_inspector`. `cargo run -p qhost-tests --bin hostile-images -- DIR` writes them to files.

use std::{fs, path::Path};

use crate::succeed;

/// An image and the check that refuses it.
pub struct HostileImage {
    /// What the image is, in words.
    pub name: &'static str,
    /// The image's bytes.
    pub bytes: Vec<u8>,
    /// The name of the check.
    pub check: &'static str,
}

const QCOW2: &[u8] = b"QFI\xfb";
const CLUSTER: usize = 64 << 10;

/// A file of zeros with these bytes at these places.
fn file(bytes: usize, places: &[(usize, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; bytes];
    for (at, part) in places {
        file[*at..at + part.len()].copy_from_slice(part);
    }
    file
}

/// A sound qcow2 image of version 3 with a disk of 1 MiB, and then these bytes at these places.
pub fn qcow2(places: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = file(
        3 * CLUSTER,
        &[
            (0, QCOW2),
            (4, &3_u32.to_be_bytes()),
            (20, &16_u32.to_be_bytes()),
            (24, &(1_u64 << 20).to_be_bytes()),
            (36, &1_u32.to_be_bytes()),
            (40, &(CLUSTER as u64).to_be_bytes()),
            (48, &(2 * CLUSTER as u64).to_be_bytes()),
            (56, &1_u32.to_be_bytes()),
            (96, &4_u32.to_be_bytes()),
            (100, &104_u32.to_be_bytes()),
        ],
    );
    for (at, part) in places {
        image[*at..at + part.len()].copy_from_slice(part);
    }
    image
}

/// A sound qcow2 image with a backing file's name, which stands behind the header.
fn backed_by(name: &str) -> Vec<u8> {
    let length = u32::try_from(name.len()).expect("a short name").to_be_bytes();
    qcow2(&[(8, &512_u64.to_be_bytes()), (16, &length), (512, name.as_bytes())])
}

fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("little data");
    qcow2(&[(104, &kind.to_be_bytes()), (108, &length.to_be_bytes()), (112, data)])
}

/// A disk with a GUID partition table whose protective entry is edited.
fn gpt(places: &[(usize, &[u8])]) -> Vec<u8> {
    let sound: &[(usize, &[u8])] =
        &[(450, &[0xee]), (454, &[1]), (510, &[0x55, 0xaa]), (512, b"EFI PART")];
    file(CLUSTER, &[sound, places].concat())
}

/// All images that are made byte by byte.
pub fn made() -> Vec<HostileImage> {
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                      createType=\"monolithicFlat\"\nRW 20480 FLAT \"/etc/shadow\" 0\n";
    let sparse = |at: usize| file(CLUSTER, &[(at, b"KDMV\x01\0\0\0")]);
    let image = |name, bytes, check| HostileImage { name, bytes, check };
    let qcow2_with = |name, places: &[(usize, &[u8])], check| image(name, qcow2(places), check);
    let format =
        |name, at: usize, magic: &[u8]| image(name, file(CLUSTER, &[(at, magic)]), "format");
    let footer = CLUSTER - 512;
    let iso: (usize, &[u8]) = (0x8001, b"CD001\x01");
    vec![
        image("no bytes", vec![], "not-empty"),
        // These formats name files, or have parsers that are not needed here.
        image("VMDK descriptor of /etc/shadow", descriptor.into(), "format"),
        image("VMDK descriptor without its comment", descriptor[22..].into(), "format"),
        image("VMDK descriptor behind comments", format!("# x\n\n  # y\n{}", &descriptor[22..]).into(), "format"),
        image("VMDK, sparse", sparse(0), "format"),
        image(
            "VMDK, stream-optimized with a footer of its own",
            file(CLUSTER, &[(0, b"KDMV\x03\0\0\0"), (56, &[0xff; 8]), (CLUSTER - 1024, b"KDMV\x03\0\0\0")]),
            "format",
        ),
        format("VMDK of ESX", 0, b"COWD"),
        format("VHD, dynamic", 0, b"conectix"),
        format("VHD, fixed", footer, b"conectix"),
        format("VHD, fixed, by an old writer", footer + 1, b"conectix"),
        format("VHDX", 0, b"vhdxfile"),
        format("VDI", 0x40, &[0x7f, 0x10, 0xda, 0xbe]),
        format("QED", 0, b"QED\0"),
        format("LUKS 1", 0, b"LUKS\xba\xbe\0\x01"),
        format("LUKS 2", 0, b"LUKS\xba\xbe\0\x02"),
        format("LUKS 2 without its first header", 0x4000, b"SKUL\xba\xbe\0\x02"),
        image("QCOW of version 1", file(CLUSTER, &[(0, b"QFI\xfb\0\0\0\x01")]), "format"),
        format("Parallels", 0, b"WithoutFreeSpace"),
        format("Parallels, extended", 0, b"WithouFreSpacExt"),
        format("Bochs", 0, b"Bochs Virtual HD Image"),
        format("cloop", 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"),
        format("DMG", footer, b"koly\0\0\0\x04\0\0\x02\0"),
        // The next images are taken for packed files by their first bytes.
        image("gzip, broken", file(CLUSTER, &[(0, &[0x1f, 0x8b, 0x08])]), "unpack"),
        image("xz, broken", file(CLUSTER, &[(0, b"\xfd7zXZ\0")]), "unpack"),
        image("zstd, broken", file(CLUSTER, &[(0, &[0x28, 0xb5, 0x2f, 0xfd])]), "unpack"),
        format("bzip2", 0, b"BZh91AY&SY"),
        format("lz4", 0, &[0x04, 0x22, 0x4d, 0x18]),
        format("lzma", 0, b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0"),
        format("zip", 0, b"PK\x03\x04"),
        format("7z", 0, b"7z\xbc\xaf\x27\x1c"),
        format("RAR", 0, b"Rar!\x1a\x07\x01\0"),
        format("WIM", 0, b"MSWIM\0\0\0"),
        format("Android sparse", 0, &[0x3a, 0xff, 0x26, 0xed]),
        format("squashfs", 0, b"hsqs"),
        format("a kernel", 0, b"\x7fELF"),
        format("OVA", 257, b"ustar\0"),
        // The next images are of more than one format.
        image("qcow2 and ISO", qcow2(&[iso]), "one-format"),
        image("qcow2 and a partition table", qcow2(&[(510, &[0x55, 0xaa])]), "one-format"),
        image("ISO and VHD", file(CLUSTER, &[iso, (footer, b"conectix")]), "one-format"),
        image("VMDK and VDI", file(CLUSTER, &[(0, b"KDMV"), (0x40, &[0x7f, 0x10, 0xda, 0xbe])]), "one-format"),
        // The next images have offsets that lead out of the file.
        image("backing file: the host's", backed_by("/etc/shadow"), "qcow2-backing-file"),
        image("backing file: json:", backed_by(r#"json:{"driver":"file","filename":"/etc/shadow"}"#), "qcow2-backing-file"),
        image("backing file: nbd:", backed_by("nbd:127.0.0.1:10809"), "qcow2-backing-file"),
        image("backing file: http:", backed_by("http://169.254.169.254/latest"), "qcow2-backing-file"),
        image("backing file: vvfat:", backed_by("fat:/etc"), "qcow2-backing-file"),
        qcow2_with("backing file of no name", &[(8, &512_u64.to_be_bytes())], "qcow2-backing-file"),
        image(
            "a qcow2 header that a guest wrote into its raw disk",
            {
                let mut disk = crate::boot_sector::disk("mine", crate::boot_sector::Then::PowerOff);
                let header = backed_by("/etc/shadow");
                disk[..header.len()].copy_from_slice(&header);
                disk
            },
            "qcow2-backing-file",
        ),
        qcow2_with("external data file", &[(79, &[4])], "qcow2-data-file"),
        image("name of a data file", extension(0x4441_5441, b"/etc/shadow\0\0\0\0\0"), "qcow2-header-extension"),
        image("format of a backing file", extension(0xe279_2aca, b"raw\0\0\0\0\0"), "qcow2-header-extension"),
        image("header of an encrypted image", extension(0x0537_be77, &[0; 16]), "qcow2-header-extension"),
        image("dirty bitmaps", extension(0x2385_2875, &[0; 24]), "qcow2-header-extension"),
        image("unknown header extension", extension(0x1234_5678, &[]), "qcow2-header-extension"),
        qcow2_with("header extension beyond the cluster", &[(104, &[0x68, 0x03, 0xf8, 0x57, 0xff, 0xff, 0xff, 0xff])], "qcow2-header-extension"),
        qcow2_with("AES", &[(35, &[1])], "qcow2-encryption"),
        qcow2_with("LUKS inside", &[(35, &[2])], "qcow2-encryption"),
        qcow2_with("snapshots", &[(63, &[1])], "qcow2-snapshots"),
        // The next images have headers that no writer makes.
        qcow2_with("version 4", &[(7, &[4])], "qcow2-version"),
        qcow2_with("dirty", &[(79, &[1])], "qcow2-dirty"),
        qcow2_with("corrupt", &[(79, &[2])], "qcow2-corrupt"),
        qcow2_with("unknown incompatible feature", &[(79, &[32])], "qcow2-features"),
        qcow2_with("clusters of 2^63 bytes", &[(23, &[63])], "qcow2-cluster-bits"),
        qcow2_with("clusters of 2^8 bytes", &[(23, &[8])], "qcow2-cluster-bits"),
        qcow2_with("reference counts of 2^7 bits", &[(99, &[7])], "qcow2-refcount-order"),
        qcow2_with("header length 0", &[(100, &[0; 4])], "qcow2-header-length"),
        image("short header", qcow2(&[])[..72].to_vec(), "qcow2-header-length"),
        image("8 bytes of a header", qcow2(&[])[..8].to_vec(), "qcow2-header-length"),
        qcow2_with("compression type without its feature", &[(100, &112_u32.to_be_bytes()), (104, &[1])], "qcow2-compression-type"),
        // The next images have impossible sizes.
        qcow2_with("a disk of 2^63 bytes", &[(24, &[0x80, 0, 0, 0, 0, 0, 0, 0])], "qcow2-size"),
        qcow2_with("a disk of no bytes", &[(24, &[0; 8])], "qcow2-size"),
        qcow2_with("an L1 table of 32 GiB", &[(36, &[0xff; 4])], "qcow2-l1-table"),
        qcow2_with("an L1 table behind the file", &[(40, &(1_u64 << 40).to_be_bytes())], "qcow2-l1-table"),
        qcow2_with("an L1 table in the header", &[(40, &[0; 8])], "qcow2-l1-table"),
        qcow2_with("an L1 table too small for its disk", &[(24, &(1_u64 << 39).to_be_bytes())], "qcow2-l1-table"),
        qcow2_with("reference counts behind the file", &[(48, &[0xff; 8])], "qcow2-refcount-table"),
        qcow2_with("256 TiB of reference counts", &[(56, &[0xff; 4])], "qcow2-refcount-table"),
        image("a compressed cluster for all of 8 TiB", bomb(), "disk-size"),
        // The next images have wrong partition tables.
        image("a protective partition that starts elsewhere", gpt(&[(454, &[2])]), "gpt-protective-entry"),
        image("a protective partition that is the second", gpt(&[(450, &[0x83]), (466, &[0xee]), (470, &[1])]), "gpt-protective-entry"),
        image("a GUID partition table without a boot signature", gpt(&[(510, &[0, 0])]), "gpt-protective-entry"),
        image("a boot flag that is none", gpt(&[(446, &[0x12])]), "partition-boot-flag"),
    ]
}

/// An image with one L2 table, which all L1 entries share, and whose entries are all the same compressed cluster:
/// `qemu-img convert` would unpack it until the host's disk is full. Only the cap on a disk's size refuses it.
fn bomb() -> Vec<u8> {
    let entries = 16_384_usize;
    let l1 = ((4 * CLUSTER as u64) | (1 << 63)).to_be_bytes().repeat(entries);
    let compressed = ((5 * CLUSTER as u64) | (1 << 62)).to_be_bytes().repeat(CLUSTER / 8);
    let mut image = qcow2(&[
        (24, &((entries * (CLUSTER / 8) * CLUSTER) as u64).to_be_bytes()),
        (36, &u32::try_from(entries).expect("a few").to_be_bytes()),
        (48, &(3 * CLUSTER as u64).to_be_bytes()),
    ]);
    image.resize(6 * CLUSTER, 0);
    for (cluster, bytes) in [(1, l1), (4, compressed)] {
        image[cluster * CLUSTER..cluster * CLUSTER + bytes.len()].copy_from_slice(&bytes);
    }
    image
}

/// All images that `qemu-img` makes, in a scratch folder: the same attacks as they look in the wild.
pub fn made_by_qemu_img(scratch: &Path) -> Vec<HostileImage> {
    let secret = scratch.join("secret");
    fs::write(&secret, [7; 4096]).expect("a file");
    let secret = secret.to_str().expect("UTF-8");
    let data_file = format!("data_file={secret}.data,data_file_raw=on");
    let path = scratch.join("hostile");
    let path = path.to_str().expect("UTF-8");
    let image = |name, format: &str, args: &[&str], size: &str, check| {
        let create = ["create", "-q", "-f", format];
        succeed("qemu-img", &[&create, args, &[path, size]].concat());
        HostileImage { name, bytes: fs::read(path).expect("the image"), check }
    };
    let snapshots = {
        let mut image = image("qemu-img: snapshots", "qcow2", &[], "1M", "qcow2-snapshots");
        succeed("qemu-img", &["snapshot", "-c", "one", path]);
        image.bytes = fs::read(path).expect("the image");
        image
    };
    let bitmaps = {
        let mut image = image("qemu-img: bitmaps", "qcow2", &[], "1M", "qcow2-header-extension");
        succeed("qemu-img", &["bitmap", "--add", path, "one"]);
        image.bytes = fs::read(path).expect("the image");
        image
    };
    vec![
        image(
            "qemu-img: backing file",
            "qcow2",
            &["-u", "-b", secret, "-F", "raw"],
            "1M",
            "qcow2-backing-file",
        ),
        image("qemu-img: data file", "qcow2", &["-o", &data_file], "1M", "qcow2-data-file"),
        image("qemu-img: a disk of 1 PiB", "qcow2", &["-o", "cluster_size=2M"], "1P", "disk-size"),
        snapshots,
        bitmaps,
        image("qemu-img: vmdk", "vmdk", &[], "1M", "format"),
        image(
            "qemu-img: vmdk, stream-optimized",
            "vmdk",
            &["-o", "subformat=streamOptimized"],
            "1M",
            "format",
        ),
        image("qemu-img: vmdk, flat", "vmdk", &["-o", "subformat=monolithicFlat"], "1M", "format"),
        image("qemu-img: vpc", "vpc", &[], "1M", "format"),
        image(
            "qemu-img: vpc, fixed",
            "vpc",
            &["-o", "subformat=fixed,force_size=on"],
            "1M",
            "format",
        ),
        image("qemu-img: vhdx", "vhdx", &[], "1M", "format"),
        image("qemu-img: vdi", "vdi", &[], "1M", "format"),
        image("qemu-img: qed", "qed", &[], "1M", "format"),
        image("qemu-img: qcow", "qcow", &[], "1M", "format"),
        image("qemu-img: parallels", "parallels", &[], "1M", "format"),
    ]
}
