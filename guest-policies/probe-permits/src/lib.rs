//! Hostile: allows every launch, and answers a question about an operation as its setting `does` says: `traps`, `spins`,
//! `answers-much`, `escapes`, or `looks-up`, which looks into a table that `describe` does not name.

use qhost_policy_sdk::{
    About, Actor, Operation, Policy, Request, Running, Violation, bindings::qhost::policy::tables,
    export_policy,
};

struct Probe;

/// The text clears the screen, starts a line of its own, and turns the text's direction around.
const ESCAPES: &str = "\x1b[2J\r\nerror: forged line \u{9b}31m \u{202e}txt";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    does: String,
}

impl Policy for Probe {
    type Settings = Settings;

    fn about() -> About {
        About::new("probe-permits", "0.1.0", "Hostile: about operations alone.").settings("{}")
    }

    #[expect(clippy::panic, reason = "that is what this probe is for")]
    fn permit(
        _: &Request,
        settings: &Settings,
        _: &Running,
        _: &Operation,
        _: &Actor,
    ) -> Vec<Violation> {
        match settings.does.as_str() {
            "traps" => panic!("an operation is not permitted by a trap"),
            "spins" => loop {
                std::hint::black_box(());
            },
            "answers-much" => vec![Violation::new("much", "operation", "x".repeat(16 << 20))],
            "escapes" => vec![Violation::new(ESCAPES, ESCAPES, ESCAPES).hint(ESCAPES)],
            "looks-up" => {
                let found = tables::get("secrets", "key");
                let message = format!("found {found:?} of {} keys", tables::size("secrets"));
                vec![Violation::new("looked-up", "operation", message)]
            }
            _ => vec![],
        }
    }
}

export_policy!(Probe);
