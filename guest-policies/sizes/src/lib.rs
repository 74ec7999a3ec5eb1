//! Bounds the resources of one task by a table of the operator's: `[data.sizes]`, a JSON object with a row for each tenant, and `*` for all
//! others.
//!
//! ```json
//! {"*": {"memory_mib": 512, "cpus": 2, "disk_mib": 1024, "ports": 2}, "acme": {"memory_mib": 8192}}
//! ```
//!
//! A bound that a row does not have is not checked. A tenant for which there is neither a row nor `*` may have nothing. The policy takes no
//! settings.

use qhost_policy_sdk::{
    About, Launch, Policy, Request, Resources, Violation, export_policy, tables,
};

struct Sizes;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

/// A row of the table.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    memory_mib: Option<u32>,
    cpus: Option<u32>,
    disk_mib: Option<u32>,
    ports: Option<u32>,
}

const TABLE: &str = "sizes";

impl Policy for Sizes {
    type Settings = Settings;

    fn about() -> About {
        About::new(
            "sizes",
            env!("CARGO_PKG_VERSION"),
            "Bounds what one task may take, by a table of tenants.",
        )
        .settings(include_str!("../settings.schema.json"))
        .table(TABLE)
    }

    fn validate(request: &Request, _: &Settings, launch: &Launch) -> Vec<Violation> {
        let tenant = &request.task.tenant;
        let Some(row) = tables::get(TABLE, tenant).or_else(|| tables::get(TABLE, "*")) else {
            let message = format!("the table {TABLE} has no row for {tenant}");
            return vec![Violation::new("no-row", "tenant", message)];
        };
        let row: Row = match serde_json::from_value(row) {
            Ok(row) => row,
            Err(error) => {
                let message = format!("the table {TABLE} has no good row for {tenant}: {error}");
                return vec![Violation::new("bad-row", "tenant", message)];
            }
        };
        let Resources { cpus, memory_mib } = launch.resources;
        // A disk without a size has the size of its image, or is a volume, which the operator made.
        let disk =
            launch.disks.iter().filter_map(|disk| disk.size_mib).fold(0, u32::saturating_add);
        let ports = u32::try_from(launch.ports.len()).unwrap_or(u32::MAX);
        let bounds = [
            ("memory", "resources.memory-mib", memory_mib, row.memory_mib, " MiB"),
            ("cpus", "resources.cpus", cpus, row.cpus, " CPUs"),
            ("disk", "disks", disk, row.disk_mib, " MiB of disk"),
            ("ports", "ports", ports, row.ports, " ports"),
        ];
        let over = bounds.into_iter().filter_map(|(code, field, found, most, unit)| {
            let most = most.filter(|most| found > *most)?;
            let message = format!("{found}{unit} is more than the {most} that {tenant} may have");
            let violation = Violation::new(&format!("{code}-limit"), field, message);
            Some(violation.hint(format!("ask for {most}{unit} or less")))
        });
        over.collect()
    }
}

export_policy!(Sizes);

#[cfg(test)]
mod tests {
    use super::*;
    use qhost_policy_sdk::example;

    fn codes(tenant: &str) -> Vec<String> {
        let mut request = example::request();
        request.task.tenant = tenant.into();
        let violations = Sizes::validate(&request, &Settings {}, &example::launch());
        violations.into_iter().map(|violation| violation.code).collect()
    }

    #[test]
    fn a_tenants_row_stands_instead_of_the_row_of_all() {
        assert_eq!(codes("acme"), ["no-row"]);
        tables::put(TABLE, "*", &serde_json::json!({"memory_mib": 255, "ports": 0}));
        tables::put(TABLE, "acme", &serde_json::json!({"memory_mib": 256}));
        tables::put(TABLE, "odd", &serde_json::json!({"memory": 256}));
        assert_eq!(codes("acme"), [""; 0]);
        assert_eq!(codes("other"), ["memory-limit", "ports-limit"]);
        assert_eq!(codes("odd"), ["bad-row"]);
    }
}
