//! VMs as an operator sees them: `qhost ps`, `inspect`, `logs`, `stop`, `kill`, `wait` and `rm`.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost, Reply, Running,
    boot_sector::{self, Then},
    succeed, wait_for,
};

use crate::qhost;

/// A task of this name that runs until it is stopped.
fn start(qhost: &Qhost, server: &ImageServer, name: &str, then: Then) -> Running {
    let image = server.serve(&format!("/{name}"), boot_sector::disk(&format!("I am {name}"), then));
    let job = fs::read_to_string(qhost.job(&image, json!({"port_map": {"http": 80}}))).unwrap();
    let job = qhost.file(&format!("{name}.json"), job.replace("\"test\"", &format!("\"{name}\"")));
    qhost.start(&["run", "--grace", "1", &job])
}

fn vms(qhost: &Qhost, args: &[&str]) -> Vec<Value> {
    let report = qhost.run(&[&["ps", "--json"], args].concat()).exits(0).json();
    report["vms"].as_array().unwrap().clone()
}

fn state(qhost: &Qhost, vm: &str) -> String {
    let found = qhost.run(&["inspect", "--json", vm]).exits(0).json();
    found["state"].as_str().unwrap().to_owned()
}

fn runs(qhost: &Qhost, vm: &str) {
    wait_for("the guest", || {
        vms(qhost, &[])
            .iter()
            .any(|one| one["task"] == vm && one["state"] == "running")
            .then_some(())
    });
}

#[test]
fn from_its_start_to_its_end() {
    let (qhost, server) = (qhost(), ImageServer::start());
    assert_eq!(qhost.run(&["ps"]).exits(0).stdout.lines().count(), 1);
    let [web, db] = ["web", "db"].map(|name| start(&qhost, &server, name, Then::Hang));
    runs(&qhost, "web");
    runs(&qhost, "db");
    let both = vms(&qhost, &[]);
    assert_eq!(both.len(), 2);
    let id = |name: &str| {
        let one = both.iter().find(|vm| vm["task"] == name).unwrap();
        one["id"].as_str().unwrap().to_owned()
    };
    qhost.run(&["ps"]).exits(0).says(&id("web")).says("→80/tcp").says("32 MiB");
    // The VM is found by its task's name, its id, and the beginning of its id.
    for name in ["web", &id("web"), &id("web")[..6]] {
        let found = qhost.run(&["inspect", "--json", name]).exits(0).json();
        assert_eq!(found["id"], json!(id("web")));
        let states: Vec<_> = found["changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| change["state"].clone())
            .collect();
        assert_eq!(states, ["created", "fetching", "starting", "running"]);
        assert!(found["qemu"]["pid"].as_u64() > Some(1));
    }
    qhost
        .run(&["inspect", "db"])
        .exits(0)
        .says("takes      1 CPUs, 32 MiB")
        .says("qemu       process");
    qhost.run(&["kill", ""]).exits(2).says("no VM's id begins with \"\"");
    qhost.run(&["stop", "web", "none"]).exits(2);
    qhost.run(&["inspect", "none"]).exits(2).says("no VM's id begins with \"none\"");
    qhost.run(&["rm", "web"]).exits(2).says("has not ended; stop it first: qhost stop web-");
    qhost.console_has("I am web");
    qhost.run(&["logs", "web"]).exits(0).says("I am web");

    // This guest ignores the power button: QEMU quits once its grace is over.
    qhost
        .run(&["stop", "web"])
        .exits(0)
        .says("exited")
        .says("the guest did not power off in time, QEMU quit");
    web.end().exits(130);
    assert_eq!(state(&qhost, "web"), "exited");
    qhost.run(&["stop", "web"]).exits(2).says("has ended: exited");
    qhost.run(&["kill", "db"]).exits(0).says("exited");
    db.end().exits(130);
    assert!(vms(&qhost, &[]).is_empty());
    assert_eq!(vms(&qhost, &["--all"]).len(), 2);
    qhost.run(&["rm", "web", &id("db")]).exits(0).says("removed");
    assert!(vms(&qhost, &["--all"]).is_empty() && qhost.vms().is_empty());
}

#[test]
fn it_is_waited_for_and_its_console_followed() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let run = start(&qhost, &server, "web", Then::Hang);
    runs(&qhost, "web");
    let logs = qhost.start(&["logs", "--follow", "web"]);
    logs.says("I am web");
    qhost.run(&["wait", "--timeout", "0", "web"]).exits(1).says("has not ended within 0 s");
    let wait = qhost.start(&["wait", "web"]);
    let stop = qhost.run(&["stop", "--json", "web"]).exits(0).json();
    assert_eq!(stop["vms"][0]["ended"]["reason"], "stopped");
    wait.end().exits(0).says("exited");
    logs.end().exits(0);
    run.end().exits(130);
    // This guest fails.
    let run = start(&qhost, &server, "bad", Then::Panic);
    run.end().exits(20);
    qhost.run(&["wait", "bad"]).exits(20).says("failed").says("the guest's kernel panicked");
}

