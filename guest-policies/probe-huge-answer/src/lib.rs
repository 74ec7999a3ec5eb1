//! Hostile: returns a launch with 16 MiB of warnings.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Probe;

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-huge-answer", "0.1.0", "Hostile: returns more than the host will copy.")
    }

    fn choose(_: &Request, _: &Settings, mut launch: Launch) -> Result<Launch, Vec<Violation>> {
        launch.warnings.push("x".repeat(16 << 20));
        Ok(launch)
    }
}

export_policy!(Probe);
