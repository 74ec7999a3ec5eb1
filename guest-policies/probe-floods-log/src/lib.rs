//! Hostile: writes a long log line, then ten thousand more, and then answers as if it had written none.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy, log};

struct Probe;

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-floods-log", "0.1.0", "Hostile: writes log lines without end.")
    }

    fn choose(_: &Request, _: &Settings, launch: Launch) -> Result<Launch, Vec<Violation>> {
        log::info(&"long ".repeat(10_000));
        for _ in 0..10_000 {
            log::info("the same line again");
        }
        Ok(launch)
    }
}

export_policy!(Probe);
