//! Maps requested ports into a range, and lets no task listen on a privileged port.
//!
//! Settings: `{"first": 20000, "last": 29999}`. A port outside the range, or none asked for, becomes the lowest free
//! port of the range. Privileged ports (below 1024) cannot be part of the range.

use qhost_policy_sdk::{About, Launch, Policy, Request, Violation, export_policy};

struct Ports;

/// The lowest port that needs no privilege to listen on: Linux's default `net.ipv4.ip_unprivileged_port_start`.
const FIRST_UNPRIVILEGED: u16 = 1024;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    first: u16,
    last: u16,
}

impl Policy for Ports {
    type Settings = Settings;

    fn about() -> About {
        About::new(
            "ports",
            env!("CARGO_PKG_VERSION"),
            "Maps requested ports into a range; no privileged ports.",
        )
        .settings(include_str!("../settings.schema.json"))
    }

    fn check_settings(settings: &Settings) -> Result<(), String> {
        let Settings { first, last } = settings;
        match (*first < FIRST_UNPRIVILEGED, first > last) {
            (true, _) => Err(format!("first: {first} is privileged; use 1024 or more")),
            (_, true) => Err(format!("last: {last} is below first, {first}")),
            (false, false) => Ok(()),
        }
    }

    fn choose(
        request: &Request,
        settings: &Settings,
        mut launch: Launch,
    ) -> Result<Launch, Vec<Violation>> {
        let range = settings.first..=settings.last;
        let mut taken = request.host.ports_in_use.clone();
        taken
            .extend(launch.ports.iter().filter_map(|port| port.host).filter(|p| range.contains(p)));
        for port in &mut launch.ports {
            if port.host.is_some_and(|host| range.contains(&host)) {
                continue;
            }
            let Some(free) = range.clone().find(|candidate| !taken.contains(candidate)) else {
                return Err(vec![Violation::new(
                    "no-free-port",
                    "ports",
                    format!("no port from {} to {} is free", settings.first, settings.last),
                )]);
            };
            taken.push(free);
            port.host = Some(free);
        }
        Ok(launch)
    }

    fn validate(_: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
        let range = settings.first..=settings.last;
        let outside =
            launch.ports.iter().filter(|port| port.host.is_none_or(|p| !range.contains(&p)));
        outside
            .map(|port| {
                let host = port.host.map_or("any port".into(), |host| format!("port {host}"));
                Violation::new(
                    "port-out-of-range",
                    "ports",
                    format!(
                        "{} is on {host}, outside {}-{}",
                        port.label,
                        range.start(),
                        range.end()
                    ),
                )
            })
            .collect()
    }
}

export_policy!(Ports);

#[cfg(test)]
mod tests {
    use super::*;
    use qhost_policy_sdk::example;

    const RANGE: Settings = Settings { first: 20000, last: 20001 };

    fn chosen(asked: Option<u16>, in_use: &[u16]) -> Option<u16> {
        let mut request = example::request();
        request.host.ports_in_use = in_use.to_vec();
        let mut launch = example::launch();
        launch.ports[0].host = asked;
        let launch = Ports::choose(&request, &RANGE, launch).ok()?;
        assert!(Ports::validate(&request, &RANGE, &launch).is_empty());
        let again = Ports::choose(&request, &RANGE, launch.clone()).unwrap();
        assert_eq!(again, launch, "choosing again must change nothing");
        launch.ports[0].host
    }

    #[test]
    fn ports_move_into_the_range() {
        assert_eq!(chosen(Some(80), &[]), Some(20000));
        assert_eq!(chosen(None, &[20000]), Some(20001));
        assert_eq!(chosen(Some(20001), &[]), Some(20001));
        assert_eq!(chosen(None, &[20000, 20001]), None);
    }

    #[test]
    fn the_final_launch_is_judged() {
        let outside = Ports::validate(&example::request(), &RANGE, &example::launch());
        assert_eq!(outside[0].code, "port-out-of-range");
    }

    #[test]
    fn the_range_must_make_sense() {
        assert!(Ports::check_settings(&Settings { first: 80, last: 90 }).is_err());
        assert!(Ports::check_settings(&Settings { first: 3000, last: 2000 }).is_err());
        assert!(Ports::check_settings(&RANGE).is_ok());
    }
}
