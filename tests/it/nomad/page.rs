//! The examples of the page `host/docs/nomad.md`: the agent's configuration and the job, as they stand there.

use std::{fs, net::TcpListener};

use serde_json::{Value, json};

use qhost_nomad::proto::driver::PortMapping;
use qhost_tests::{
    ImageServer,
    boot_sector::Then,
    nomad::{Plugin, Task},
    root,
};

use super::{configure, image, settings, with};
use crate::qhost;

/// The page's blocks of HCL.
fn blocks() -> Vec<String> {
    let page = fs::read_to_string(root().join("host/docs/nomad.md")).unwrap();
    let blocks = page.split("```hcl\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_agents_configuration_and_the_job_run_as_they_stand() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let blocks: Vec<Value> =
        blocks().iter().map(|block| hcl::from_str(block).expect("HCL")).collect();
    let [agent, of_all, job] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    // The tenants are the page's, the paths are this test's.
    let given = &agent["plugin"]["qhost"]["config"];
    assert_eq!(
        (&given["config"], &given["state_dir"]),
        (&json!("/etc/qhost/qhost.toml"), &json!("/var/lib/qhost"))
    );
    let tenants = given["tenants"].as_object().unwrap();
    let of_each: String = tenants
        .values()
        .map(|tenant| format!("[tenants.{}]\n", tenant.as_str().unwrap()))
        .collect();
    configure(&qhost, &format!("[ports]\nbind = [\"127.0.0.1\", \"127.0.0.2\"]\n{of_each}"));
    let of_all = of_all["plugin"]["qhost"]["config"].clone();
    let given = with(with(given.clone(), of_all), settings(&qhost));
    let plugin = Plugin::as_agent(&qhost, &given);
    let group = &job["job"]["web"]["group"]["web"];
    let task = &group["task"]["web"];
    assert_eq!(task["driver"], plugin.info().name);
    // The image is for the reader to name: another one with its own digest takes its place.
    let config = with(task["config"].clone(), image(&server, "as-it-stands", Then::Hang));
    let mut started = Task::new(&qhost, &plugin.task_schema(), "a1", &config)
        .with_memory(task["resources"]["memory"].as_i64().unwrap());
    let host = TcpListener::bind(("127.0.0.2", 0)).unwrap().local_addr().unwrap().port();
    let to = group["network"]["port"]["http"]["to"].as_i64().unwrap();
    // Nomad gives a group's port with the address of its network.
    let port = PortMapping {
        label: "http".into(),
        value: host.into(),
        to: to.try_into().unwrap(),
        host_ip: "127.0.0.2".into(),
    };
    started.config.resources.as_mut().unwrap().ports = vec![port];
    plugin.start(&started.config).unwrap();
    started.says("as-it-stands");
    let vm = &qhost.run(&["ps", "--json"]).exits(0).json()["vms"][0];
    assert_eq!((&vm["tenant"], &vm["task"]), (&tenants["default"], &json!("group-web")), "{vm}");
    let forward = &vm["takes"]["forwards"][0];
    assert_eq!(
        (&forward["bind"], &forward["host"], &forward["guest"]),
        (&json!("127.0.0.2"), &json!(host), &json!(8080)),
        "{vm}"
    );
    TcpListener::bind(("127.0.0.2", host)).unwrap_err();
    drop(TcpListener::bind(("127.0.0.1", host)).expect("the other address is left alone"));
    let grace = task["kill_timeout"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    plugin.signal(started.id(), "SIGKILL").unwrap();
    plugin.stop(started.id(), grace).unwrap();
    plugin.destroy(started.id(), false).unwrap();
    plugin.leave();
    qhost.assert_nothing_left();
}

/// A port's address is refused if the operator has not given it to tasks.
#[test]
fn a_ports_address_is_one_that_tasks_may_have() {
    let (qhost, server) = (qhost(), ImageServer::start());
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let config = with(image(&server, "never", Then::Hang), json!({"port_map": [{"http": 80}]}));
    for (address, why) in [
        ("127.0.0.2", "127.0.0.2 is not an address that tasks may listen on"),
        ("2001:db8::7", "an IPv4 address of the host"),
    ] {
        let mut task =
            Task::new(&qhost, &plugin.task_schema(), &format!("a{}", address.len()), &config);
        task = task.with_ports(&[("http", 20_000, 0)]);
        task.config.resources.as_mut().unwrap().ports[0].host_ip = address.into();
        let refused = plugin.start(&task.config).unwrap_err();
        assert!(refused.message().contains(why), "{refused}");
    }
    plugin.leave();
    qhost.assert_nothing_left();
}

/// `qhost doctor --nomad` is run on the page's configuration, and on configurations with parts that operators leave out.
#[test]
fn what_the_doctor_says_of_an_agent() {
    let qhost = qhost();
    configure(
        &qhost,
        "[ports]\nbind = [\"127.0.0.1\", \"192.0.2.7\"]\n[tenants.acme]\n[tenants.umbrella]\n",
    );
    let folder = qhost.folder().join("nomad.d");
    fs::create_dir(&folder).unwrap();
    let plugins = qhost.folder().join("opt");
    let toml = qhost.folder().join("qhost.toml");
    let text = blocks()[0]
        .replace("/opt/nomad/plugins", &plugins.to_string_lossy())
        .replace("/etc/qhost/qhost.toml", &toml.to_string_lossy());
    let write = |text: &str| fs::write(folder.join("client.hcl"), text).unwrap();
    let option = format!("--nomad={}", folder.display());
    let findings = || {
        let done = qhost.run(&["doctor", &option, "--json"]).json();
        let of_nomad = |finding: &&Value| finding["about"].as_str().unwrap().starts_with("nomad");
        let all = done["findings"].as_array().unwrap().clone();
        all.iter().filter(of_nomad).cloned().collect::<Vec<_>>()
    };
    let found = |about: &str, health: &str, text: &str| {
        let findings = findings();
        let says = |finding: &&Value| finding["about"] == about && finding["health"] == health;
        let mut of_it = findings.iter().filter(says);
        let found = of_it.any(|finding| finding["found"].as_str().unwrap().contains(text));
        assert!(found, "{about}, {health}, {text}: {findings:#?}");
    };
    found("nomad agent", "bad", "has no file");
    write(&text);
    found("nomad plugin", "bad", "No such file");
    fs::create_dir(&plugins).unwrap();
    std::os::unix::fs::symlink(qhost.program(), plugins.join("qhost")).unwrap();
    assert!(findings().iter().all(|finding| finding["health"] == "good"), "{:#?}", findings());
    write(&text.replace("umbrella", "unknown"));
    found("nomad config", "bad", "the tenant unknown, which is not there");
    write(&text.replace("tenants {", "tenant {"));
    found("nomad config", "bad", "unknown field `tenant`");
    write(&text.replace("plugin \"qhost\"", "plugin \"qemu\""));
    found("nomad config", "bad", "there is no block plugin");
    write(&text);
    configure(&qhost, "[tenants.acme]\n[tenants.umbrella]\n");
    found("nomad ports", "lacking", "loopback alone");
    configure(&qhost, "[host]\nchain = [\"gone\"]\n");
    qhost.run(&["doctor", &option]).exits(2).says("gone");
}
