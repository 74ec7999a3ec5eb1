//! Bounds the resources that one task may have.
//!
//! Settings: `{"memory_mib": 512, "cpus": 2, "ports": 4, "disk_bytes": 10737418240}`; a bound that is absent is not checked.

use qhost_policy_sdk::{About, Launch, Policy, Request, Resources, Violation, export_policy};

struct Limits;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    memory_mib: Option<u64>,
    cpus: Option<u64>,
    ports: Option<u64>,
    disk_bytes: Option<u64>,
}

impl Policy for Limits {
    type Settings = Settings;

    fn about() -> About {
        About::new(
            "limits",
            env!("CARGO_PKG_VERSION"),
            "Bounds the memory, the CPUs, the number of ports and each disk of one task.",
        )
        .settings(include_str!("../settings.schema.json"))
    }

    fn validate(_: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
        let Resources { cpus, memory_mib } = launch.resources;
        let bounds = [
            ("memory", "resources.memory-mib", memory_mib.into(), settings.memory_mib, " MiB"),
            ("cpus", "resources.cpus", cpus.into(), settings.cpus, " CPUs"),
            ("ports", "ports", launch.ports.len() as u64, settings.ports, " ports"),
            ("disk", "disks", largest_disk_bytes(launch), settings.disk_bytes, " bytes of disk"),
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

/// The largest size that a task asks for: of its root disk, if that is to be larger than the image, and of its ephemeral disks.
fn largest_disk_bytes(launch: &Launch) -> u64 {
    let size_mib = launch.disks.iter().filter_map(|disk| disk.size_mib).max();
    u64::from(size_mib.unwrap_or_default()) << 20
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
    fn a_disk_that_is_as_large_as_its_image_is_not_bounded() {
        let mut launch = example::launch();
        let settings = || serde_json::from_str(r#"{"disk_bytes": 2097152}"#).unwrap();
        for (asked, refused) in [(None, 0), (Some(2), 0), (Some(3), 1)] {
            launch.root_disk_mut().unwrap().size_mib = asked;
            assert_eq!(Limits::validate(&example::request(), &settings(), &launch).len(), refused);
        }
    }

    #[test]
    fn a_misspelt_bound_is_an_error() {
        assert!(serde_json::from_str::<Settings>(r#"{"memory": 1}"#).is_err());
    }
}
