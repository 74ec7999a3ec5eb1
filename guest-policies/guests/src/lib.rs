//! Judges how guests are set up, what machine they have, and the ways into them.
//!
//! Settings: `{"media_types": ["text/cloud-config"], "forbidden_keys": ["bootcmd"], "ssh_keys": ["SHA256:…"], "machines": ["q35"],
//! "architectures": ["x86_64"], "firmware": ["uefi"], "secure_boot": true, "console": "watch", "agent": "watch", "operators_only":
//! ["exec"]}`, each optional; see `settings.schema.json`.

use qhost_policy_sdk::{
    About, AccessLevel, Actor, FirmwareKind, Launch, Operation, Policy, Request, Running,
    SecureBoot, Seed, SeedPart, Violation, export_policy,
};

struct Guests;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    media_types: Vec<String>,
    forbidden_keys: Vec<String>,
    ssh_keys: Option<Vec<String>>,
    machines: Option<Vec<String>>,
    architectures: Option<Vec<String>>,
    firmware: Option<Vec<String>>,
    secure_boot: bool,
    nested: bool,
    console: Console,
    agent: Agent,
    display: bool,
    operators_only: Vec<String>,
}

#[derive(serde::Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Console {
    Watch,
    Interact,
}

#[derive(serde::Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Agent {
    None,
    Watch,
    Interact,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            media_types: vec!["text/cloud-config".into()],
            forbidden_keys: vec![],
            ssh_keys: None,
            machines: None,
            architectures: None,
            firmware: None,
            secure_boot: false,
            nested: false,
            console: Console::Interact,
            agent: Agent::Interact,
            display: true,
            operators_only: vec![],
        }
    }
}

impl Policy for Guests {
    type Settings = Settings;

    fn about() -> About {
        About::new(
            "guests",
            env!("CARGO_PKG_VERSION"),
            "Rules what guests are set up with, what machine they have, and the ways into them.",
        )
        .settings(include_str!("../settings.schema.json"))
    }

    fn choose(
        _: &Request,
        settings: &Settings,
        mut launch: Launch,
    ) -> Result<Launch, Vec<Violation>> {
        launch.machine.nested &= settings.nested;
        if settings.secure_boot && launch.firmware.kind == FirmwareKind::Uefi {
            launch.firmware.secure_boot = SecureBoot::VendorKeys;
        }
        if settings.console == Console::Watch && launch.access.console == AccessLevel::Interact {
            launch.access.console = AccessLevel::Watch;
        }
        let agent = &mut launch.access.agent;
        match (settings.agent, &*agent) {
            (Agent::None, _) => *agent = AccessLevel::None,
            (Agent::Watch, AccessLevel::Interact) => *agent = AccessLevel::Watch,
            (Agent::Watch | Agent::Interact, _) => {}
        }
        if !settings.display {
            launch.access.display = AccessLevel::None;
        }
        if let (Some(seed), Some(known)) = (&mut launch.seed, &settings.ssh_keys) {
            seed.ssh_keys.retain(|key| known.contains(key));
        }
        Ok(launch)
    }

    fn validate(_: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
        let mut violations = vec![];
        let kind = &launch.machine.kind;
        if settings.machines.as_ref().is_some_and(|allowed| !allowed.contains(kind)) {
            violations.push(Violation::new(
                "machine",
                "machine.kind",
                format!("guests may not have the machine {kind}"),
            ));
        }
        let architecture = &launch.machine.architecture;
        if settings.architectures.as_ref().is_some_and(|allowed| !allowed.contains(architecture)) {
            violations.push(Violation::new(
                "architecture",
                "machine.architecture",
                format!("guests may not have the architecture {architecture}"),
            ));
        }
        let firmware = match &launch.firmware.kind {
            FirmwareKind::Bios => "bios",
            FirmwareKind::Uefi => "uefi",
            FirmwareKind::Other(name) => name,
        };
        let is_allowed = |allowed: &Vec<String>| allowed.iter().any(|one| one == firmware);
        if !settings.firmware.as_ref().is_none_or(is_allowed) {
            violations.push(Violation::new(
                "firmware",
                "firmware.kind",
                format!("guests may not have the firmware {firmware}"),
            ));
        }
        // In monitor mode, the launch is not what this policy chose, so that secure boot is checked here too.
        let is_uefi = launch.firmware.kind == FirmwareKind::Uefi;
        if settings.secure_boot && is_uefi && launch.firmware.secure_boot != SecureBoot::VendorKeys
        {
            violations.push(Violation::new(
                "secure-boot",
                "firmware.secure-boot",
                "guests with UEFI boot only what is signed with the vendors' keys",
            ));
        }
        let parts = launch.seed.iter().flat_map(|seed: &Seed| &seed.parts);
        violations.extend(parts.flat_map(|part| against(part, settings)));
        violations
    }

