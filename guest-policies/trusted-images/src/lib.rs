//! Boots only images that come from a trusted host or have a known digest.
//!
//! Settings: `{"hosts": ["images.example", "*.cdn.example"], "sha256": ["e3b0…"]}`. An image passes when its URL's host
//! matches one of `hosts`, or its digest is one of `sha256`. `*.` stands for one or more leading labels. Without
//! either, nothing passes.

use qhost_policy_sdk::{About, Image, Launch, Policy, Request, Violation, export_policy};

struct TrustedImages;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    sha256: Vec<String>,
}

impl Policy for TrustedImages {
    type Settings = Settings;

    fn about() -> About {
        About::new(
            "trusted-images",
            env!("CARGO_PKG_VERSION"),
            "Boots only images that come from a trusted host or have a known digest.",
        )
        .settings(include_str!("../settings.schema.json"))
    }

    fn check_settings(settings: &Settings) -> Result<(), String> {
        let digest = |text: &str| {
            text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        match settings.sha256.iter().find(|text| !digest(text)) {
            Some(text) => Err(format!("sha256: {text:?} is not 64 lower-case hexadecimal digits")),
            None => Ok(()),
        }
    }

    fn validate(request: &Request, settings: &Settings, launch: &Launch) -> Vec<Violation> {
        let root = [("image.source".to_owned(), &request.task.image)];
        let others = launch.disks.iter().filter_map(|disk| {
            disk.image.as_ref().map(|image| (format!("disks.{}.image", disk.name), image))
        });
        root.into_iter()
            .chain(others)
            .filter_map(|(field, image)| Self::against(&field, image, settings))
            .collect()
    }
}

impl TrustedImages {
    /// The violation by an image that is not trusted.
    fn against(field: &str, image: &Image, settings: &Settings) -> Option<Violation> {
        let host = host_of(&image.source);
        // Until the image's own digest is known, the digest of the list that has it counts.
        let listed = image.checksums.as_ref().map(|list| &list.sha256);
        if image.sha256.as_ref().or(listed).is_some_and(|known| settings.sha256.contains(known))
            || settings.hosts.iter().any(|pattern| matches(pattern, host))
        {
            return None;
        }
        let trusted = match settings.hosts.as_slice() {
            [] => "no image host is trusted here".to_owned(),
            hosts => format!("trusted hosts: {}", hosts.join(", ")),
        };
        let message =
            format!("{host} is not a trusted image host, and the digest is not a known one");
        Some(Violation::new("image-not-trusted", field, message).hint(trusted))
    }
}

export_policy!(TrustedImages);

/// The host of a URL that qhost has parsed and written again: in lower case, without a user name, IPv6 in brackets.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => host
            .strip_suffix(parent)
            .and_then(|labels| labels.strip_suffix('.'))
            .is_some_and(|labels| !labels.is_empty()),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qhost_policy_sdk::example;

    fn check(source: &str, settings: serde_json::Value, allowed: bool) {
        let mut request = example::request();
        request.task.image.source = source.into();
        let settings = serde_json::from_value(settings).unwrap();
        let violations = TrustedImages::validate(&request, &settings, &example::launch());
        assert_eq!(violations.is_empty(), allowed, "{source}: {violations:?}");
    }

    #[test]
    fn hosts_and_digests() {
        let hosts = serde_json::json!({"hosts": ["images.example", "*.cdn.example", "127.0.0.1"]});
        check("https://images.example/a", hosts.clone(), true);
        check("https://images.example:8443/a?b", hosts.clone(), true);
        check("http://127.0.0.1:9000/a", hosts.clone(), true);
        check("https://eu.cdn.example/a", hosts.clone(), true);
        check("https://cdn.example/a", hosts.clone(), false);
        check("https://evilcdn.example/a", hosts.clone(), false);
        check("https://images.example.evil/a", hosts.clone(), false);
        check("https://evil/images.example", hosts, false);
        check("https://any/a", serde_json::json!({}), false);
        let known = example::request().task.image.sha256;
        check("https://any/a", serde_json::json!({"sha256": [known]}), true);
    }

    #[test]
    fn images_of_other_disks_are_looked_at_too() {
        let settings = serde_json::json!({"hosts": ["images.example"]});
        let settings = serde_json::from_value(settings).unwrap();
        let mut request = example::request();
        request.task.image.source = "https://images.example/a".into();
        let mut launch = example::launch();
        let mut disk = launch.disks[0].clone();
        let image = Image { source: "https://evil.example/b".into(), ..request.task.image.clone() };
        (disk.name, disk.image) = ("tools".into(), Some(image));
        launch.disks.push(disk);
        let found = TrustedImages::validate(&request, &settings, &launch);
        let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["disks.tools.image"]);
    }

    #[test]
    fn a_digest_in_settings_must_be_one() {
        let settings = Settings { hosts: vec![], sha256: vec!["ABC".into()] };
        assert!(TrustedImages::check_settings(&settings).is_err());
    }
}
