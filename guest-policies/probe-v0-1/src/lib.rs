//! A policy of the contract's version 0.1, as it was built when there was no other: it gives no guest more than 128 MiB and no disk more
//! than 16 MiB, and repeats the launch that it was shown. A text `disk_bytes` in its settings is written as the disk's size.

mod contract {
    wit_bindgen::generate!({ path: "../../wit/0.1", world: "policy", generate_all });
}

use contract::exports::qhost::policy::decide::{About, Guest, Launch, Request, Violation};

struct Probe;

const DISK_BYTES: &str = "disk-bytes";
const MOST: u64 = 16 << 20;

impl Guest for Probe {
    fn describe() -> About {
        About {
            name: "probe-v0-1".into(),
            version: "0.1.0".into(),
            description: "A policy of the contract's version 0.1.".into(),
            settings_schema: None,
            extensions: vec![],
        }
    }

    fn check_settings(_: String) -> Result<(), String> {
        Ok(())
    }

    fn choose(request: Request, mut launch: Launch) -> Result<Launch, Vec<Violation>> {
        launch.resources.memory_mib = launch.resources.memory_mib.min(128);
        for (key, value) in &mut launch.extensions {
            if key == DISK_BYTES && value.parse().is_ok_and(|bytes: u64| bytes > MOST) {
                *value = MOST.to_string();
            }
        }
        // The host writes settings as JSON without blanks.
        if let Some((_, rest)) = request.settings.split_once("\"disk_bytes\":\"") {
            let text = rest.split('"').next().unwrap_or_default();
            launch.extensions = vec![(DISK_BYTES.into(), text.into())];
        }
        let shown = |extensions: &[(String, String)]| {
            let pair = |(key, value): &(String, String)| format!("{key}={value}");
            extensions.iter().map(pair).collect::<Vec<_>>().join(" ")
        };
        let digest = &request.task.image.sha256;
        let said =
            format!("{digest} {} {}", shown(&request.task.extensions), shown(&request.extensions));
        if !launch.warnings.contains(&said) {
            launch.warnings.push(said);
        }
        Ok(launch)
    }

    fn validate(_: Request, _: Launch) -> Vec<Violation> {
        vec![]
    }
}

contract::export!(Probe with_types_in contract);
