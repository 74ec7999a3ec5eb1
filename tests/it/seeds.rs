//! Seeds of guests: how a job asks for one, what policies see and leave out, and where its texts are and are not.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    api::{Service, User},
    boot_sector::{self, Then},
    configured, succeed, wait_for,
};

use crate::{decisions::records, qhost};

/// The secret, which is in no record and in no output.
const SECRET: &str = "hunter2-correct-horse-battery";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ada@example";
const FINGERPRINT: &str = "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA";

fn seeded() -> Value {
    json!({
        "cloud_init": {
            "user_data": format!("#cloud-config\nchpasswd:\n  list: 'ada:{SECRET}'\n"),
            "meta_data": {"room": SECRET},
            "network_config": {"version": 2, "ethernets": {}},
        },
        "hostname": "web-1",
        "default_user_authorized_ssh_key": KEY,
        "cmds": [format!("echo {SECRET}")],
        "timezone": "Europe/Vienna",
    })
}

fn nowhere(qhost: &Qhost, config: Value) -> String {
    qhost.job(&("https://images.example/web.qcow2".into(), "0".repeat(64)), config)
}

/// The files below a folder that have a text in them.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = vec![];
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                if bytes.windows(text.len()).any(|here| here == text.as_bytes()) {
                    found.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
    }
    found
}

/// Asserts that no command line and no environment of a VM's processes has one of the texts.
fn no_process_has(qhost: &Qhost, texts: &[&str]) {
    let (qemus, supervisors) = (qhost.qemus(), qhost.supervisors());
    assert_eq!((qemus.len(), supervisors.len()), (1, 1), "a VM runs");
    let id = qhost.vms()[0].file_name().unwrap().to_string_lossy().into_owned();
    for pid in qemus.iter().chain(&supervisors) {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).expect(file);
        let (words, variables) = (read("cmdline"), read("environ"));
        let all = String::from_utf8_lossy(&[words, variables].concat()).into_owned();
        assert!(all.contains(&id), "what was read is not of the VM: {all}");
        for text in texts {
            assert!(!all.contains(text), "{all}");
        }
    }
}

#[test]
fn its_texts_are_in_its_own_file_alone() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[seed]\nmax_bytes = 4096\n");
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let job = qhost.job(&image, seeded());
    let mut said = String::new();
    let mut keep = |args: &[&str]| {
        let done = qhost.run(args).exits(0);
        said += &format!("{}{}", done.stdout, done.stderr);
    };
    keep(&["plan", &job]);
    keep(&["plan", "--json", &job]);
    keep(&["run", "--verbose", "--detach", &job]);
    let secrets = [SECRET, "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgME"];
    let check = |when: &str, expected: &[&str]| {
        for secret in secrets {
            assert_eq!(files_with(&qhost.state(), secret), expected, "{when}: {secret}");
        }
    };
    check("while it runs", &["seed.iso"]);
    no_process_has(&qhost, &secrets);
    keep(&["inspect", "test"]);
    keep(&["inspect", "--json", "test"]);
    keep(&["ps", "--json"]);
    keep(&["logs", "test"]);
    keep(&["decisions", "--json"]);
    keep(&["events", "--json"]);
    // After a restart, by the same supervisor and by another one, the seed is the same.
    let seed = qhost.vms()[0].join("seed.iso");
    let first = fs::read(&seed).unwrap();
    keep(&["restart", "test"]);
    qhost.run(&["kill", "test"]).exits(0);
    keep(&["restart", "test"]);
    assert_eq!(fs::read(&seed).unwrap(), first);
    check("after two restarts", &["seed.iso"]);
    qhost.run(&["kill", "test"]).exits(0);
    let log = qhost.state().join("decisions/tenant-default/current.jsonl");
    keep(&["policy", "replay", log.to_str().unwrap()]);
    keep(&["rm", "test"]);
    check("once it is removed", &[]);
    for secret in secrets {
        assert!(!said.contains(secret), "{said}");
    }
    assert!(said.contains("seed cloud-init user-data (") && said.contains(FINGERPRINT), "{said}");
}

/// The encodings of a secret at each offset, without their first and last characters, which depend on the text around it.
fn in_base64(secret: &str) -> [String; 3] {
    [0, 1, 2].map(|before| {
        let encoded = BASE64_STANDARD.encode(" ".repeat(before) + secret);
        encoded[4..encoded.len() - 4].to_owned()
    })
}

