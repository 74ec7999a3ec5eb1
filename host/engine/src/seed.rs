//! Writes a guest's seed to its VM's folder, as a disk or as Ignition's config. The texts of a seed are written in no other place.

use std::{
    fs::{File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
};

use qhost_cage::{Cage, User};
use qhost_image::{SeedFile, seed_disk};
use qhost_model::launch::{
    Launch,
    seed::{NoCloud, PartName, Seed, SeedKind},
};
use qhost_policy::Approved;
use qhost_sys::state;
use qhost_vm::{
    Spec, VmError,
    error::io_error,
    files::{IGNITION, SEED},
};

/// Writes the seed for a VM's first start, if the launch has one. A restart has the same seed, and so the same instance.
pub(crate) fn write(
    vm: &Path,
    approved: &Approved,
    vendor_data: Option<&str>,
    user: User,
) -> Result<(), VmError> {
    let task = approved.task();
    let (Some(asked), Some(launched)) = (&task.asked.seed, &approved.launch().seed) else {
        return Ok(());
    };
    if launched.kind == SeedKind::Ignition {
        let text = asked.texts.part(PartName::Ignition).filter(|_| launched.is_ignition());
        let path = vm.join(IGNITION);
        return text.map_or(Ok(()), |text| {
            create(&path, text.as_bytes(), user).map_err(io_error("write", &path))
        });
    }
    let instance = vm.file_name().unwrap_or_default().to_string_lossy();
    let files =
        NoCloud { asked, launched, instance: &instance, task: &task.name, vendor_data }.files();
    let files: Vec<_> = files
        .iter()
        .map(|file| SeedFile { name: file.name, bytes: file.text.as_bytes() })
        .collect();
    let path = vm.join(SEED);
    create(&path, &seed_disk(&files), user).map_err(io_error("write", &path))
}

/// Gives the seed's file to the user that the VM has now, since an ended VM that is started again has another user.
pub(crate) fn give_to(vm: &Path, spec: &Spec) -> Result<(), VmError> {
    let User::Own(uid) = spec.cage.user else { return Ok(()) };
    let path = match (spec.seed, spec.ignition) {
        (true, _) => vm.join(SEED),
        (false, true) => vm.join(IGNITION),
        (false, false) => return Ok(()),
    };
    let given = state::open_plain(File::options().read(true), &path)
        .and_then(|file| fchown(&file, Some(uid), Some(uid)));
    given.map_err(io_error("give to the VM's user", &path))
}

/// Adds Ignition's config, which QEMU opens by name, to the files that the cage shows.
pub(crate) fn show_in(cage: &mut Cage, vm: &Path, launch: &Launch) {
    if launch.seed.as_ref().is_some_and(Seed::is_ignition) {
        cage.paths.push(vm.join(IGNITION));
    }
}

fn create(path: &Path, bytes: &[u8], user: User) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    if let User::Own(uid) = user {
        fchown(&file, Some(uid), Some(uid))?;
    }
    file.set_permissions(Permissions::from_mode(0o400))
}
