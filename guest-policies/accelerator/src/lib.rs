//! Prefers kvm where the host offers it, and refuses tcg for untrusted tenants: QEMU does not count TCG as a security
//! boundary (its manual, "Security", "Non-virtualization Use Case").
//!
//! Settings: `{"untrusted_tenants": ["acme"]}`; `"*"` means every tenant.

use qhost_policy_sdk::{
    About, Accelerator, Launch, Policy, Request, Violation, export_policy, log,
};

struct ChooseAccelerator;

/// The architecture of the hosts' processors; kvm runs only guests of this architecture.
const OWN_ARCHITECTURE: &str = "x86_64";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    untrusted_tenants: Vec<String>,
}

impl Policy for ChooseAccelerator {
    type Settings = Settings;

    fn about() -> About {
        About::new(
            "accelerator",
            env!("CARGO_PKG_VERSION"),
            "Prefers kvm where the host offers it; refuses tcg for untrusted tenants.",
        )
        .settings(include_str!("../settings.schema.json"))
    }

    /// A tenant who named an accelerator gets that one, or a refusal; never another in silence.
    fn choose(
        request: &Request,
        _: &Settings,
        mut launch: Launch,
    ) -> Result<Launch, Vec<Violation>> {
        let offered = request.host.accelerators.contains(&Accelerator::Kvm);
        let is_own = launch.machine.architecture == OWN_ARCHITECTURE;
        if request.task.accelerator.is_none() && offered && is_own {
            log::debug("the task names no accelerator and this host offers kvm");
            launch.accelerator = Accelerator::Kvm;
        }
        Ok(launch)
    }

    fn validate(request: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
        let tenant = &request.task.tenant;
        let untrusted = settings.untrusted_tenants.iter().any(|name| name == "*" || name == tenant);
        if !untrusted || launch.accelerator == Accelerator::Kvm {
            return vec![];
        }
        let violation = Violation::new(
            "tcg-for-untrusted-tenant",
            "accelerator",
            format!("tenant {tenant} is untrusted, and tcg does not isolate a guest from its host"),
        );
        vec![match request.host.accelerators.contains(&Accelerator::Kvm) {
            true => violation.hint("ask for the accelerator kvm, or for none"),
            false => violation.hint("run this task on a host that offers kvm"),
        }]
    }
}

export_policy!(ChooseAccelerator);

#[cfg(test)]
mod tests {
    use super::*;
    use qhost_policy_sdk::example;

    fn decide(offered: &[Accelerator], asked: Option<Accelerator>, settings: &str) -> (bool, bool) {
        let mut request = example::request();
        request.host.accelerators = offered.to_vec();
        request.task.accelerator = asked.clone();
        let mut launch = example::launch();
        launch.accelerator = asked.unwrap_or(Accelerator::Tcg);
        let settings = serde_json::from_str(settings).unwrap();
        let launch = ChooseAccelerator::choose(&request, &settings, launch).unwrap();
        let violations = ChooseAccelerator::validate(&request, &settings, &launch);
        (launch.accelerator == Accelerator::Kvm, violations.is_empty())
    }

    #[test]
    fn kvm_is_preferred_but_not_forced() {
        let both = [Accelerator::Tcg, Accelerator::Kvm];
        assert_eq!(decide(&both, None, "{}"), (true, true));
        assert_eq!(decide(&both, Some(Accelerator::Tcg), "{}"), (false, true));
        assert_eq!(decide(&[Accelerator::Tcg], None, "{}"), (false, true));
    }

    #[test]
    fn a_guest_of_another_architecture_is_emulated() {
        let mut request = example::request();
        request.host.accelerators = vec![Accelerator::Tcg, Accelerator::Kvm];
        let mut launch = example::launch();
        launch.machine.architecture = "aarch64".into();
        let settings = serde_json::from_str("{}").unwrap();
        let launch = ChooseAccelerator::choose(&request, &settings, launch).unwrap();
        assert_eq!(launch.accelerator, Accelerator::Tcg);
    }

    #[test]
    fn untrusted_tenants_never_run_on_tcg() {
        let both = [Accelerator::Tcg, Accelerator::Kvm];
        for settings in [r#"{"untrusted_tenants": ["acme"]}"#, r#"{"untrusted_tenants": ["*"]}"#] {
            assert_eq!(decide(&both, None, settings), (true, true));
            assert_eq!(decide(&both, Some(Accelerator::Tcg), settings), (false, false));
            assert_eq!(decide(&[Accelerator::Tcg], None, settings), (false, false));
        }
        assert_eq!(
            decide(&[Accelerator::Tcg], None, r#"{"untrusted_tenants": ["other"]}"#),
            (false, true)
        );
    }
}
