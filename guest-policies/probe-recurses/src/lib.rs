//! Hostile: calls itself until the stack ends.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Probe;

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-recurses", "0.1.0", "Hostile: calls itself until the stack ends.")
    }

    fn choose(_: &Request, _: &Settings, mut launch: Launch) -> Result<Launch, Vec<Violation>> {
        launch.resources.cpus = deeper(1);
        Ok(launch)
    }
}

export_policy!(Probe);

/// The function needs its frame after the call, so that no compiler makes a loop of it.
#[expect(unconditional_recursion, reason = "that is what this probe is for")]
fn deeper(depth: u32) -> u32 {
    std::hint::black_box(deeper(std::hint::black_box(depth + 1))) + depth
}