/// A VM whose image is still being fetched is listed; a stop leaves nothing of it.
#[test]
fn one_whose_image_is_on_its_way() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let disk = boot_sector::disk("late", Then::Hang);
    let sha256 = qhost_model::digest::Sha256::of(&disk).to_string();
    server.set("/image", Reply::Slow(disk.into(), Duration::from_secs(1)));
    let run = qhost.start(&["run", &qhost.job(&(server.url("/image"), sha256), json!({}))]);
    wait_for("the fetch", || {
        vms(&qhost, &[]).iter().any(|vm| vm["state"] == "fetching").then_some(())
    });
    qhost.run(&["logs", "test"]).exits(0);
    qhost.run(&["stop", "test"]).exits(0);
    run.end().exits(130);
    assert!(qhost.vms().is_empty());
}

/// A VM whose folder is only being made is not said to run.
#[test]
fn one_that_is_being_made() {
    let (qhost, server) =
        (qhost().env("QHOST_SLOW_AT", "launch.reserved=2000"), ImageServer::start());
    let run = start(&qhost, &server, "web", Then::Hang);
    let is_web = |vm: &Value| vm["task"] == "web";
    let first = wait_for("the VM", || vms(&qhost, &[]).into_iter().find(is_web));
    assert_eq!(first["state"], "created", "{first}");
    runs(&qhost, "web");
    qhost.run(&["kill", "web"]).exits(0);
    run.end().exits(130);
}

/// The VM's supervisor was killed, and its QEMU too: it is not said to run.
#[test]
fn the_truth_about_the_lost() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let run = start(&qhost, &server, "web", Then::Hang);
    runs(&qhost, "web");
    let (supervisor, qemu) = (qhost.supervisors().remove(0), qhost.qemus().remove(0));
    // The supervisor is stopped first, so that it does not see the end of its QEMU.
    succeed("kill", &["-STOP", &supervisor]);
    succeed("kill", &["-KILL", &qemu]);
    // QEMU must have ended before a command looks, which would adopt it otherwise. Its process id stays until its supervisor asks for it.
    let stat = format!("/proc/{qemu}/stat");
    wait_for("QEMU's end", || fs::read_to_string(&stat).unwrap().contains(") Z ").then_some(()));
    succeed("kill", &["-KILL", &supervisor]);
    run.end().exits(20).says("how VM web-");
    assert!(vms(&qhost, &[]).is_empty());
    qhost.run(&["inspect", "web"]).exits(0).says("lost").says("its supervisor was killed");
    qhost.run(&["stop", "web"]).exits(2).says("has ended: lost");
    qhost.run(&["wait", "web"]).exits(20);
    qhost.assert_nothing_left();
    // A VM of an earlier version, whose records say less, is listed and can be removed.
    let old = qhost.state().join("vms/old-1");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("status.json"), r#"{"state": "running", "pid": 1}"#).unwrap();
    qhost.run(&["inspect", "old"]).exits(0).says("lost");
    qhost.run(&["rm", "old"]).exits(0);
    // An earlier version kept what is reserved in a file of its own.
    fs::create_dir(&old).unwrap();
    fs::write(
        old.join("status.json"),
        r#"{"state": "exited", "changes": [], "supervisor": null, "qemu": null}"#,
    )
    .unwrap();
    let reserved = json!({"tenant": "acme", "job": "jobs", "task": "older", "vms": 1, "cpus": 3, "memory_mib": 64, "disk_bytes": 4096, "ports": 0});
    fs::write(old.join("reserved.json"), reserved.to_string()).unwrap();
    let read = qhost.run(&["inspect", "--json", "old"]).exits(0).json();
    assert_eq!(
        (&read["tenant"], &read["job"], &read["task"]),
        (&json!("acme"), &json!("jobs"), &json!("older"))
    );
    assert_eq!(
        (&read["reserved"]["cpus"], &read["reserved"]["disk_bytes"]),
        (&json!(3), &json!(4096))
    );
    qhost.run(&["rm", "old"]).exits(0);
    // A name of two VMs means the one that goes on.
    let again = start(&qhost, &server, "web", Then::Hang);
    runs(&qhost, "web");
    assert_eq!(state(&qhost, "web"), "running");
    qhost.run(&["stop", "web"]).exits(0);
    again.end().exits(130);
    qhost.run(&["rm", "web"]).exits(2).says("several VMs are meant by \"web\"");
}

