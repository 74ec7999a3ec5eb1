//! Reads Nomad's job JSON, as Nomad's CLI and API give it: `{"Job": {…}}`, with the other keys of a request to an agent beside it, or the
//! inner object alone. A job specification in HCL becomes the same value before it comes here.
//!
//! [`keys`] says what becomes of each key.

pub(super) mod keys;
mod artifact;
mod constraints;
mod environment;
pub(super) mod lifetime;
mod network;
mod ignored;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    Task,
    block::{Form, TaskBlock},
    config,
    cursor::{Cursor, Object, asks_nothing, quoted},
    own,
};
use crate::{launch::Asked, limits};

use environment::Names;
use ignored::Ignored;
use lifetime::JobType;

pub(super) fn read(root: Cursor<'_>, tenant: &str, select: Option<&str>) -> Option<Task> {
    let job = match root.value().get("Job") {
        Some(_) => root.object(&keys::REQUEST.names())?.required("Job", "a Nomad job")?,
        None => root,
    };
    let job = job.object(&keys::JOB.names())?;
    let name =
        job.required("ID", "the job's ID").and_then(|id| id.text(limits::NAME_BYTES, "an ID"));
    let groups = job
        .required("TaskGroups", "the job's task groups")
        .and_then(|groups| groups.array(limits::NOMAD_ITEMS, "task groups"))?;
    let candidates = candidates(groups);
    let candidate = chosen(&job, candidates, select);
    check_start(&job);
    let task = candidate.and_then(|candidate| candidate.read(&job, tenant));
    let name = match job.optional("Name") {
        Some(given) => given.text(limits::NAME_BYTES, "a name"),
        None => name,
    };
    Some(Task { job: name?.to_owned(), ..task? })
}

/// Notes a problem where Nomad would not start the job when it gets it.
fn check_start(job: &Object<'_>) {
    keys::JOB.refuse(job);
    let is = |key: &str| job.optional(key).is_some_and(|value| value.value() == true);
    if let Some(stop) = job.optional("Stop").filter(|_| is("Stop")) {
        stop.refuse_with_hint::<()>(
            "false",
            "this job was stopped; to run it all the same, leave Stop out",
        );
    }
    if let Some(parameterized) = job.optional("ParameterizedJob").filter(|_| !is("Dispatched")) {
        parameterized.refuse_with_hint::<()>(
            "a job that runs as it stands",
            "a parameterized job runs once it is dispatched; write the values into the job, and leave this out",
        );
    }
    if let Some(periodic) = job.optional("Periodic")
        && periodic.value().get("Enabled").is_none_or(|enabled| enabled != false)
    {
        periodic.refuse_with_hint::<()>(
            "a job that runs when it is started",
            "qhost run starts it once, now: call that from a timer of systemd's, and leave periodic out",
        );
    }
}

/// A qemu task and its group.
struct Candidate<'a> {
    group: Object<'a>,
    group_name: &'a str,
    task: Object<'a>,
    name: &'a str,
}

/// Finds every qemu task. Tasks of other drivers are not qhost's to judge, so nothing but their driver is read.
fn candidates(groups: Vec<Cursor<'_>>) -> Vec<Candidate<'_>> {
    let name_of = |object: &Object<'_>| object.required("Name", "a name").is_some();
    let mut found = vec![];
    for group_cursor in groups {
        let Some(group) = group_cursor.clone().object(&keys::GROUP.names()) else { continue };
        let tasks = group
            .required("Tasks", "the group's tasks")
            .and_then(|tasks| tasks.array(limits::NOMAD_ITEMS, "tasks"));
        if !name_of(&group) {
            continue;
        }
        for task in tasks.into_iter().flatten() {
            let driver = task.value().get("Driver").and_then(|driver| driver.as_str());
            if driver.is_some_and(|driver| driver != "qemu") {
                continue;
            }
            let Some(task) = task.object(&keys::TASK.names()) else { continue };
            let driver = task.required("Driver", "\"qemu\"");
            let names = group
                .optional("Name")
                .and_then(|name| name.text(limits::NAME_BYTES, "a name"))
                .zip(task.required("Name", "a name"));
            let Some((group_name, name)) = names else { continue };
            let Some(name) = name.text(limits::NAME_BYTES, "a name") else { continue };
            if driver.and_then(|driver| driver.word(&["qemu"], |d| d)).is_none() {
                continue;
            }
            let Some(group) = group_cursor.clone().any_object("a task group") else { continue };
            found.push(Candidate { group, group_name, task, name });
        }
    }
    found
}

/// Gives the one qemu task, or the selected one.
fn chosen<'a>(
    job: &Object<'a>,
    mut candidates: Vec<Candidate<'a>>,
    select: Option<&str>,
) -> Option<Candidate<'a>> {
    let all: Vec<_> =
        candidates.iter().map(|c| quoted(&format!("{}/{}", c.group_name, c.name))).collect();
    if let Some(select) = select {
        candidates.retain(|c| c.name == select || format!("{}/{}", c.group_name, c.name) == select);
    }
    let tasks = job.optional("TaskGroups")?;
    if candidates.is_empty()
        && let Some(driver) = virt(&tasks)
    {
        return driver.refuse_with_hint("\"qemu\"", own::VIRT_HINT);
    }
    match (candidates.len(), select) {
        (1, _) => candidates.pop(),
        (0, None) => tasks.fault("no qemu task", "a task with Driver \"qemu\""),
        (0, Some(select)) => tasks.fault(
            format!("no qemu task {}", quoted(select)),
            match all.as_slice() {
                [] => "a task with Driver \"qemu\"".into(),
                all => format!("one of {}", all.join(", ")),
            },
        ),
        (_, _) => tasks.fault(
            format!("several qemu tasks: {}", all.join(", ")),
            "--task TASK or --task GROUP/TASK, the one to run",
        ),
    }
}

