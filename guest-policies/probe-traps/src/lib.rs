//! Hostile: panics, which in Wasm is a trap.

use qhost_policy_sdk::{
    About, Actor, Launch, Operation, Policy, Request, Running, Violation, export_policy,
};

struct Probe;

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-traps", "0.1.0", "Hostile: panics.")
    }

    #[expect(clippy::panic, reason = "that is what this probe is for")]
    fn choose(_: &Request, _: &Settings, _: Launch) -> Result<Launch, Vec<Violation>> {
        panic!("a policy has no standard error: the log has this")
    }

    #[expect(clippy::panic, reason = "that is what this probe is for")]
    fn permit(_: &Request, _: &Settings, _: &Running, _: &Operation, _: &Actor) -> Vec<Violation> {
        panic!("an operation is not permitted by a trap")
    }
}

export_policy!(Probe);