/// Many launches at once: exactly as many VMs as the quota has, and a clear refusal for every other.
fn quota(launches: usize, toml: &str, vms: usize, code: i32, says: &str) {
    let (qhost, server) = (qhost(), ImageServer::start());
    qhost.config(&toml.replace("[tenants.other]", "[tenants.acme]"));
    let image = server.serve("/image", boot_sector::disk("I run", Then::Hang));
    let job = qhost.job(&image, json!({"port_map": {"http": 80}}));
    // The image is stored beforehand, so that all launches come to the same point at about the same time.
    qhost.run(&["image", "pull", &image.0, "--checksum", &image.1]).exits(0);
    let args = ["run", "--grace", "0", "--tenant", "acme", &job];
    let mut runs: Vec<_> = (0..launches).map(|_| Some(qhost.start(&args))).collect();
    let mut refused = 0;
    wait_for("the refusals", || {
        for run in &mut runs {
            if run.as_mut().is_some_and(Running::has_ended) {
                run.take().expect("one that has ended").end().exits(code).says(says);
                refused += 1;
            }
        }
        (refused == launches - vms).then_some(())
    });
    wait_for("the VMs", || {
        let running = self::vms(&qhost, &[]);
        (running.iter().filter(|vm| vm["state"] == "running").count() == vms).then_some(())
    });
    assert_eq!(self::vms(&qhost, &["--all"]).len(), vms, "a refusal left something");
    // A VM that ends makes room for one.
    let one = runs.iter_mut().find_map(Option::take).expect("one that runs");
    one.signal("INT");
    one.end().exits(130);
    let next = qhost.start(&args);
    wait_for("the next", || {
        let running = self::vms(&qhost, &[]);
        (running.iter().filter(|vm| vm["state"] == "running").count() == vms).then_some(())
    });
    runs.push(Some(next));
    for run in runs.into_iter().flatten() {
        run.signal("INT");
        run.end().exits(130);
    }
    qhost.assert_nothing_left();
}

#[test]
fn a_quota_of_vms() {
    let toml = "[tenants.acme.quota]\nvms = 8\n[tenants.other]";
    quota(
        32,
        toml,
        8,
        11,
        "tenant acme may have 8 VMs on this host, 8 are taken and this VM takes 1",
    );
}

#[test]
fn quotas_of_cpus_memory_disk_and_ports() {
    let acme = |line: &str| format!("[tenants.acme.quota]\n{line}\n[tenants.other]");
    quota(6, &acme("cpus = 2"), 2, 11, "tenants.acme.quota.cpus");
    quota(
        6,
        &acme("memory_mib = 95"),
        2,
        11,
        "may have 95 MiB of memory on this host, 64 are taken and this VM takes 32",
    );
    quota(6, &acme("disk_bytes = 34359738368"), 2, 11, "tenants.acme.quota.disk_bytes");
    quota(6, &acme("ports = 2"), 2, 11, "tenants.acme.quota.ports");
    quota(
        6,
        "[host.quota]\nvms = 2\n[tenants.other]",
        2,
        16,
        "all tenants together may have 2 VMs",
    );
}

/// An operator sees what tenants take, and what they may take, before a quota is used up.
#[test]
fn quotas_are_told() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let image = server.serve("/image", boot_sector::disk("up", Then::Hang));
    qhost.config("[host.quota]\nimage_bytes = 1048576\n[tenants.acme.quota]\nvms = 2\nmemory_mib = 64\n[tenants.other]\n");
    let job = qhost.job(&image, json!({}));
    qhost.run(&["run", "--detach", "--tenant", "acme", &job]).exits(0);
    let text = qhost.run(&["quota"]).exits(0).stdout;
    let rows: Vec<_> = text
        .lines()
        .map(|line| {
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
        })
        .collect();
    let [header, all, acme, other] = rows.as_slice() else { panic!("{text}") };
    assert_eq!(header[..3], ["TENANT", "VMS", "CPUS"]);
    assert_eq!(all[..4], ["(all)", "1 of any", "1 of any", "32.00 MiB of any"]);
    assert!(all[6].ends_with("of 1.00 MiB"), "{text}");
    assert_eq!(acme[..4], ["acme", "1 of 2", "1 of any", "32.00 MiB of 64.00 MiB"]);
    assert_eq!(other[..2], ["other", "0 of any"]);
    let one = qhost.run(&["quota", "--tenant", "acme", "--json"]).exits(0).json();
    assert_eq!(
        (&one["quotas"][0]["used"]["vms"], &one["quotas"][0]["quota"]["vms"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(one["quotas"].as_array().unwrap().len(), 1);
    qhost.run(&["kill", "--tenant", "acme", "test"]).exits(0);
}
