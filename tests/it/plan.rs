//! The planned command line, in which no text of a tenant or a policy becomes QEMU syntax.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

use proptest::prelude::*;
use serde_json::{Value, json};

use qhost_model::{
    format::Format,
    host_facts::{Accelerator, Resources},
    job::{self, Task},
    launch::{Egress, Forward, Launch, PortMap, Protocol},
};
use qhost_vm::argv::argv;

use crate::{qhost, snapshot};

fn read(job: &Value) -> Option<Task> {
    job::parse("job.json", job.to_string().as_bytes(), "acme", None).ok()
}

/// Plans the host's default launch for a job, without a host.
fn planned(job: &Value) -> Option<Vec<String>> {
    let task = read(job)?;
    let launch = Launch::default_for(&task.asked);
    let format = Format::guess(task.image.source.path());
    let forward = |port: &PortMap| Forward::of(port, port.host.unwrap_or(0));
    let forwards: Vec<_> = launch.ports.iter().map(forward).collect();
    Some(argv(Path::new("/vms/VM-ID"), &launch, &[], &[], format, &forwards))
}

fn job() -> Value {
    json!({
        "name": "web",
        "driver": "qemu",
        "config": {
            "image_source": "https://images.example/web.qcow2",
            "checksum": "0".repeat(64),
            "port_map": {"http": {"guest": 80, "host": 8080}, "dns": {"guest": 53, "protocol": "udp"}},
        },
        "resources": {"cpus": 2, "memory_mib": 512},
        "meta": {"team": "blue"},
    })
}

#[test]
fn command_lines() {
    let qhost = qhost();
    let mut iso = job();
    iso["config"]["image_source"] = "https://images.example/web.iso".into();
    iso["config"]["accelerator"] = "kvm".into();
    iso["config"]["egress"] = "internet".into();
    for (name, job) in [("qcow2", job()), ("iso", iso)] {
        snapshot(&format!("argv-{name}"), &planned(&job).unwrap().join("\n"), &qhost);
    }
}

#[test]
fn every_format_is_stated() {
    for (format, drivers) in [(Format::Qcow2, 2), (Format::Raw, 2), (Format::Iso, 1)] {
        let launch = Launch::default_for(&read(&job()).unwrap().asked);
        let argv = argv(Path::new("/vms/vm"), &launch, &[], &[], format, &[]);
        let blocks: Vec<Value> =
            values(&argv, "-blockdev").map(|json| serde_json::from_str(json).unwrap()).collect();
        assert_eq!(blocks.len(), drivers);
        assert!(blocks.iter().all(|block| block["driver"].is_string()), "{blocks:?}");
        assert_eq!(blocks[0]["read-only"], true, "the stored image is opened for reading only");
        assert!(
            format != Format::Qcow2 || blocks[0].get("backing") == Some(&Value::Null),
            "{blocks:?}"
        );
        assert!(!argv.iter().any(|argument| argument == "-drive"), "-drive probes formats");
    }
}

fn values<'a>(argv: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    argv.windows(2).filter(move |pair| pair[0] == option).map(|pair| pair[1].as_str())
}

/// Text that would be QEMU syntax if it got there unquoted.
const HOSTILE: &[&str] = &[
    "x,file=/etc/shadow",
    "x,,y",
    "a=b",
    "-drive",
    "file=/etc/shadow,if=virtio",
    "x\ny",
    "x\" y",
    "x' y",
    "../../../etc/passwd",
    "json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}",
    "nbd:unix:/x",
    "${x}",
    "`id`",
    "$(id)",
    "x\0y",
    "é,\u{202e}",
];

/// Puts a text into every free-text field of a job.
fn with_everywhere(text: &str) -> Vec<Value> {
    let mut jobs = vec![];
    let mut put = |edit: &dyn Fn(&mut Value)| {
        let mut job = job();
        edit(&mut job);
        jobs.push(job);
    };
    put(&|job| job["name"] = text.into());
    put(&|job| job["meta"] = json!({ "key": text }));
    put(&|job| job["meta"] = json!({ text: "value" }));
    put(&|job| job["config"]["args"] = json!([text]));
    put(&|job| job["config"]["image_source"] = format!("https://images.example/{text}").into());
    put(&|job| {
        job["config"]["image_source"] = format!("https://images.example/x.iso?{text}").into()
    });
    put(&|job| job["config"]["image_source"] = text.into());
    put(&|job| job["config"]["checksum"] = text.into());
    put(&|job| job["config"]["accelerator"] = text.into());
    put(&|job| job["config"]["egress"] = text.into());
    put(&|job| job["config"]["port_map"] = json!({ text: 80 }));
    put(&|job| job["config"]["port_map"] = json!({"http": {"guest": 80, "protocol": text}}));
    put(&|job| job["driver"] = text.into());
    jobs
}

/// The command lines that a job with hostile text may lead to: those of jobs without it.
fn harmless() -> BTreeSet<Vec<String>> {
    let mut harmless = BTreeSet::new();
    for name in ["web.qcow2", "web.iso", "web"] {
        let mut job = job();
        job["config"]["image_source"] = format!("https://images.example/{name}").into();
        harmless.insert(planned(&job).expect("a sound job"));
    }
    let mut job = job();
    job["config"]["port_map"] = json!({"label": 80});
    harmless.insert(planned(&job).expect("a sound job"));
    harmless
}

