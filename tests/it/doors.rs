//! Each scenario through every door: the outcome of a job does not depend on the door. A door to come is one more implementation of
//! [`Door`], and one more line of `through_every_door`.

mod command;
mod engine;

use serde_json::{Value, json};

use qhost_engine::{Termination, Until};
use qhost_model::kind::Kind;
use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    configured,
};

/// A way of having VMs run. A VM is shown by its record, as `qhost inspect --json` prints it.
trait Door {
    /// Starts a job's VM; gives its id, or the kind of the refusal.
    fn start(&self, job: &str, tenant: &str) -> Result<String, Kind>;
    /// Waits for a state of a VM, or its end.
    fn wait(&self, vm: &str, until: Until) -> Value;
    /// Ends a VM, and waits for its end.
    fn end(&self, vm: &str, ending: Termination) -> Value;
    fn pause(&self, vm: &str);
    fn resume(&self, vm: &str);
    fn restart(&self, vm: &str) -> Value;
    fn remove(&self, vm: &str) -> Result<(), Kind>;
    /// The VM that a word means.
    fn look(&self, word: &str) -> Result<Value, Kind>;
    /// All VMs.
    fn list(&self) -> Vec<Value>;
}

/// Makes a test of each scenario and each door.
macro_rules! doors {
    ($door:ident: $open:expr, $($scenario:ident),+) => {
        mod $door {
            $(
                #[test]
                fn $scenario() {
                    let qhost = crate::qhost();
                    super::super::$scenario(&qhost, &|| Box::new(($open)(&qhost)));
                    qhost.assert_nothing_left();
                }
            )+
        }
    };
}

macro_rules! through_every_door {
    ($($scenario:ident),+ $(,)?) => {
        mod through {
            doors!(command: crate::doors::command::Command::new, $($scenario),+);
            doors!(service: crate::doors::command::Command::of_service, $($scenario),+);
            doors!(engine: crate::doors::engine::InProcess::new, $($scenario),+);
        }
    };
}

through_every_door!(
    a_guest_that_powers_off,
    a_guest_that_panics,
    pause_resume_restart_stop,
    several_at_once,
    what_is_refused,
    a_chain_decides,
);

/// Opens the door, under the configuration at that time.
type Open<'a> = &'a dyn Fn() -> Box<dyn Door + 'a>;

fn served(qhost: &Qhost, server: &ImageServer, then: Then) -> String {
    qhost
        .job(&server.serve("/image", boot_sector::disk("up", then)), json!({"port_map": {"a": 80}}))
}

fn a_guest_that_powers_off(qhost: &Qhost, open: Open<'_>) {
    let (door, server) = (open(), ImageServer::start());
    let vm = door.start(&served(qhost, &server, Then::PowerOff), "default").unwrap();
    let ended = door.wait(&vm, Until::End);
    assert_eq!((&ended["state"], &ended["id"]), (&json!("exited"), &json!(vm)));
    assert_eq!(ended["ended"]["reason"], "shut-down", "{ended}");
    // An ended VM can be neither ended nor paused any more, and is there until it is removed.
    assert_eq!(door.look("test").unwrap()["id"], json!(vm));
    door.remove(&vm).unwrap();
    assert_eq!(door.look(&vm).unwrap_err(), Kind::InvalidArgument);
    assert!(door.list().is_empty());
}

fn a_guest_that_panics(qhost: &Qhost, open: Open<'_>) {
    let (door, server) = (open(), ImageServer::start());
    let vm = door.start(&served(qhost, &server, Then::Panic), "default").unwrap();
    let ended = door.wait(&vm, Until::Ready);
    assert_eq!(
        (&ended["state"], &ended["ended"]["reason"]),
        (&json!("failed"), &json!("panicked"))
    );
}

