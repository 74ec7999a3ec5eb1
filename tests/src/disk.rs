//! Disks for a state folder that can be filled, or whose file system fails, without touching the host's other disks.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{Qhost, command, succeed, wait_for};

/// Fills a disk.
pub fn fill(disk: &Path) {
    // A disk that is full already, or read-only, is left as it is.
    let Ok(mut file) = fs::File::create(disk.join("filler")) else { return };
    for size in [1 << 20, 4096, 1] {
        let block = vec![1; size];
        while file.write_all(&block).is_ok() {}
    }
}

/// Has the kernel report an error of a file system.
pub fn fail(trigger: &Path) {
    fs::write(trigger, "1").expect("a file system that can be told of errors");
}

/// A disk in memory.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a disk of so many MiB as a state folder; gives none where this user may not mount one.
    pub fn under(qhost: &Qhost, mib: u32) -> Option<Self> {
        let at = qhost.state();
        let fingerprint = fs::read(at.join("fingerprint.json")).expect("the fingerprint");
        let options = format!("size={mib}m,mode=700");
        let mut mount = command("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at);
        if !mount.stderr(std::process::Stdio::null()).status().expect("mount runs").success() {
            eprintln!("not shown here: a full disk needs the right to mount one");
            return None;
        }
        fs::write(at.join("fingerprint.json"), fingerprint).expect("the fingerprint");
        Some(Self(at))
    }

    /// Fills the disk.
    pub fn fill(&self) {
        fill(&self.0);
    }

    /// Whether the disk has been filled.
    pub fn is_full(&self) -> bool {
        self.0.join("filler").exists()
    }

    /// Makes room on the disk again.
    pub fn empty(&self) {
        // The disk need not have been filled.
        if self.0.join("filler").exists() {
            fs::remove_file(self.0.join("filler")).expect("the filler goes");
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        succeed("umount", &["-l", self.0.to_str().expect("UTF-8")]);
    }
}

/// An ext4 file system in a file, which becomes read-only when an error is reported, even with files open for writing.
pub struct FailingDisk {
    at: PathBuf,
    device: String,
}

impl FailingDisk {
    /// Mounts one as a state folder; gives none where this user may not mount one.
    pub fn under(qhost: &Qhost) -> Option<Self> {
        let (at, image) = (qhost.state(), qhost.folder().join("disk.ext4"));
        let fingerprint = fs::read(at.join("fingerprint.json")).expect("the fingerprint");
        let file = fs::File::create(&image).expect("a file");
        file.set_len(128 << 20).expect("a sparse file");
        let image = image.to_str().expect("UTF-8");
        let made = command("mkfs.ext4").args(["-q", "-F", image]).output();
        let mounted = made.is_ok_and(|made| made.status.success()) && {
            let mut mount = command("mount");
            mount.args(["-o", "loop,errors=remount-ro", image]).arg(&at);
            mount.stderr(std::process::Stdio::null()).status().expect("mount runs").success()
        };
        if !mounted {
            eprintln!("not shown here: a failing disk needs the right to mount one");
            return None;
        }
        let device = succeed("losetup", &["--noheadings", "--output", "NAME", "-j", image]);
        let device = device.trim().trim_start_matches("/dev/").to_owned();
        fs::write(at.join("fingerprint.json"), fingerprint).expect("the fingerprint");
        Some(Self { at, device })
    }

    /// The file by which the kernel is told of an error of the file system.
    pub fn trigger(&self) -> String {
        format!("/sys/fs/ext4/{}/trigger_fs_error", self.device)
    }

    /// Whether the file system is read-only.
    pub fn has_failed(&self) -> bool {
        fs::write(self.at.join("probe"), "x").is_err()
    }

    /// Has the kernel report an error of the file system.
    pub fn fail(&self) {
        fail(Path::new(&self.trigger()));
        wait_for("the file system to be read-only", || self.has_failed().then_some(()));
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        succeed("umount", &["-l", self.at.to_str().expect("UTF-8")]);
    }
}
