//! Hostile: loops for ever when asked to choose.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Probe;

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-spins", "0.1.0", "Hostile: loops for ever.")
    }

    fn choose(_: &Request, _: &Settings, _: Launch) -> Result<Launch, Vec<Violation>> {
        loop {
            std::hint::black_box(());
        }
    }
}

export_policy!(Probe);