/// A service keeps an accepted job on disk until the VM runs, and nothing of its seed after that, as text or in Base64.
#[test]
fn its_texts_are_in_its_own_file_alone_by_a_service() {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config("[image.network]\nallow = [\"127.0.0.0/8\"]\n");
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let job = fs::read_to_string(qhost.job(&image, seeded())).unwrap();
    let mut texts = in_base64(SECRET).to_vec();
    texts.push(SECRET.into());
    let state = qhost.state();
    let check = |when: &str, expected: &[&str]| {
        let found = texts.iter().flat_map(|text| files_with(&state, text));
        let found: BTreeSet<_> = found.collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{when}");
    };
    let slow = qhost.env("QHOST_SLOW_AT", "launch.reserved=3000");
    let mut service = Service::start(&slow);
    let key = ["Idempotency-Key: one"];
    let accepted = service.ask(User::Own, "POST", "/v1/vms", Some(&job), &key).is(202);
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    let kept = slow.state().join("operations").join(format!("{id}.json"));
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    // An accepted start outlasts the service, which is the one reason why the job is on disk.
    service.kill();
    assert!(fs::read_to_string(&kept).unwrap().contains("\"job\":\""));
    let service = service.started_again(&slow);
    let done = wait_for("the start", || {
        let done = service.get(&format!("/v1/operations/{id}")).is(200).json();
        (done["state"] != "running").then_some(done)
    });
    assert_eq!(done["state"], "succeeded", "{done}");
    wait_for("the end of the start to be written down", || {
        (!fs::read_to_string(&kept).unwrap().contains("\"job\":\"")).then_some(())
    });
    check("while it runs", &["seed.iso"]);
    let vm = done["vm"].as_str().unwrap();
    service.done(service.post(&format!("/v1/vms/{vm}/kill"), ""));
    check("once it has ended", &["seed.iso"]);
    service.ask(User::Own, "DELETE", &format!("/v1/vms/{vm}"), None, &[]).is(204);
    check("once it is removed", &[]);
    service.end();
}

/// The VM's user owns the seed's file, and cannot write to it.
#[test]
fn its_file_is_the_vms_own() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    qhost.run(&["run", "--detach", &qhost.job(&image, seeded())]).exits(0);
    let vm = &qhost.vms()[0];
    let plan: Value = serde_json::from_slice(&fs::read(vm.join("plan.json")).unwrap()).unwrap();
    let seed = vm.join("seed.iso");
    let stat = succeed("stat", &["-c", "%a %u", seed.to_str().unwrap()]);
    let own = plan["cage"]["user"]["own"].as_u64();
    let user = own.unwrap_or_else(|| rustix_uid().into());
    assert_eq!(stat.trim(), format!("400 {user}"));
    // A restarted VM may have another user.
    qhost.run(&["kill", "test"]).exits(0);
    let first = seed.to_str().unwrap();
    if own.is_some() {
        succeed("chown", &["1234", first]);
    }
    qhost.run(&["restart", "test"]).exits(0);
    assert_ne!(succeed("stat", &["-c", "%u", first]).trim(), "1234");
    qhost.run(&["kill", "test"]).exits(0);
}

/// Ignition's configuration is kept like a seed's texts.
#[test]
fn ignitions_text_is_in_its_own_file_alone() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let ignition =
        json!({"ignition": {"version": "3.4.0"}, "passwd": {"users": [{"name": SECRET}]}});
    let job = qhost.job(&image, json!({"ignition": ignition}));
    let mut said = String::new();
    let mut keep = |args: &[&str]| {
        let done = qhost.run(args).exits(0);
        said += &format!("{}{}", done.stdout, done.stderr);
    };
    keep(&["plan", "--json", &job]);
    keep(&["run", "--verbose", "--detach", &job]);
    let vm = qhost.vms()[0].clone();
    let file = vm.join("ignition.json");
    let check = |when: &str| {
        assert_eq!(files_with(&qhost.state(), SECRET), ["ignition.json"], "{when}");
        no_process_has(&qhost, &[SECRET]);
        let plan: Value = serde_json::from_slice(&fs::read(vm.join("plan.json")).unwrap()).unwrap();
        let user = plan["cage"]["user"]["own"].as_u64().unwrap_or_else(|| rustix_uid().into());
        let stat = succeed("stat", &["-c", "%a %u", file.to_str().unwrap()]);
        assert_eq!(stat.trim(), format!("400 {user}"), "{when}");
    };
    check("while it runs");
    keep(&["inspect", "--json", "test"]);
    keep(&["decisions", "--json"]);
    keep(&["events", "--json"]);
    keep(&["restart", "test"]);
    check("after a restart");
    qhost.run(&["kill", "test"]).exits(0);
    keep(&["logs", "test"]);
    keep(&["rm", "test"]);
    assert_eq!(files_with(&qhost.state(), SECRET), [""; 0], "once it is removed");
    assert!(!said.contains(SECRET), "{said}");
    assert!(said.contains("ignition"), "{said}");
}