/// The driver of the first task for libvirt.
fn virt<'a>(groups: &Cursor<'a>) -> Option<Cursor<'a>> {
    let groups = groups.clone().array(limits::NOMAD_ITEMS, "task groups")?;
    let tasks = groups.into_iter().filter_map(|group| {
        let tasks = group.any_object("a task group")?.optional("Tasks")?;
        tasks.array(limits::NOMAD_ITEMS, "tasks")
    });
    let drivers = tasks.flatten().filter_map(|task| task.any_object("a task")?.optional("Driver"));
    drivers.into_iter().find(|driver| driver.value().as_str() == Some(own::VIRT))
}

/// The job's name, or else its ID, where they are texts.
fn job_name<'a>(job: &Object<'a>) -> &'a str {
    let name = job.optional("Name").or_else(|| job.optional("ID"));
    name.and_then(|name| name.value().as_str()).unwrap_or_default()
}

impl<'a> Candidate<'a> {
    /// Reads the task, but for the job's name.
    fn read(&self, job: &Object<'a>, tenant: &str) -> Option<Task> {
        let ignored = Ignored::new();
        ignored.keys(job, &keys::JOB);
        ignored.keys(&self.group, &keys::GROUP);
        ignored.keys(&self.task, &keys::TASK);
        keys::TASK.refuse(&self.task);
        self.check_group(&ignored);
        for object in [job, &self.group, &self.task] {
            constraints::check(object, &ignored);
        }
        lifetime::check_kill_signal(&self.task);
        let grace_s = lifetime::grace_s(&self.task);
        let restart = JobType::of(job)
            .and_then(|kind| lifetime::restart(kind, &self.group, &self.task, &ignored));
        let resources = self.task.required("Resources", "the task's resources");
        let resources = resources.and_then(|resources| resources.object(&keys::RESOURCES.names()));
        if let Some(resources) = &resources {
            keys::RESOURCES.refuse(resources);
            ignored.keys(resources, &keys::RESOURCES);
        }
        let declared = network::declared(&self.task, &self.group, resources.as_ref(), &ignored);
        let config = self.task.required("Config", "the task's config");
        let config = config.and_then(config::of_nomad);
        let mut meta = Some(BTreeMap::new());
        for object in [job, &self.group, &self.task] {
            let Some(block) = object.optional("Meta") else { continue };
            let block = block.any_object("an object of strings").and_then(|meta| own::meta(&meta));
            meta = meta.zip(block).map(|(outer, inner)| outer.into_iter().chain(inner).collect());
        }
        let image = config.as_ref().map(|config| artifact::image(&self.task, config));
        let files = config.as_ref().zip(meta.as_ref()).and_then(|(config, meta)| {
            let names = Names { job: job_name(job), group: self.group_name, task: self.name };
            environment::files(&self.task, config, &names, meta, &ignored)
        });
        let block = TaskBlock { form: Form::Nomad, config, resources, declared, grace_s, files };
        let asked = Asked::read(&block);
        let config = block.config.as_ref().zip(image);
        let options = config.map(|(config, image)| config::read(config, image, asked.as_ref()));
        let (config, restart) = (options?, restart?);
        let own_restart = config.restart?;
        Some(Task {
            tenant: tenant.to_owned(),
            job: String::new(),
            name: self.name.to_owned(),
            image: config.image?,
            asked: asked?,
            restart: own_restart.or(restart).unwrap_or_default(),
            ready: config.ready?,
            args: config.args,
            meta: meta?,
            not_looked_at: ignored.into_vec(),
        })
    }

    /// Notes what the group asks for besides this task.
    fn check_group(&self, ignored: &Ignored) {
        if let Some(count) = self.group.optional("Count") {
            match count.value().as_u64() {
                Some(1) => {}
                Some(2..) => ignored.note(&count),
                Some(0) | None => {
                    count.refuse_with_hint::<()>(
                        "1: a run starts one VM",
                        "of a count of 0 Nomad starts none; to run one all the same, leave count out",
                    );
                }
            }
        }
        for object in [&self.group, &self.task] {
            check_services(object, ignored);
        }
        let tasks = self
            .group
            .optional("Tasks")
            .and_then(|tasks| tasks.array(limits::NOMAD_ITEMS, "tasks"));
        for task in tasks.into_iter().flatten() {
            if task.pointer() != self.task.here().pointer() {
                ignored.note(&task);
            }
        }
    }
}

/// Notes services, which only Nomad registers, and refuses a mesh, which would change a guest's traffic.
fn check_services(object: &Object<'_>, ignored: &Ignored) {
    let Some(services) = object.optional("Services").filter(|all| !asks_nothing(all.value()))
    else {
        return;
    };
    ignored.note(&services);
    for service in services.array(limits::NOMAD_ITEMS, "services").into_iter().flatten() {
        if let Some(service) = service.any_object("a service") {
            service.unsupported(
                &["Connect"],
                "qhost runs no proxy of a service mesh; forward a port instead, and leave connect out",
            );
        }
    }
}
