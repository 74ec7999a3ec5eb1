//! Bounds what one task may take.
//!
//! Settings: `{"memory_mib": 512, "cpus": 2, "ports": 4}`; a bound that is absent is not checked.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Limits;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    memory_mib: Option<u32>,
    cpus: Option<u32>,
    ports: Option<u32>,
}

impl Policy for Limits {
    type Settings = Settings;

    fn about() -> About {
        About::new(
            "limits",
            env!("CARGO_PKG_VERSION"),
            "Bounds the memory, the CPUs and the number of ports of one task.",
        )
        .settings(include_str!("../settings.schema.json"))
    }

    fn validate(_: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
        let ports = u32::try_from(launch.ports.len()).unwrap_or(u32::MAX);
        let bounds = [
            (
                "memory",
                "resources.memory-mib",
                launch.resources.memory_mib,
                settings.memory_mib,
                " MiB",
            ),
            ("cpus", "resources.cpus", launch.resources.cpus, settings.cpus, " CPUs"),
            ("ports", "ports", ports, settings.ports, " ports"),
        ];
        bounds
            .into_iter()
            .filter_map(|(code, field, found, most, unit)| {
                let most = most.filter(|most| found > *most)?;
                let message = format!("{found}{unit} is more than the {most} that a task may have");
                Some(
                    Violation::new(&format!("{code}-limit"), field, message)
                        .hint(format!("ask for {most}{unit} or less")),
                )
            })
            .collect()
    }
}

export_policy!(Limits);

#[cfg(test)]
mod tests {
    use super::*;
    use qhost_policy_sdk::example;

    fn codes(settings: &str) -> Vec<String> {
        let settings = serde_json::from_str(settings).unwrap();
        let violations = Limits::validate(&example::request(), &settings, &example::launch());
        violations.into_iter().map(|violation| violation.code).collect()
    }

    #[test]
    fn each_bound_is_checked_alone() {
        assert!(codes("{}").is_empty());
        assert!(codes(r#"{"memory_mib": 256, "cpus": 1, "ports": 1}"#).is_empty());
        assert_eq!(codes(r#"{"memory_mib": 255}"#), ["memory-limit"]);
        assert_eq!(codes(r#"{"cpus": 0}"#), ["cpus-limit"]);
        assert_eq!(codes(r#"{"ports": 0, "memory_mib": 1}"#), ["memory-limit", "ports-limit"]);
    }

    #[test]
    fn a_misspelt_bound_is_an_error() {
        assert!(serde_json::from_str::<Settings>(r#"{"memory": 1}"#).is_err());
    }
}