fn rustix_uid() -> u32 {
    succeed("id", &["-u"]).trim().parse().unwrap()
}

#[test]
fn a_job_that_is_not_understood_shows_none_of_it() {
    let qhost = qhost();
    for (config, says) in [
        (json!({"user_data": format!("\u{1c}#include\n{SECRET}")}), "control characters"),
        (
            json!({"cloud_init": {"meta_data": {"seedfrom": SECRET}}}),
            "take the place of the whole seed",
        ),
        (json!({"user_data": format!("#cloud-config\n- {SECRET}\n")}), "line 2"),
        (
            json!({"user_data": format!("#cloud-config\nx: {SECRET}\n<<: *a\n")}),
            "/config/user_data",
        ),
        (json!({"user_data": SECRET, "cloud_init": {"user_data": SECRET}}), "one of the two"),
        (json!({"user_data": [SECRET]}), "text, or an object"),
        (json!({"user_data": "/etc/cloud.cfg"}), "qhost reads no file of this host"),
        (json!({"user_data": format!("{SECRET}{}", "x".repeat(256 << 10))}), "at most 262144"),
        (
            json!({"default_user_authorized_ssh_key": format!("ssh-rsa {SECRET}")}),
            "public SSH keys",
        ),
        (json!({"cloud_init": {"meta_data": {"instance-id": SECRET}}}), "a restart keeps"),
        (json!({"cloud_init": {"meta_data": SECRET}}), "an object"),
        (json!({"cloud_init": SECRET}), "an object"),
        (json!({"cmds": SECRET}), "an array of commands"),
        (json!({"cmds": [SECRET, ""]}), "/config/cmds/1"),
        (json!({"cmds": [SECRET], "user_data": {"runcmd": [SECRET]}}), "put it into the user-data"),
        (json!({"hostname": "-web"}), "a host name"),
        (json!({"timezone": "Europe Vienna"}), "a time zone"),
    ] {
        let refused = qhost.run(&["plan", &nowhere(&qhost, config.clone())]).exits(10);
        assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
        assert!(refused.stderr.contains(says), "{config}: {}", refused.stderr);
    }
    assert_eq!(files_with(qhost.folder(), SECRET), [""; 0], "the last job has it no more");
}

fn asks(qhost: &Qhost, name: &str, module: &str, settings: Value, more: &str, rest: &str) {
    let chain = format!("[host]\nchain = [\"{name}\"]\n");
    qhost.config(&[configured(name, module, settings, more), chain, rest.into()].concat());
}

