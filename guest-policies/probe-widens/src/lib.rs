//! Hostile: gives every task 128 MiB, whatever a policy before it allows.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Probe;

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-widens", "0.1.0", "Hostile: gives a task more than it asked for.")
    }

    fn choose(_: &Request, _: &Settings, mut launch: Launch) -> Result<Launch, Vec<Violation>> {
        launch.resources.memory_mib = 128;
        Ok(launch)
    }
}

export_policy!(Probe);