#[test]
fn hostile_text_in_every_field_changes_nothing() {
    let (qhost, harmless) = (qhost(), harmless());
    let mut understood = 0;
    for text in HOSTILE {
        for job in with_everywhere(text) {
            match planned(&job) {
                Some(argv) => {
                    understood += 1;
                    assert!(
                        harmless.contains(&argv),
                        "{text:?} changed the command line: {argv:#?}"
                    );
                }
                None => {
                    let path = qhost.file("job.json", job.to_string());
                    qhost.run(&["plan", &path]).exits(10);
                }
            }
        }
    }
    assert!(
        understood > 40,
        "only {understood} of the jobs were understood: the test shows little"
    );
}

#[test]
fn hostile_text_on_the_real_command_line() {
    let qhost = qhost();
    for text in ["x,file=/etc/shadow", "json:{\"driver\":\"file\"}", "../../etc", "a=b\"'"] {
        let mut job = job();
        job["name"] = text.into();
        job["meta"] = json!({ text: text });
        let path = qhost.file("job.json", job.to_string());
        let plan = qhost.run(&["plan", "--json", &path]).exits(0).json();
        for argument in plan["launch"]["argv"].as_array().expect("a command line") {
            assert!(!argument.as_str().expect("text").contains(text), "{argument}");
        }
        // A job's own arguments are refused, not quoted.
        job["config"]["args"] = json!([text]);
        fs::write(&path, job.to_string()).unwrap();
        qhost.run(&["plan", &path]).exits(11).says("host.argument-not-allowed");
    }
}

#[test]
fn no_path_of_the_host_is_on_the_command_line() {
    let qhost = qhost();
    let path = qhost.file("job.json", job().to_string());
    let plan = qhost.run(&["plan", "--json", "--state-dir", "a,b=c \"d\"", &path]).exits(0).json();
    let argv: Vec<String> = serde_json::from_value(plan["launch"]["argv"].clone()).unwrap();
    assert!(values(&argv, "-blockdev").next().expect("an image").contains("/dev/fdset/"));
    assert!(!argv.iter().any(|argument| argument.contains("a,b=c") || argument.contains("/tmp")));
}

proptest! {
    #[test]
    fn no_text_of_a_job_reaches_qemu(text in "\\PC{0,40}|[,=:\"'./ -]{1,10}|(json:|file=|if=|,){1,4}[a-z/]{0,8}") {
        let harmless = harmless();
        for job in with_everywhere(&text) {
            if let Some(argv) = planned(&job) {
                // A text that is a valid value is no attack.
                let known = ["tcg", "kvm", "isolated", "internet", "tcp", "udp", "qemu"].contains(&text.as_str());
                prop_assert!(known || harmless.contains(&argv), "{text:?}: {argv:?}");
            }
        }
    }

    #[test]
    fn any_launch_makes_the_same_options(
        cpus in 1_u32..=256,
        memory_mib in 16_u32..=4_194_304,
        ports in prop::collection::vec((1_u16.., 1_u16.., any::<u32>(), any::<bool>()), 0..8),
        kvm in any::<bool>(),
        internet in any::<bool>(),
    ) {
        let mut launch = Launch::default_for(&read(&job()).unwrap().asked);
        launch.accelerator = if kvm { Accelerator::Kvm } else { Accelerator::Tcg };
        launch.resources = Resources { cpus, memory_mib };
        launch.egress = if internet { Egress::Internet } else { Egress::Isolated };
        let forward = |(host, guest, bind, udp): &(u16, u16, u32, bool)| Forward {
            label: "label,=".into(),
            bind: Ipv4Addr::from(*bind),
            host: *host,
            guest: *guest,
            protocol: if *udp { Protocol::Udp } else { Protocol::Tcp },
        };
        let forwards: Vec<_> = ports.iter().map(forward).collect();
        let argv = argv(Path::new("/vms/vm"), &launch, &[], &[], Format::Raw, &forwards);
        let netdev = values(&argv, "-netdev").next().expect("a network");
        prop_assert_eq!(netdev.matches("hostfwd=").count(), ports.len());
        prop_assert_eq!(netdev.contains("restrict=on"), !internet);
        prop_assert!(!netdev.contains("label"));
        let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        prop_assert_eq!(values(&argv, "-sandbox").next(), Some(sandbox));
    }
}

/// A plan finds what a run would find without a download: quotas, taken ports, permitted places of images, an absent supervisor.
#[test]
fn a_plan_finds_what_a_run_would() {
    let qhost = qhost();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let wide = "[ports]\nallow = [\"1024-65535\"]\n";
    let image = |url: &str| (url.to_owned(), "0".repeat(64));
    let public = image("https://images.example/disk.raw");
    let with_port = json!({"port_map": {"web": {"guest": 80, "host": port}}});
    let hosts = "[image.network]\nhosts = [\"else.example\"]\n";
    for (toml, image, config, code, says) in [
        ("", &public, json!({}), 0, "command "),
        ("[host.quota]\nvms = 0\n", &public, json!({}), 16, "refused by host.quota.vms"),
        (wide, &public, with_port, 16, "is taken"),
        (hosts, &public, json!({}), 13, "cannot fetch https://images.example/disk.raw"),
        ("", &image("http://192.168.0.1/disk.raw"), json!({}), 13, "image.network.allow"),
    ] {
        qhost.config(toml);
        let job = qhost.job(image, config);
        qhost.run(&["plan", &job]).exits(code).says(says);
    }
    qhost.config("");
    let alone = qhost.folder().join("qhost-alone");
    fs::hard_link(env!("CARGO_BIN_EXE_qhost-under-test"), &alone)
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_qhost-under-test"), &alone).map(drop))
        .unwrap();
    let job = qhost.job(&public, json!({}));
    let done = qhost_tests::command(alone.to_str().unwrap())
        .args(["--state-dir", qhost.state().to_str().unwrap(), "plan", &job])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(16), "{said}");
    assert!(said.contains("qhost-alone-supervisor; it is installed beside qhost"), "{said}");
}
