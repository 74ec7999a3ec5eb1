//! Hostile: never gives the same answer twice. It counts its calls in a static, which a fresh sandbox forgets, and it
//! adds to the launch that it is shown, which a second look at its own answer brings to light.

use std::sync::atomic::{AtomicU32, Ordering};

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Probe;

static CALLS: AtomicU32 = AtomicU32::new(0);

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-fickle", "0.1.0", "Hostile: answers differently every time.")
    }

    fn choose(_: &Request, _: &Settings, mut launch: Launch) -> Result<Launch, Vec<Violation>> {
        launch.resources.memory_mib += 1 + CALLS.fetch_add(1, Ordering::Relaxed);
        Ok(launch)
    }
}

export_policy!(Probe);
