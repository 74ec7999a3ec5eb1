//! Images judged before QEMU sees them: images that must be refused, images that must not, and any file is one or the other.

use std::{fs, io::Write as _};

use proptest::prelude::*;
use serde_json::json;

use qhost_tests::{
    ImageServer,
    hostile_images::{made, made_by_qemu_img, qcow2},
    linux_guest,
};

use crate::{qhost, snapshot};

/// The list is a snapshot, `snapshots/hostile-images.snap`.
#[test]
fn every_hostile_image_is_refused_by_its_check() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let mut list = String::new();
    for image in made().into_iter().chain(made_by_qemu_img(qhost.folder())) {
        let (url, sha256) = server.serve("/image", image.bytes);
        let job = qhost.job(&(url, sha256.clone()), json!({}));
        let done = qhost.run(&["run", &job]).exits(15).says(&format!("(check {})", image.check));
        let said = done.stderr.lines().find_map(|line| line.strip_prefix("error: "));
        let said =
            said.expect("an error").replace(&format!("the image sha256:{sha256} is refused: "), "");
        list += &format!("{:<52} {said}\n", image.name);
        assert!(qhost.stored_images().is_empty(), "{} was stored", image.name);
    }
    assert!(qhost.vms().is_empty());
    snapshot("hostile-images", &list, &qhost);
}

#[test]
fn a_disk_larger_than_allowed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[image]\nmax_disk_bytes = 1000\n");
    let job = qhost.job(&server.serve("/image", qcow2(&[])), json!({}));
    qhost
        .run(&["run", &job])
        .exits(15)
        .says("more than image.max_disk_bytes, 1000 (check disk-size)");
}

/// Images of other projects, and this project's guest in its four forms, one of which starts from a CD and from a disk.
#[test]
fn real_images_are_accepted() {
    for (name, format) in [
        ("guest.iso", "Iso"),
        ("guest.raw", "Raw"),
        ("guest.qcow2", "Qcow2"),
        ("guest-compressed.qcow2", "Qcow2"),
        ("grub-rescue-cdrom.iso", "Iso"),
        ("grub-rescue-floppy.img", "Iso"),
    ] {
        let bytes = fs::read(linux_guest().join(name)).unwrap();
        let is_hybrid = bytes[510..512] == [0x55, 0xaa];
        assert_eq!(is_hybrid, format != "Qcow2", "{name}");
        let inspected = qhost_image::inspect(&in_memory(&bytes), 1 << 40).unwrap().unwrap();
        assert_eq!(format!("{:?}", inspected.format), format, "{name}");
    }
}

fn in_memory(bytes: &[u8]) -> fs::File {
    let memory = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::empty()).unwrap();
    let mut file = fs::File::from(memory);
    file.write_all(bytes).unwrap();
    file
}

/// Any bytes, and bytes that begin like a qcow2 image: the result is a verdict or a refusal, and always the same for the same bytes.
fn any_image() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((0_usize..512, any::<u8>()), 0..24);
    let edited = edits.prop_map(|edits| {
        edits.into_iter().fold(qcow2(&[]), |mut image, (at, byte)| {
            image[at] = byte;
            image
        })
    });
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..2048),
        edited.clone(),
        (edited, 0_usize..4096).prop_map(|(mut image, length)| {
            image.truncate(length);
            image
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn anything_is_accepted_or_refused(image in any_image()) {
        let file = in_memory(&image);
        let verdict = qhost_image::inspect(&file, 1 << 30).unwrap();
        if let Ok(inspected) = &verdict {
            prop_assert_eq!(inspected.bytes, image.len() as u64);
            prop_assert!(inspected.disk_bytes <= 1 << 30);
            let raw = !image.starts_with(b"QFI\xfb");
            prop_assert!(!raw || inspected.disk_bytes == inspected.bytes.next_multiple_of(512));
        }
        prop_assert_eq!(qhost_image::inspect(&file, 1 << 30).unwrap(), verdict);
    }
}
