//! Tasks whose guest is a whole Debian.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde_json::json;
use tonic::Code;

use qhost_tests::{
    ImageServer, configured, debian_guest,
    nomad::{Plugin, Task, exit},
    wait_for,
};

use super::{configure, settings, with};
use crate::qhost;

/// An agent's users do these things with a guest that has more than a boot sector.
#[test]
fn commands_and_the_environment_in_a_debian_guest() {
    let (qhost, server) = (qhost(), ImageServer::start());
    let tenants = "[tenants.acme]\n";
    configure(&qhost, tenants);
    let more = json!({"tenants": {"default": "acme"}});
    let agent = with(settings(&qhost), more);
    let plugin = Plugin::as_agent(&qhost, &agent);
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let (url, sha256) = server.serve("/debian.qcow2", fs::read(debian_guest()).unwrap());
    let config = json!({
        "image_source": url, "checksum": sha256, "guest_agent": true, "task_env": true, "hostname": "on-nomad",
    });
    let task = Task::new(&qhost, &plugin.task_schema(), "a1", &config);
    let task = task.with_memory(512).with_ports(&[("ssh", port, 22)]);
    let handle = plugin.start(&task.config).unwrap();
    wait_for("the guest's agent", || plugin.exec(task.id(), &["true"]).ok());
    let shell = |script: &str| plugin.exec(task.id(), &["sh", "-c", script]).unwrap();
    let done = shell("echo out; echo err >&2; exit 3");
    assert_eq!(done.result.unwrap().exit_code, 3);
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let streamed =
        plugin.exec_streaming(task.id(), &["tr", "a-z", "A-Z"], b"typed", false).unwrap();
    assert_eq!(
        (streamed.stdout.as_slice(), streamed.result.unwrap().exit_code),
        (&b"TYPED"[..], 0)
    );
    let refused = plugin.exec_streaming(task.id(), &["sh"], b"", true).unwrap_err();
    assert!(refused.message().contains("-t=false"), "{refused}");
    wait_for("cloud-init", || {
        let done =
            shell("hostname; . /etc/profile.d/nomad.sh; echo $NOMAD_META_owner $NOMAD_TASK_NAME");
        (done.stdout == b"on-nomad\nops web\n").then_some(())
    });
    // The task's port is the guest's, and the guest answers there whatever becomes of plugins.
    let banner = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let mut banner = [0; 4];
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.read_exact(&mut banner).is_ok().then_some(()).filter(|()| &banner == b"SSH-")
    };
    wait_for("sshd", banner);
    plugin.leave();
    banner().expect("an answer without a plugin");
    let plugin = Plugin::as_agent(&qhost, &agent);
    banner().expect("an answer before the task is recovered");
    plugin.recover(&handle).unwrap();
    plugin.kill();
    banner().expect("an answer after the plugin was killed");
    let plugin = Plugin::as_agent(&qhost, &agent);
    plugin.recover(&handle).unwrap();
    banner().expect("an answer with the plugin after it");
    // Policies rule commands by this door, too, and their answers are recorded.
    let guests = configured("guests", "guests", json!({"operators_only": ["exec"]}), "");
    configure(&qhost, &format!("{guests}[host]\nchain = [\"guests\"]\n{tenants}"));
    let denied = wait_for("the policy", || plugin.exec(task.id(), &["id"]).err());
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    let told = qhost.run(&["decisions", "--json"]).exits(0).stdout;
    assert!(told.contains("\"door\":\"nomad\"") && told.contains("nomad alloc a1"), "{told}");
    // The guest's power button is pressed, and systemd hears it.
    plugin.stop(task.id(), 60).unwrap();
    assert_eq!(exit(&plugin.wait(task.id()).unwrap()).exit_code, 0);
    let vm = &qhost.run(&["ps", "--all", "--json"]).exits(0).json()["vms"][0];
    assert_eq!(vm["ended"]["by"], "powerdown", "{vm}");
    plugin.leave();
    qhost.assert_nothing_left();
}
