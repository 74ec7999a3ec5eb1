//! Finds out whether kvm runs guest code, and at hardware speed. That `/dev/kvm` opens shows neither: some hosts have a kvm that emulates
//! guests instruction by instruction, on which they crawl and then die.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::time::{self, Instant};

use qhost_model::printable;
use qhost_sys::spawn::command;

use crate::limits;

/// Whether this process may use kvm at all.
pub(super) fn device_opens() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/kvm")
}

/// The exit status of QEMU when the probe's last instruction wrote 0x10 to `isa-debug-exit`: `(0x10 << 1) | 1`.
const DONE: i32 = 33;

/// The result of trying kvm.
pub(super) enum Probe {
    /// Kvm ran guest code at hardware speed.
    Works(String),
    /// Kvm did not run guest code, or not at hardware speed.
    DoesNot(String),
    /// Kvm could not be tried.
    NotMade(String),
}

/// Runs the probe in a guest of its own.
pub(super) async fn probe(qemu: &Path) -> Probe {
    match device_opens() {
        Ok(_) => run(qemu).await.unwrap_or_else(|error| Probe::NotMade(error.to_string())),
        Err(error) => Probe::DoesNot(format!("/dev/kvm: {error}")),
    }
}

async fn run(qemu: &Path) -> io::Result<Probe> {
    // The firmware is in memory, so that no file is left however this ends; QEMU opens it through this process.
    let mut rom = File::from(memfd_create("kvm-probe", MemfdFlags::CLOEXEC)?);
    rom.write_all(&firmware())?;
    let rom_path = format!("/proc/{}/fd/{}", std::process::id(), rom.as_raw_fd());
    let args = [
        &["-nodefaults", "-no-user-config", "-display", "none", "-accel", "kvm", "-m", "16"][..],
        &["-machine", "pc", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-bios", &rom_path],
    ]
    .concat();
    let began = Instant::now();
    let mut probe = command(qemu, &args);
    let Ok(output) = time::timeout(limits::KVM_PROBE, probe.output()).await else {
        let limit = limits::KVM_PROBE.as_secs();
        return Ok(Probe::DoesNot(format!(
            "/dev/kvm opens, but guest code did not run at hardware speed: no end after {limit} s"
        )));
    };
    let output = output?;
    Ok(match output.status.code() {
        Some(DONE) => Probe::Works(format!("ran guest code, {} ms", began.elapsed().as_millis())),
        Some(_) | None => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = printable::line(said.trim(), 300);
            Probe::DoesNot(format!("QEMU ended with {}: {said}", output.status))
        }
    })
}

/// A firmware of 64 KiB that counts down from 2^26 and asks QEMU to exit. Hardware takes some 30 ms; an emulating kvm would take minutes.
/// The firmware needs no BIOS, disk or loader.
fn firmware() -> Vec<u8> {
    const COUNT_AND_EXIT: &[u8] = &[
        0x66, 0xb9, 0x00, 0x00, 0x00, 0x04, // mov ecx, 0x04000000
        0x66, 0x49, //                         dec ecx
        0x75, 0xfc, //                         jnz $-2
        0xba, 0xf4, 0x00, //                   mov dx, 0xf4
        0xb0, 0x10, //                         mov al, 0x10
        0xee, //                               out dx, al
        0xf4, //                               hlt
    ];
    /// The code at which an x86 processor starts, 16 bytes below the end of the firmware. It jumps, with wrap-around, to offset 0.
    const RESET: &[u8] = &[0xe9, 0x0d, 0x00]; // jmp 0x0000
    let mut rom = COUNT_AND_EXIT.to_vec();
    rom.resize(0xfff0, 0);
    rom.extend(RESET);
    rom.resize(0x1_0000, 0);
    rom
}
