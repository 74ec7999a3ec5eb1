//! Any bytes as an image: accepted by the rules, or refused; never a panic.
#![no_main]

use std::{cell::RefCell, fs::File, io::Write as _, io::Seek as _};

use libfuzzer_sys::fuzz_target;

thread_local! {
    static FILE: RefCell<File> = RefCell::new(tempfile::tempfile_in("/dev/shm").expect("a file in memory"));
}

fuzz_target!(|image: &[u8]| {
    FILE.with_borrow_mut(|file| {
        file.set_len(0).expect("a file in memory");
        file.rewind().expect("a file in memory");
        file.write_all(image).expect("a file in memory");
        let verdict = qhost_image::inspect(file, 1 << 40).expect("a file in memory");
        if let Ok(inspected) = verdict {
            assert_eq!(inspected.bytes, image.len() as u64);
            assert!(inspected.disk_bytes <= 1 << 40);
        }
    });
});