#[test]
fn policies_rule_it() {
    let qhost = qhost();
    let plan = || qhost.run(&["plan", "--json", &nowhere(&qhost, seeded())]);
    let settings = json!({"forbidden_keys": ["bootcmd"], "ssh_keys": []});
    asks(&qhost, "guests", "guests", settings, "", "");
    let launch = plan().exits(0).json()["decision"]["launch"].clone();
    assert_eq!(launch["seed"]["ssh_keys"], json!([]), "it left the key out");
    let parts = launch["seed"]["parts"].as_array().unwrap();
    let keys: Vec<_> = parts.iter().map(|part| (&part["name"], &part["keys"])).collect();
    let expected = [
        ("user-data", json!(["chpasswd"])),
        ("meta-data", json!(["room"])),
        ("network-config", json!(["ethernets", "version"])),
        ("cloud-config", json!(["runcmd", "timezone"])),
    ];
    let expected: Vec<_> = expected.iter().map(|(name, keys)| (json!(name), keys)).collect();
    assert_eq!(json!(keys), json!(expected));

    asks(&qhost, "guests", "guests", json!({"forbidden_keys": ["chpasswd"]}), "", "");
    let text = || qhost.run(&["plan", &nowhere(&qhost, seeded())]);
    text().exits(11).says("refused by guests").says("chpasswd may not be set");
    asks(&qhost, "wild", "probe-sets", json!({"drop_seed": true}), "", "");
    assert_eq!(plan().exits(0).json()["decision"]["launch"]["seed"], Value::Null);
    asks(&qhost, "wild", "probe-sets", json!({"hostname": "other.example"}), "", "");
    assert_eq!(plan().exits(0).json()["decision"]["launch"]["seed"]["hostname"], "other.example");
    asks(&qhost, "wild", "probe-sets", json!({"hostname": "a_b"}), "", "");
    text().exits(12).says(r#"the host name "a_b", which is not valid"#);
    // A policy whose contract has no word for a seed refuses it by its silence.
    asks(&qhost, "earlier", "probe-v0-1", json!({}), "", "");
    text().exits(11).says("refused by earlier").says("has no word for seed");
    asks(&qhost, "earlier", "probe-v0-1", json!({}), "unseen = [\"seed\"]", "");
    plan().exits(0);
    // The host's own rule bounds a seed.
    asks(&qhost, "guests", "guests", json!({}), "", "[seed]\nmax_bytes = 100\n");
    text().exits(11).says("host.seed-too-large").says("100 bytes or less");
}

#[test]
fn a_policy_sees_the_text_where_that_is_granted_and_no_record_has_what_it_repeats() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("runs", Then::PowerOff));
    let job = qhost.job(&image, seeded());
    let run = |grant: &str| {
        asks(&qhost, "repeats", "probe-sets", json!({"repeat_seed": true}), grant, "");
        qhost.run(&["run", &job]).exits(11)
    };
    run("").says("refused by repeats").says("user-data: no text");
    let refused = run("seed_text = true").says("refused by repeats").says("user-data: ");
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    assert_eq!(files_with(&qhost.state(), SECRET), [""; 0]);
    // The texts of an ended VM's seed are not kept, so that no policy can judge them.
    qhost.config("");
    qhost.run(&["run", &job]).exits(0);
    asks(&qhost, "guests", "guests", json!({}), "seed_text = true", "");
    qhost.run(&["restart", "test"]).exits(16).says("seed was not kept");
    asks(&qhost, "guests", "guests", json!({}), "", "");
    qhost.run(&["restart", "test"]).exits(0);
    let masked = records(&qhost)[1]["masked"].clone();
    assert!(masked.as_array().unwrap().contains(&json!("task.seed.user-data")), "{masked}");
}

/// A new VM of a task is another instance to cloud-init; its meta-data has the host name, the keys and what the job adds.
#[test]
fn what_is_on_the_disk() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let vendor = qhost.file("vendor.yaml", "#cloud-config\npackage_update: false\n");
    qhost.config(&format!("[seed]\nvendor_data = \"{vendor}\"\n"));
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    qhost.run(&["run", "--detach", &qhost.job(&image, seeded())]).exits(0);
    let vm = qhost.vms()[0].clone();
    let read = |name: &str| {
        let disk = vm.join("seed.iso");
        // This reader is libarchive's; a guest tries the kernel's own.
        succeed("bsdtar", &["-xOf", disk.to_str().unwrap(), name])
    };
    let meta: Value = serde_json::from_str(&read("meta-data")).unwrap();
    assert_eq!(meta["instance-id"], json!(vm.file_name().unwrap().to_str().unwrap()));
    assert_eq!((&meta["local-hostname"], &meta["room"]), (&json!("web-1"), &json!(SECRET)));
    assert_eq!(meta["public-keys"], json!([KEY]));
    assert_eq!(read("network-config"), r#"{"version":2,"ethernets":{}}"#);
    assert_eq!(read("vendor-data"), "#cloud-config\npackage_update: false\n");
    let user = read("user-data");
    assert!(
        user.starts_with("Content-Type: multipart/mixed") && user.matches("base64").count() == 2
    );
    qhost.run(&["kill", "test"]).exits(0);
    qhost.config("[seed]\nvendor_data = \"none.yaml\"\n");
    qhost.run(&["config", "check"]).exits(2).says("seed.vendor_data");
}

/// A Nomad job in HCL whose task has an environment, notes and a template.
fn of_nomad(image: &(String, String), task: &str, config: &str) -> String {
    let (url, sha256) = image;
    format!(
        r#"job "shop" {{
  meta {{
    owner = "team-web"
  }}
  group "vms" {{
    task "web" {{
      driver = "qemu"
      {task}
      config {{
        image_source = "{url}"
        checksum     = "{sha256}"
        {config}
      }}
      resources {{
        memory = 32
      }}
    }}
  }}
}}
"#
    )
}