fn pause_resume_restart_stop(qhost: &Qhost, open: Open<'_>) {
    let (door, server) = (open(), ImageServer::start());
    let vm = door.start(&served(qhost, &server, Then::Hang), "default").unwrap();
    let first = door.wait(&vm, Until::Running);
    assert_eq!(first["state"], "running");
    door.pause(&vm);
    assert_eq!(door.look(&vm).unwrap()["state"], "paused");
    assert_eq!(door.remove(&vm).unwrap_err(), Kind::InvalidArgument, "it goes on");
    door.resume(&vm);
    assert_eq!(door.look(&vm).unwrap()["state"], "running");
    let again = door.restart(&vm);
    assert_eq!(again["state"], "running");
    assert_ne!(again["qemu"]["pid"], first["qemu"]["pid"]);
    let ended = door.end(&vm, Termination::Stop(Some(std::time::Duration::ZERO)));
    assert_eq!((&ended["state"], &ended["ended"]["reason"]), (&json!("exited"), &json!("stopped")));
    assert_eq!(ended["ended"]["by"], "quit");
    // A VM that has ended is started again as it was decided.
    let again = door.restart(&vm);
    assert_eq!(again["state"], "running");
    for part in ["resources", "forwards", "image"] {
        assert_eq!(again["takes"][part], first["takes"][part]);
    }
    let ended = door.end(&vm, Termination::Kill);
    assert_eq!(
        (&ended["ended"]["reason"], &ended["ended"]["by"]),
        (&json!("stopped"), &json!("kill"))
    );
}

fn several_at_once(qhost: &Qhost, open: Open<'_>) {
    let (door, server) = (open(), ImageServer::start());
    let job = served(qhost, &server, Then::Hang);
    let vms: Vec<_> = (0..3).map(|_| door.start(&job, "default").unwrap()).collect();
    let port = |vm: &String| door.wait(vm, Until::Running)["takes"]["forwards"][0]["host"].clone();
    let ports: Vec<_> = vms.iter().map(port).collect();
    assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
    let listed = door.list();
    assert!(vms.iter().all(|vm| listed.iter().any(|one| one["id"] == **vm)));
    assert_eq!(door.look("test").unwrap_err(), Kind::InvalidArgument, "several are meant");
    for vm in &vms {
        assert_eq!(door.end(vm, Termination::Kill)["state"], "exited");
    }
}

fn what_is_refused(qhost: &Qhost, open: Open<'_>) {
    qhost.config("[tenants.default]\n");
    let (door, server) = (open(), ImageServer::start());
    let refused = |image: &(String, String), more: Value| {
        door.start(&qhost.job(image, more), "default").unwrap_err()
    };
    let sound = server.serve("/image", boot_sector::disk("up", Then::Hang));
    assert_eq!(refused(&sound, json!({"egres": "internet"})), Kind::InvalidJob);
    assert_eq!(refused(&sound, json!({"egress": "internet"})), Kind::Denied);
    let other = (sound.0.clone(), "0".repeat(64));
    assert_eq!(refused(&other, json!({})), Kind::ChecksumMismatch);
    let nowhere = (server.url("/none"), "0".repeat(64));
    assert_eq!(refused(&nowhere, json!({})), Kind::Unavailable);
    let unsafe_one = server.serve("/unsafe", b"QFI\xfb\0\0\0\x09".repeat(64));
    assert_eq!(refused(&unsafe_one, json!({})), Kind::ImageRejected);
    let stranger = door.start(&qhost.job(&sound, json!({})), "stranger");
    assert_eq!(stranger.unwrap_err(), Kind::InvalidArgument);
    assert!(door.list().is_empty(), "{:?}", door.list());
}

fn a_chain_decides(qhost: &Qhost, open: Open<'_>) {
    let server = ImageServer::start();
    let config = |module: &str, settings: Value| {
        let chain = "[host]\nchain = [\"sets\"]\n[tenants.acme]\n[tenants.default]\n";
        qhost.config(&(configured("sets", module, settings, "") + chain));
    };
    config("probe-sets", json!({"memory_mib": 48}));
    let door = open();
    let job = served(qhost, &server, Then::PowerOff);
    let vm = door.start(&job, "acme").unwrap();
    let ended = door.wait(&vm, Until::End);
    assert_eq!(
        (&ended["tenant"], &ended["takes"]["resources"]["memory_mib"]),
        (&json!("acme"), &json!(48))
    );
    config("probe-sets", json!({"refuse": "no"}));
    assert_eq!(open().start(&job, "acme").unwrap_err(), Kind::Denied);
    config("probe-traps", json!({}));
    assert_eq!(open().start(&job, "acme").unwrap_err(), Kind::PolicyFailed);
}
