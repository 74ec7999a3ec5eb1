//! The names of VMs, images and tenants that a shell offers. If they cannot be read, no names are offered, since an error would stand in
//! the line that is being typed.

use std::path::PathBuf;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

use qhost_engine::config::{Config, default_state_dir};
use qhost_image::{
    Store,
    volumes::{Volume, Volumes},
};
use qhost_model::printable;
use qhost_sys::state::StateDir;
use qhost_vm::{VmRecord, list};

/// VMs that have not ended.
pub(super) fn running_vms() -> ArgValueCandidates {
    ArgValueCandidates::new(|| named(|vm| !vm.status.state().is_final()))
}

/// VMs that have records.
pub(super) fn vms() -> ArgValueCandidates {
    ArgValueCandidates::new(|| named(|_| true))
}

/// Stored images, by the beginnings of their digests.
pub(super) fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let stored = state().and_then(|state| Store::new(state.path()).list().ok());
        let stored = stored.into_iter().flatten();
        let short = |digest: String| digest.chars().take(DIGEST_CHARS).collect::<String>();
        stored
            .map(|image| candidate(short(image.sha256.to_string()), &image.record.source))
            .collect()
    })
}

/// Volumes, with their tenants.
pub(super) fn volumes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let volumes = state().and_then(|state| Volumes::of(&state).list().ok());
        let about = |one: &Volume| format!("{} bytes", one.bytes);
        let volumes = volumes.into_iter().flatten();
        volumes.map(|one| candidate(one.of.to_string(), &about(&one))).collect()
    })
}

/// The tenants of the configuration.
pub(super) fn tenants() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let named = std::env::var_os("QHOST_CONFIG").map(PathBuf::from);
        let config = Config::load(named.as_deref()).ok();
        let tenants = config.iter().flat_map(Config::tenants);
        tenants.map(CompletionCandidate::new).collect()
    })
}

/// Enough digits of a digest to tell stored images apart.
const DIGEST_CHARS: usize = 12;

fn state() -> Option<StateDir> {
    let named = std::env::var_os("QHOST_STATE_DIR").map(PathBuf::from);
    StateDir::new(&named.or_else(default_state_dir)?).ok()
}

/// VMs by their ids, and by their tenants and tasks.
fn named(wanted: impl Fn(&VmRecord) -> bool) -> Vec<CompletionCandidate> {
    let Some(state) = state() else { return vec![] };
    let vms = list::scan(&state).list(&state).into_iter().filter(wanted);
    let mut candidates = vec![];
    for vm in vms {
        let (task, state) = (format!("{}/{}", vm.tenant, vm.task), vm.status.state().name());
        // A name that a shell would have to quote is a tenant's choice, and is not offered.
        if task.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)) {
            candidates.push(candidate(task.clone(), state));
        }
        candidates.push(candidate(vm.id, &format!("{task}, {state}")));
    }
    candidates.dedup_by(|a, b| a.get_value() == b.get_value());
    candidates
}

fn candidate(value: String, about: &str) -> CompletionCandidate {
    CompletionCandidate::new(value).help(Some(printable::line(about, 80).to_string().into()))
}
