//! Disks for a state folder that can be filled, or whose file system fails, without anything else's noticing.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{Qhost, command, succeed, wait_for};

/// Writes to a disk until it is full.
pub fn fill(disk: &Path) {
    // On one that is full already, or read-only, there is nothing to be done.
    let Ok(mut file) = fs::File::create(disk.join("filler")) else { return };
    for size in [1 << 20, 4096, 1] {
        let block = vec![1; size];
        while file.write_all(&block).is_ok() {}
    }
}

/// A disk in memory.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Under a state folder, of so many MiB; none where this user may not mount one.
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

    /// Fills it.
    pub fn fill(&self) {
        fill(&self.0);
    }

    /// Whether it has been filled.
    pub fn is_full(&self) -> bool {
        self.0.join("filler").exists()
    }

    /// Makes room again.
    pub fn empty(&self) {
        // It need not be full.
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

/// An ext4 file system in a file, which becomes read-only when it is told of an error, whatever has files open to write to.
pub struct FailingDisk {
    at: PathBuf,
    device: String,
}

impl FailingDisk {
    /// Under a state folder; none where this user may not mount one.
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

    /// Tells the kernel of an error of the file system.
    pub fn fail(&self) {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device);
        fs::write(trigger, "1").expect("a file system that can be told of errors");
        let probe = self.at.join("probe");
        wait_for("the file system to be read-only", || fs::write(&probe, "x").err().map(drop));
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        succeed("umount", &["-l", self.at.to_str().expect("UTF-8")]);
    }
}
