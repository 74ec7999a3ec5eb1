//! Writes every hostile image to a folder, one file each, named by the check that must refuse it.

use std::{fs, path::PathBuf, process::ExitCode};

use qhost_tests::hostile_images::{made, made_by_qemu_img};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: hostile-images DIR");
        return ExitCode::from(2);
    };
    let scratch = tempfile::TempDir::new().expect("a scratch folder");
    fs::create_dir_all(&folder).expect("the folder");
    for (number, image) in made().into_iter().chain(made_by_qemu_img(scratch.path())).enumerate() {
        let path = folder.join(format!("{number:02}-{}", image.check));
        fs::write(&path, image.bytes).expect("an image");
        println!("{}  {}", path.display(), image.name);
    }
    ExitCode::SUCCESS
}
