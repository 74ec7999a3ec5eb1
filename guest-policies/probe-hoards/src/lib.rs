//! Hostile: grows its memory, a MiB at a time, until the host says no.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Probe;

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-hoards", "0.1.0", "Hostile: grows its memory until the host says no.")
    }

    fn choose(_: &Request, _: &Settings, _: Launch) -> Result<Launch, Vec<Violation>> {
        let mut hoard = Vec::new();
        loop {
            hoard.push(vec![1_u8; 1 << 20]);
            std::hint::black_box(&hoard);
        }
    }
}

export_policy!(Probe);
