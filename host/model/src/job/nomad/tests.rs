//! Tests of jobs for Nomad by a table: one row for a key or a value, and what becomes of it.

mod rows;

use serde_json::{Value, json};

use crate::{
    job::{self, Restart, RestartWhen, Task},
    launch::Protocol,
    limits,
};

/// What a row expects.
enum Gives {
    /// A task for which this holds.
    Task(fn(&Task) -> bool),
    /// A task with these places ignored.
    Ignored(&'static [&'static str]),
    /// A problem at this place, with this word in it.
    Problem(&'static str, &'static str),
}

use Gives::{Ignored, Problem, Task as Is};

/// The seconds of grace that a task asks for.
fn grace(task: &Task) -> Option<u32> {
    task.asked.grace_s.map(|grace| grace.seconds)
}

/// A row: the place in a sound job that gets a value, the value, and what that gives.
struct Row {
    at: &'static str,
    value: Value,
    gives: Gives,
}

fn row(at: &'static str, value: Value, gives: Gives) -> Row {
    Row { at, value, gives }
}

fn sound() -> Value {
    json!({
        "ID": "web",
        "TaskGroups": [{"Name": "vm", "Networks": [{}], "Tasks": [{
            "Name": "vm", "Driver": "qemu",
            "Config": {"image_source": "https://images.example/web.qcow2", "checksum": "0".repeat(64)},
            "Resources": {"MemoryMB": 256},
        }]}],
    })
}

/// Puts a value at a pointer whose objects may be missing.
fn put(job: &mut Value, at: &str, value: Value) {
    let mut place = job;
    for step in at.split('/').skip(1) {
        place = match step.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[step],
        };
    }
    *place = value;
}

const G: &str = "/TaskGroups/0";

fn restart(policy: RestartWhen, attempts: u32, delay_s: u64, max_delay_s: u64) -> Restart {
    Restart { policy, attempts, delay_s, max_delay_s }
}

#[test]
fn each_key_is_done_refused_or_told() {
    for (number, Row { at, value, gives }) in rows::rows().into_iter().enumerate() {
        let mut job = sound();
        if at.ends_with("/Tasks/1") {
            let tasks = job.pointer_mut(&format!("{G}/Tasks")).and_then(Value::as_array_mut);
            tasks.unwrap().push(value.clone());
        } else {
            put(&mut job, at, value.clone());
        }
        let read = job::parse("job.json", job.to_string().as_bytes(), "acme", None);
        let row = format!("row {number}: {at} = {value}");
        match (gives, read) {
            (Is(holds), Ok(task)) => assert!(holds(&task), "{row}: {task:?}"),
            (Ignored(places), Ok(task)) => assert_eq!(task.not_looked_at, places, "{row}"),
            (Problem(place, word), Err(error)) => {
                let problem = error.problems().iter().find(|one| one.pointer == place);
                let text = problem.map(ToString::to_string).unwrap_or_default();
                assert!(text.contains(word), "{row}: {error}");
            }
            (_, read) => panic!("{row}: {read:?}"),
        }
    }
}

#[test]
fn a_tasks_policy_goes_before_its_groups() {
    let mut job = sound();
    put(&mut job, "/TaskGroups/0/RestartPolicy", json!({"Attempts": 3, "Delay": "5s"}));
    put(&mut job, "/TaskGroups/0/Tasks/0/RestartPolicy", json!({"Attempts": 5}));
    put(&mut job, "/Type", json!("batch"));
    let task = job::parse("job.json", job.to_string().as_bytes(), "acme", None).unwrap();
    assert_eq!(task.restart, restart(RestartWhen::OnFailure, 5, 5, 5));
}

#[test]
fn a_mapped_port_may_be_udp() {
    let mut job = sound();
    put(&mut job, "/TaskGroups/0/Networks/0/DynamicPorts", json!([{"Label": "a"}, {"Label": "b"}]));
    let map = json!([{"a": {"guest": 53, "protocol": "udp"}, "b": "80"}]);
    put(&mut job, "/TaskGroups/0/Tasks/0/Config/port_map", map);
    let task = job::parse("job.json", job.to_string().as_bytes(), "acme", None).unwrap();
    let ports: Vec<_> = task.asked.ports.iter().map(|port| (port.guest, port.protocol)).collect();
    assert_eq!(ports, [(53, Protocol::Udp), (80, Protocol::Tcp)]);
}

/// An agent that knows no address writes an empty one.
#[test]
fn an_empty_address_is_none() {
    let mut job = sound();
    let network = json!({"IP": "", "DynamicPorts": [{"Label": "a", "To": 80}]});
    put(&mut job, "/TaskGroups/0/Networks/0", network);
    let task = job::parse("job.json", job.to_string().as_bytes(), "acme", None).unwrap();
    assert_eq!(task.asked.ports[0].bind, None);
}
