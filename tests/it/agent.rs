//! A Debian guest with an agent and a display, and its other disks, which begin with images.

use std::{fs, process::Stdio};

use serde_json::{Value, json};

use qhost_image::{SeedFile, seed_disk};
use qhost_model::digest::Sha256;
use qhost_tests::{
    Done, ImageServer, Qhost,
    api::Service,
    configured, debian_guest,
    terminal::{assert_harmless, run_on_terminal},
    wait_for,
};

use crate::qhost;

/// Debian without a seed, ready once its agent answers.
fn start(qhost: &Qhost, server: &ImageServer, more: &Value) {
    let image = server.serve("/debian.qcow2", fs::read(debian_guest()).unwrap());
    let mut config = json!({
        "disk_bytes": 4_294_967_296_u64,
        "guest_agent": true,
        "display": true,
        "ready": {"agent": true, "timeout_s": 600}
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let job = qhost.job(&image, config);
    let mut job: Value = serde_json::from_slice(&fs::read(job).unwrap()).unwrap();
    job["resources"] = json!({"cpus": 1, "memory_mib": 512});
    let job = qhost.file("debian.json", job.to_string());
    qhost.run(&["run", "--detach", "--wait-ready", "--tenant", "acme", &job]).exits(0);
}

fn exec(qhost: &Qhost, command: &[&str]) -> Done {
    qhost.run(&[&["exec", "test", "--"], command].concat())
}

fn shell(qhost: &Qhost, script: &str) -> String {
    exec(qhost, &["sh", "-c", script]).exits(0).stdout
}

/// The guest through a service, as a command of another host has it: each byte as the guest wrote it, its address, its display.
fn by_a_service(qhost: &Qhost) {
    let service = Service::start(qhost);
    let host = format!("unix:{}", service.socket().display());
    let there = |args: &[&str]| {
        let mut command = qhost.command(args);
        command.env("QHOST_STATE_DIR", "/nowhere").env("QHOST_HOST", &host);
        command.output().unwrap()
    };
    let bytes = there(&["exec", "test", "--", "printf", "\\377\\000\\n"]);
    assert_eq!((bytes.stdout, bytes.status.code()), (b"\xff\0\n".to_vec(), Some(0)));
    let failed = there(&["exec", "test", "--", "sh", "-c", "echo err >&2; exit 3"]);
    assert_eq!((failed.stderr, failed.status.code()), (b"err\n".to_vec(), Some(3)));
    let told = Done::of(there(&["inspect", "test"])).exits(0);
    told.says("Debian GNU/Linux").says("10.0.2.15");
    let file = qhost.folder().join("there.png");
    Done::of(there(&["screenshot", "test", "--output", "there.png"])).exits(0).says("written");
    assert!(fs::read(file).unwrap().starts_with(b"\x89PNG"));
    service.end();
}

#[test]
fn a_guest_that_is_asked_and_told_by_its_agent() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let settings = json!({"operators_only": ["exec", "screenshot"]});
    let guests = configured("guests", "guests", settings, "");
    let more =
        "[decisions]\nmask_args = [\"token=*\"]\n[tenants.acme]\n[host]\nchain = [\"guests\"]\n";
    qhost.config(&format!("{guests}{more}"));
    let raw: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
    let (url, checksum) = server.serve("/tools.raw", raw.clone());
    let tools = (format!("{url}?sig=its-own-signature"), checksum);
    let iso = seed_disk(&[SeedFile { name: "note", bytes: b"from a CD\n" }]);
    let cd = server.serve("/cd.iso", iso);
    qhost.run(&["volume", "create", "acme/data", "--size", "64MiB"]).exits(0);
    start(
        &qhost,
        &server,
        &json!({
            "ignition": {"ignition": {"version": "3.4.0"}, "passwd": {"users": [{"name": "a secret name"}]}},
            "disks": [
                {"name": "over", "image_source": tools.0, "checksum": tools.1, "size": "8MiB"},
                {"name": "read", "image_source": tools.0, "checksum": tools.1, "read_only": true},
                {"name": "cd", "image_source": cd.0, "checksum": cd.1, "cdrom": true},
                {"name": "data", "volume": "data"}
            ]
        }),
    );
    let vm = qhost.vms()[0].clone();

    // The guest runs commands for its operator.
    let done = exec(&qhost, &["sh", "-c", "echo out; echo err >&2; exit 3"]).exits(3);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    let steers = r"\033[2J\033]52;c;aGk=\007host      allowed\033[31m";
    let shown = run_on_terminal(&qhost, 80, &["exec", "test", "--", "printf", steers]).exits(0);
    assert_harmless(&shown.stdout, "host ");
    assert!(shown.stdout.contains(r"\u{1b}]52;c;aGk=\u{7}"), "{}", shown.stdout);
    let killed = exec(&qhost, &["sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 128 + 9, "{}", killed.stderr);
    let told = qhost.run(&["exec", "--json", "test", "--", "id", "-un"]).exits(0).json();
    assert_eq!(
        (&told["exec"]["stdout"], &told["exec"]["exit_code"]),
        (&json!("root\n"), &json!(0))
    );
    exec(&qhost, &["/no/such/program"]).exits(20).says("No such file");
    let late = qhost.run(&["exec", "--timeout", "1", "test", "--", "sleep", "60"]).exits(20);
    late.says("has not ended within 1 s").says("--timeout");
    let mut given = qhost.command(&["exec", "--stdin", "test", "--", "sha256sum"]);
    let given =
        given.stdin(Stdio::from(fs::File::open(qhost.file("in", &raw[..1 << 20])).unwrap()));
    let given = given.output().unwrap();
    let sum = String::from_utf8(given.stdout).unwrap();
    let error = String::from_utf8_lossy(&given.stderr);
    assert!(sum.starts_with(&Sha256::of(&raw[..1 << 20]).to_string()), "{sum}{error}");
    let large = exec(&qhost, &["head", "-c", "9000000", "/dev/zero"]).exits(20);
    large.says("answered with more than 8192 KiB").says("to a file");

    by_a_service(&qhost);

    // The guest's other disks have their images' bytes.
    let whole = Sha256::of(&raw).to_string();
    for disk in ["over", "read"] {
        let sum = shell(
            &qhost,
            &format!("head -c {} /dev/disk/by-id/virtio-{disk} | sha256sum", raw.len()),
        );
        assert!(sum.starts_with(&whole), "{disk}: {sum}");
    }
    assert_eq!(shell(&qhost, "blockdev --getsize64 /dev/disk/by-id/virtio-over").trim(), "8388608");
    shell(&qhost, "printf kept | dd of=/dev/disk/by-id/virtio-over conv=notrunc,fsync status=none");
    assert_eq!(shell(&qhost, "head -c 4 /dev/disk/by-id/virtio-over"), "kept");
    assert!(exec(&qhost, &["sh", "-c", "printf x > /dev/disk/by-id/virtio-read"]).code != 0);
    assert_eq!(
        shell(&qhost, "mount -r /dev/sr0 /mnt && cat /mnt/note; umount /mnt"),
        "from a CD\n"
    );
    // Ignition's config; Debian sets nothing up by it.
    let fw_cfg = "/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw";
    let config = shell(&qhost, &format!("modprobe qemu_fw_cfg; cat {fw_cfg}"));
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["passwd"]["users"][0]["name"], "a secret name");

    // What the guest says of itself.
    let guest = qhost.run(&["inspect", "--json", "test"]).exits(0).json()["guest"].clone();
    assert!(guest["os"].as_str().unwrap().starts_with("Debian GNU/Linux"), "{guest}");
    assert_eq!(guest["addresses"][0]["address"], "10.0.2.15/24", "{guest}");
    qhost.run(&["inspect", "test"]).exits(0).says("10.0.2.15/24");

    // The guest's display can be taken as a picture.
    let picture = qhost.folder().join("test.png");
    let to = picture.to_str().unwrap();
    qhost.run(&["screenshot", "test", "--output", to]).exits(0).says("written");
    let png = fs::read(&picture).unwrap();
    // The picture's width and height are in points (PNG, 11.2.2).
    assert_eq!((&png[..8], &png[12..16]), (&b"\x89PNG\r\n\x1a\n"[..], &b"IHDR"[..]));
    qhost.run(&["screenshot", "test", "--output", to]).exits(2).says("File exists");
    qhost.run(&["pause", "test"]).exits(0);
    for _ in 0..3 {
        let taken = qhost.command(&["screenshot", "test", "--output", "-"]).output().unwrap();
        assert!(taken.stdout.starts_with(b"\x89PNG"), "{}", String::from_utf8_lossy(&taken.stderr));
    }
    exec(&qhost, &["true"]).exits(20).says("did not answer within").says("qemu-guest-agent");
    qhost.run(&["resume", "test"]).exits(0);

    // A volume is copied while its guest writes to it all the time.
    shell(
        &qhost,
        "mke2fs -q -t ext4 /dev/disk/by-id/virtio-data && mount /dev/disk/by-id/virtio-data /mnt",
    );
    let writes = "i=0; while :; do i=$((i+1)); echo $i > /mnt/$((i%7)); sync -f /mnt; done";
    shell(&qhost, &format!("setsid sh -c '{writes}' > /dev/null 2>&1 &"));
    qhost.run(&["volume", "copy", "acme/data", "copy"]).exits(0).says("copied     acme/copy");
    let copy = qhost.run(&["volume", "ls", "--json"]).exits(0).json();
    let copy =
        copy["volumes"].as_array().unwrap().iter().find(|one| one["name"] == "copy").cloned();
    assert!(copy.is_some_and(|copy| copy["disk_usage"].as_u64().unwrap() > 0));
    let folder =
        fs::read_dir(qhost.state().join("volumes")).unwrap().flatten().map(|one| one.path());
    let copied = folder
        .into_iter()
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("copy-"))
        .unwrap();
    // e2fsck(8) exits with 0 if there are no errors, and with 1 after it replayed the journal, as a mount would.
    let checked = qhost_tests::command("/sbin/e2fsck")
        .args(["-fp"])
        .arg(copied.join("volume.raw"))
        .output()
        .unwrap();
    let code = checked.status.code();
    assert!(code == Some(0) || code == Some(1), "{}", String::from_utf8_lossy(&checked.stdout));
    // The guest writes once more after the copy.
    let last = || shell(&qhost, "cat /mnt/? | sort -n | tail -1");
    let before = last();
    wait_for("writes", || (last() != before).then_some(()));
    frozen_and_killed(&qhost);

    // Policies rule who may run commands, and their decisions are recorded.
    let refused =
        qhost.run(&["exec", "--tenant", "acme", "test", "--", "id", "token=abc"]).exits(11);
    refused.says("exec is for operators alone");
    qhost.run(&["screenshot", "--tenant", "acme", "test", "--output", "no.png"]).exits(11);
    let log =
        qhost.run(&["decisions", "--json", "--outcome", "denied"]).exits(0).json().to_string();
    assert!(log.contains(r#"{"exec":["id","***"]}"#) && !log.contains("token=abc"), "{log}");
    assert!(log.contains(r#""operation":"screenshot""#), "{log}");
    let replayed = qhost.run(&["policy", "replay", "--json"]).exits(0).json();
    assert_eq!(
        (&replayed["differ"], &replayed["not_again"]),
        (&json!(0), &json!([])),
        "{replayed}"
    );
    let guests = configured("guests", "guests", json!({"operators_only": []}), "");
    qhost.config(&format!("{guests}{more}"));
    let replayed = qhost.run(&["policy", "replay", "--json"]).exits(1).json();
    assert_eq!(replayed["differ"], 2, "{replayed}");

    // Secrets are only in the files that must have them.
    let state = qhost.state();
    let found = qhost_tests::command("grep")
        .args(["-rlE", "a secret name|its-own-signature"])
        .arg(&state)
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.trim(), vm.join("ignition.json").to_str().unwrap());
    qhost.run(&["kill", "test"]).exits(0);
    qhost.assert_nothing_left();
}

/// A supervisor that is killed while its guest is frozen: the next one thaws it, and the copy is given up.
fn frozen_and_killed(qhost: &Qhost) {
    let vm = qhost.run(&["inspect", "--json", "test"]).exits(0).json();
    let supervisor = vm["supervisor"]["pid"].as_u64().unwrap();
    let mut copy = qhost.command(&["volume", "copy", "acme/data", "slow"]);
    copy.env("QHOST_SLOW_AT", "volume.copy.written=8000");
    let copying = copy.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let folder = qhost.state().join("volumes");
    wait_for("a copy", || {
        let mut all = fs::read_dir(&folder).unwrap().flatten();
        all.any(|one| one.file_name().to_string_lossy().starts_with(".new")).then_some(())
    });
    qhost_tests::succeed("kill", &["-9", &supervisor.to_string()]);
    qhost.run(&["ps"]).exits(0);
    // The next supervisor thaws the guest beside its other work: until then the agent runs no command.
    let last = || {
        let done = exec(qhost, &["sh", "-c", "cat /mnt/? | sort -n | tail -1"]);
        (done.code == 0).then_some(done.stdout)
    };
    let before = wait_for("the guest to be thawed", last);
    wait_for("writes after its supervisor was killed", || (last()? != before).then_some(()));
    let done = Done::of(copying.wait_with_output().unwrap()).exits(16);
    done.says("did not stay frozen until its volume acme/data was copied");
    qhost.run(&["volume", "rm", "acme/slow"]).exits(2).says("there is no volume");
}