    fn permit(
        _: &Request,
        settings: &Settings,
        _: &Running,
        operation: &Operation,
        actor: &Actor,
    ) -> Vec<Violation> {
        let name = operation.name();
        if actor.tenant.is_none() || !settings.operators_only.iter().any(|one| one == name) {
            return vec![];
        }
        let message = format!("{name} is for operators alone");
        vec![Violation::new("operators-only", "operation", message)]
    }
}

/// The violations of a part of a seed.
fn against(part: &SeedPart, settings: &Settings) -> Vec<Violation> {
    let field = format!("seed.{}", part.name);
    let mut violations = vec![];
    if part.name == "user-data" && !settings.media_types.contains(&part.media_type) {
        violations.push(
            Violation::new(
                "media-type",
                &field,
                format!("user-data may not be {}", part.media_type),
            )
            .hint(format!("it may be {}", settings.media_types.join(", "))),
        );
    }
    let forbidden = part.keys.iter().filter(|key| settings.forbidden_keys.contains(key));
    violations.extend(
        forbidden
            .map(|key| Violation::new("forbidden-key", &field, format!("{key} may not be set"))),
    );
    violations
}

export_policy!(Guests);

#[cfg(test)]
mod tests {
    use super::*;
    use qhost_policy_sdk::{SeedKind, example};

    fn part(media_type: &str, keys: &[&str]) -> SeedPart {
        SeedPart {
            name: "user-data".into(),
            media_type: media_type.into(),
            sha256: "0".repeat(64),
            bytes: 1,
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            text: None,
        }
    }

    fn codes(part: SeedPart, settings: &str) -> Vec<String> {
        let mut launch = example::launch();
        let (kind, parts) = (SeedKind::CloudInit, vec![part]);
        launch.seed = Some(Seed { kind, parts, hostname: None, ssh_keys: vec![] });
        let settings = serde_json::from_str(settings).unwrap();
        let violations = Guests::validate(&example::request(), &settings, &launch);
        violations.into_iter().map(|violation| violation.code).collect()
    }

    #[test]
    fn a_part_is_of_a_kind_and_has_keys_that_are_allowed() {
        let config = || part("text/cloud-config", &["bootcmd", "users"]);
        assert_eq!(codes(config(), "{}"), [""; 0]);
        assert_eq!(codes(config(), r#"{"forbidden_keys": ["bootcmd"]}"#), ["forbidden-key"]);
        let script = || part("text/x-shellscript", &[]);
        assert_eq!(codes(script(), "{}"), ["media-type"]);
        assert_eq!(codes(script(), r#"{"media_types": ["text/x-shellscript"]}"#), [""; 0]);
    }

    #[test]
    fn an_architecture_may_be_the_only_one() {
        let codes = |architecture: &str, settings: &str| {
            let mut launch = example::launch();
            launch.machine.architecture = architecture.into();
            let settings = serde_json::from_str(settings).unwrap();
            let violations = Guests::validate(&example::request(), &settings, &launch);
            violations.into_iter().map(|violation| violation.code).collect::<Vec<_>>()
        };
        assert_eq!(codes("aarch64", "{}"), [""; 0]);
        let x86 = r#"{"architectures": ["x86_64"]}"#;
        assert_eq!(codes("aarch64", x86), ["architecture"]);
        assert_eq!(codes("x86_64", x86), [""; 0]);
    }

    #[test]
    fn an_operation_may_be_for_operators_alone() {
        let settings = serde_json::from_str(r#"{"operators_only": ["exec"]}"#).unwrap();
        let permit = |operation: Operation, tenant: Option<&str>| {
            let actor =
                Actor { name: "a".into(), tenant: tenant.map(Into::into), door: "cli".into() };
            let vm =
                Running { id: "web-1".into(), launch: example::launch(), since_unix_seconds: 0 };
            Guests::permit(&example::request(), &settings, &vm, &operation, &actor).len()
        };
        assert_eq!(permit(Operation::Exec(vec!["id".into()]), Some("acme")), 1);
        assert_eq!(permit(Operation::Exec(vec!["id".into()]), None), 0);
        assert_eq!(permit(Operation::Console, Some("acme")), 0);
    }
}
