//! Hostile: writes terminal escapes into every text that the host takes from it.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy, log};

struct Probe;

/// The text clears the screen, sets the window's title, starts a line of its own, and turns the text's direction
/// around.
const ESCAPES: &str = "\x1b[2J\x1b]0;owned\x07\r\nerror: forged line \u{9b}31m \u{202e}txt";

#[derive(serde::Deserialize)]
struct Settings {}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        // JSON leaves the C1 control and the direction override as they are.
        About::new("probe-escapes", ESCAPES, ESCAPES)
            .settings("{\"title\": \"\u{9b}31m \u{202e}txt\"}")
    }

    fn choose(_: &Request, _: &Settings, mut launch: Launch) -> Result<Launch, Vec<Violation>> {
        log::warn(ESCAPES);
        launch.warnings = vec![ESCAPES.into()];
        launch.extensions = vec![(ESCAPES.into(), ESCAPES.into())];
        Ok(launch)
    }

    fn validate(_: &Request, _: &Settings, _: &Launch) -> Vec<Violation> {
        vec![Violation::new(ESCAPES, ESCAPES, ESCAPES).hint(ESCAPES)]
    }
}

export_policy!(Probe);