const TASK: &str = r#"env {
        DB_URL = "postgres://db 'x'"
        TOKEN  = "hunter2-correct-horse-battery"
      }
      template {
        destination = "local/app.conf"
        perms       = "640"
        data        = <<EOH
port = 80
password = hunter2-correct-horse-battery
EOH
      }"#;

#[test]
fn a_nomad_tasks_environment_is_a_part_of_it() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("runs", Then::Hang));
    let job = qhost.file("web.hcl", of_nomad(&image, TASK, "task_env = true"));
    let done = qhost.run(&["run", "--detach", &job]).exits(0);
    assert!(!format!("{}{}", done.stdout, done.stderr).contains(SECRET));
    assert_eq!(files_with(&qhost.state(), SECRET), ["seed.iso"]);
    let seed = qhost.vms()[0].join("seed.iso");
    let user_data = succeed("bsdtar", &["-xOf", seed.to_str().unwrap(), "user-data"]);
    let config = user_data.strip_prefix("#cloud-config\n").unwrap();
    let config: Value = serde_json::from_str(config).unwrap();
    let files = &config["write_files"];
    assert_eq!(files[1]["path"], "/local/app.conf");
    assert_eq!(files[1]["permissions"], "640");
    assert_eq!(files[1]["content"], format!("port = 80\npassword = {SECRET}\n"));
    assert_eq!(files[0]["path"], "/etc/profile.d/nomad.sh");
    // A shell reads the file that was written.
    let profile = qhost.file("nomad.sh", files[0]["content"].as_str().unwrap());
    let print = r#". "$1"; echo "$DB_URL|$TOKEN|$NOMAD_META_OWNER|$NOMAD_META_owner|$NOMAD_JOB_NAME|$NOMAD_GROUP_NAME|$NOMAD_TASK_NAME|$NOMAD_TASK_DIR""#;
    let printed = succeed("sh", &["-c", print, "sh", &profile]);
    let expected = format!("postgres://db 'x'|{SECRET}|team-web|team-web|shop|vms|web|/local");
    assert_eq!(printed.trim(), expected);
    // Policies see that the seed has such a part.
    let parts = records(&qhost)[0]["decision"]["launch"]["seed"]["parts"].clone();
    assert_eq!(parts[0]["name"], "cloud-config");
    assert_eq!(parts[0]["keys"], json!(["write_files"]));
    qhost.run(&["kill", "web"]).exits(0);
}

#[test]
fn what_of_an_environment_is_not_understood_is_told_without_its_values() {
    let qhost = qhost();
    let image = ("https://images.example/web.qcow2".to_owned(), "0".repeat(64));
    let plan = |task: &str, config: &str| {
        let job = qhost.file("web.hcl", of_nomad(&image, task, config));
        let done = qhost.run(&["plan", &job]).exits(10);
        assert!(!done.stderr.contains(SECRET), "{}", done.stderr);
        done
    };
    let asked = "task_env = true";
    let without = plan(TASK, "").says("/Tasks/0/Env").says("/Tasks/0/Templates");
    without.says("config.task_env = true has cloud-init write it into the guest");
    for (task, says) in [
        ("env = { \"1ST\" = \"x\" }", "a variable's name"),
        ("env { A = \"$${NOMAD_IP}\" }", "${…} or {{…}}"),
        ("template {\n destination = \"a\"\n data = \"{{ key 1 }}\"\n }", "${…} or {{…}}"),
        ("template {\n destination = \"../a\"\n data = \"x\"\n }", "a path without .."),
        ("template {\n destination = \"/etc/shadow\"\n data = \"x\"\n }", "a path without .."),
        ("template {\n destination = \"a\"\n data = \"x\"\n perms = \"rwx\"\n }", "octal digits"),
        ("template {\n destination = \"a\"\n source = \"local/x\"\n }", "qhost reads no file"),
        (
            "template {\n destination = \"a\"\n data = \"A=1\"\n env = true\n }",
            "write the variables into env",
        ),
        ("template {\n data = \"x\"\n }", "where it goes"),
    ] {
        plan(task, asked).says(says);
    }
    let twice = r##"task_env = true
        user_data = "#cloud-config\nwrite_files: []\n""##;
    plan(TASK, twice).says("task_env besides write_files in the user-data");
    let own = qhost.job(&image, json!({"task_env": true}));
    qhost.run(&["plan", &own]).exits(10).says("env and templates are of Nomad's jobs");
    let own = qhost
        .job(&image, json!({"task_env": false, "user_data": "#cloud-config\nwrite_files: []\n"}));
    qhost.run(&["plan", &own]).exits(0);
}
