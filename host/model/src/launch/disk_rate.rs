//! The I/O limits of the root disk.

use serde_json::{Value, json};

use super::{
    Change, Findings, Rules,
    changes::Changes,
    field::{AskedField, Key, LaunchField, Place},
};
use crate::{
    host_facts::HostFacts, job::block::TaskBlock, quota::Usage, rate::Rate, secrets::Secrets,
};

/// The field for the I/O limits of the root disk.
#[derive(Debug)]
pub struct Field;

impl LaunchField for Field {
    type Asked = Rate;
    type Value = Rate;

    const NAME: &'static str = "disk_rate";
    const CONTRACT: &'static str = "`disks`, of `root`: `rate`";
    const TIGHTER: &'static str = "lower it, or limit what is not limited";

    fn default_for(asked: &Rate) -> Rate {
        *asked
    }

    fn compare(before: &Rate, after: &Rate, changes: &mut Changes) {
        changes.note("disk_rate.iops", &before.iops, &after.iops);
        changes.note("disk_rate.kib_per_s", &before.kib_per_s, &after.kib_per_s);
    }

    fn widened(host: &Rate, tenant: &Rate) -> Option<Change> {
        tenant.is_wider_than(host).then(|| Change::new(Self::NAME, host, tenant))
    }

    // The operator limits rates by a policy, which knows the task's tenant.
    fn check(_: &Rate, _: &Rate, _: &Rules, _: &HostFacts, _: &mut Findings) {}

    fn mask(_: &mut Rate, _: &Secrets) {}

    fn add_to(_: &Rate, _: &mut Usage) {}

    fn shown(rate: &Rate) -> Option<String> {
        (!rate.is_unlimited()).then(|| format!("root disk limited to {rate}"))
    }
}

impl AskedField for Field {
    const KEYS: &'static [Key] = &[Key {
        place: Place::Config,
        name: "disk_rate",
        required: false,
        schema: || {
            let mut schema = Rate::schema();
            let about = json!(
                "I/O limits of the root disk, reads and writes together: operations and KiB per second; what is absent is not limited. A second's worth may come at once."
            );
            if let Value::Object(members) = &mut schema {
                members.insert("description".into(), about);
            }
            schema
        },
    }];

    fn read(task: &TaskBlock<'_>) -> Option<Rate> {
        task.config.as_ref()?.optional("disk_rate").map_or(Some(Rate::default()), Rate::read)
    }

    fn asking_for(value: &Rate) -> Rate {
        *value
    }
}
