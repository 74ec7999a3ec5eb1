//! Every VM belongs to a team, and gets no more memory than there is for one.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Rules;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    teams: Vec<String>,
    memory_mib: u32,
}

impl Policy for Rules {
    type Settings = Settings;

    fn about() -> About {
        About::new("__name__", "0.1.0", "Every VM belongs to a team, with a cap on its memory.")
            .settings(include_str!("../settings.schema.json"))
    }

    fn check_settings(settings: &Settings) -> Result<(), String> {
        match (16..=4_194_304).contains(&settings.memory_mib) {
            true => Ok(()),
            false => Err("memory_mib: expected a whole number from 16 to 4194304".into()),
        }
    }

    fn choose(
        _: &Request,
        settings: &Settings,
        mut launch: Launch,
    ) -> Result<Launch, Vec<Violation>> {
        if launch.resources.memory_mib > settings.memory_mib {
            launch.resources.memory_mib = settings.memory_mib;
            launch.warnings.push(format!("memory was lowered to {} MiB", settings.memory_mib));
        }
        Ok(launch)
    }

    fn validate(request: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
        let mut violations = vec![];
        let team = request.task.meta.iter().find(|(key, _)| key == "team").map(|(_, team)| team);
        if !team.is_some_and(|team| settings.teams.contains(team)) {
            violations.push(
                Violation::new("no-team", "meta.team", "the task names no team of ours")
                    .hint(format!("teams: {}", settings.teams.join(", "))),
            );
        }
        // A later policy may have raised it again.
        if launch.resources.memory_mib > settings.memory_mib {
            let message = format!("more than {} MiB", settings.memory_mib);
            violations.push(Violation::new("too-much-memory", "resources.memory-mib", message));
        }
        violations
    }
}

export_policy!(Rules);

#[cfg(test)]
mod tests {
    use super::*;
    use qhost_policy_sdk::example;

    #[test]
    fn a_team_of_ours_is_enough() {
        let settings = Settings { teams: vec!["web".into()], memory_mib: 512 };
        let mut request = example::request();
        assert_eq!(Rules::validate(&request, &settings, &example::launch()).len(), 1);
        request.task.meta.push(("team".into(), "web".into()));
        assert_eq!(Rules::validate(&request, &settings, &example::launch()), []);
    }
}
