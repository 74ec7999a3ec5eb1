//! Any bytes as a task's configuration from an agent of Nomad's: the task is made a job, which is read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qhost_nomad::{Settings, job, proto::driver::TaskConfig};

fuzz_target!(|bytes: &[u8]| {
    let task = TaskConfig {
        name: "web".into(),
        job_name: "shop".into(),
        msgpack_driver_config: bytes.to_vec(),
        ..TaskConfig::default()
    };
    let Ok(job) = job(&task, &Settings::default()) else { return };
    let bytes = serde_json::to_vec(&job).expect("a job is JSON");
    if let Err(error) = qhost_model::job::parse("task", &bytes, "default", None) {
        let shown = error.to_string();
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
});
