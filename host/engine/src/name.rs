//! Finds the VM that a word means: its id, the beginning of its id, or its task's name, which `TENANT/` may precede.
//!
//! An id is a short form of the task's name, which its tenant chooses, and random characters, which no tenant chooses. So a
//! word that has some of the random characters of a VM's id means that VM, before any whose task has the word as its name.
//! Where VMs of several tenants fit alike, the word means none of them.

use qhost_model::printable;
use qhost_sys::state::StateDir;
use qhost_vm::{Scan, VmError, VmRecord, records::RANDOM_CHARS};

use crate::limits;

/// Which VM a name means when it fits several VMs of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The only VM, or the only one that has not ended: several are an error.
    Only,
    /// The VMs that have not ended; if there are none, the latest.
    Latest,
    /// Only VMs that have not ended.
    GoingOn,
}

/// Finds the one VM that a word means.
pub(crate) fn named(
    state: &StateDir,
    scan: Scan,
    word: &str,
    pick: Pick,
) -> Result<VmRecord, VmError> {
    // A task's name may have a slash, and a tenant's may not.
    let (tenant, name) = match word.split_once('/') {
        Some((tenant, name)) => (Some(tenant), name),
        None => (None, word),
    };
    // An empty name, such as that of a shell variable that is not set, means no VM.
    let mut vms = if name.is_empty() { vec![] } else { scan.list(state) };
    vms.retain(|vm| tenant.is_none_or(|tenant| vm.tenant == tenant));
    let mut vms = fitting(vms, name);
    if are_one_tasks(&vms) {
        pick.among(&mut vms)?;
    }
    match (vms.pop(), vms.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(VmError::Unknown { name: word.to_owned() }),
        (Some(last), false) => {
            vms.push(last);
            Err(VmError::Ambiguous { name: word.to_owned(), found: shown(&vms) })
        }
    }
}

impl Pick {
    /// Leaves those of a task's VMs that a word can mean. The VMs are given with the latest first.
    fn among(self, vms: &mut Vec<VmRecord>) -> Result<(), VmError> {
        let goes_on = |vm: &VmRecord| !vm.status.state().is_final();
        match self {
            Self::Only => {}
            Self::Latest if vms.iter().any(goes_on) => vms.retain(goes_on),
            Self::Latest => {
                let latest = vms.iter().map(|vm| vm.status.since()).max().flatten();
                vms.retain(|vm| vm.status.since() == latest);
            }
            Self::GoingOn => {
                if let Some(latest) = vms.first().filter(|_| !vms.iter().any(goes_on)) {
                    let (id, state) = (latest.id.clone(), latest.status.state().name());
                    return Err(VmError::HasEnded { id, state });
                }
                vms.retain(goes_on);
            }
        }
        Ok(())
    }
}

/// Whether all are VMs of the same tenant's task.
fn are_one_tasks(vms: &[VmRecord]) -> bool {
    let of = |vm: &VmRecord| (vm.tenant.clone(), vm.job.clone(), vm.task.clone());
    vms.windows(2).all(|two| matches!(two, [one, other] if of(one) == of(other)))
}

/// How well a word fits a VM; the greater is the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Not,
    /// The id begins with the word, which ends before the random characters.
    Slug,
    /// The word is the name of the VM's task.
    Task,
    /// The id begins with the word, which has some of the random characters.
    Random,
    /// The word is the id.
    Id,
}

fn fit(vm: &VmRecord, name: &str) -> Fit {
    let begins = vm.id.starts_with(name);
    if vm.id == name {
        Fit::Id
    } else if begins && given(vm, name) > 0 {
        Fit::Random
    } else if vm.task == name {
        Fit::Task
    } else if begins {
        Fit::Slug
    } else {
        Fit::Not
    }
}

/// How many of the random characters of a VM's id a beginning of the id has.
fn given(vm: &VmRecord, beginning: &str) -> usize {
    beginning.len().saturating_sub(vm.id.len().saturating_sub(RANDOM_CHARS))
}

/// The VMs that a word fits best.
fn fitting(vms: Vec<VmRecord>, name: &str) -> Vec<VmRecord> {
    let best = vms.iter().map(|vm| fit(vm, name)).max().filter(|best| *best > Fit::Not);
    let (mut fitting, others): (Vec<_>, Vec<_>) =
        vms.into_iter().partition(|vm| Some(fit(vm, name)) == best);
    // With few random characters given, a tenant could get an id that begins with the name of another tenant's task after some launches, so
    // that such a task fits too.
    if best == Some(Fit::Random)
        && fitting.iter().all(|vm| given(vm, name) < limits::ID_CHARS_TOLD_APART)
    {
        let is_known = |tenant: &str| fitting.iter().any(|vm| vm.tenant == tenant);
        let is_claimed = |vm: &VmRecord| vm.task == name && !is_known(&vm.tenant);
        let claimed: Vec<_> = others.into_iter().filter(is_claimed).collect();
        fitting.extend(claimed);
    }
    if best == Some(Fit::Task) {
        going_on(&mut fitting);
    }
    fitting
}

/// Leaves the VM that has not ended, if all VMs are one tenant's and exactly one has not ended.
fn going_on(vms: &mut Vec<VmRecord>) {
    let goes_on = |vm: &VmRecord| !vm.status.state().is_final();
    let first = vms.first().map(|vm| vm.tenant.clone());
    let of_one = vms.iter().all(|vm| Some(&vm.tenant) == first.as_ref());
    if of_one && vms.iter().filter(|vm| goes_on(vm)).count() == 1 {
        vms.retain(goes_on);
    }
}

/// Lists VMs, a line each, as `TENANT/TASK` with the id.
fn shown(vms: &[VmRecord]) -> String {
    let line = |text: &str| printable::line(text, qhost_model::limits::SHOWN_CHARS).to_string();
    let one =
        |vm: &VmRecord| format!("\n  {}/{}  {}", line(&vm.tenant), line(&vm.task), line(&vm.id));
    let text: String = vms.iter().take(limits::SHOWN_VMS).map(one).collect();
    match vms.len().saturating_sub(limits::SHOWN_VMS) {
        0 => text,
        more => format!("{text}\n  and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qhost_model::quota::Usage;
    use qhost_vm::{State, Status, list::Takes};

    fn vm(tenant: &str, task: &str, id: &str, ended: bool) -> VmRecord {
        let mut status = Status::unknown();
        if ended {
            status.enter(State::Exited, None);
        }
        VmRecord {
            id: id.into(),
            folder: id.into(),
            task: task.into(),
            job: String::new(),
            tenant: tenant.into(),
            status,
            takes: Takes::default(),
            reserved: Usage::default(),
            operation: None,
            held: !ended,
        }
    }

    /// A pick among the VMs that a task has had.
    #[test]
    fn one_of_several_is_picked() {
        let of = |ended: &[bool]| -> Vec<VmRecord> {
            let vms = ended.iter().enumerate();
            vms.map(|(n, ended)| vm("acme", "web", &format!("web-{n}"), *ended)).collect()
        };
        for (ended, pick, expected) in [
            (&[true, true][..], Pick::Only, Ok(vec!["web-0", "web-1"])),
            (&[true, true], Pick::Latest, Ok(vec!["web-1"])),
            (&[true, true], Pick::GoingOn, Err("web-0")),
            (&[true, false, true], Pick::Latest, Ok(vec!["web-1"])),
            (&[true, false, true], Pick::GoingOn, Ok(vec!["web-1"])),
            (&[false, false], Pick::Latest, Ok(vec!["web-0", "web-1"])),
            (&[false, true, false], Pick::GoingOn, Ok(vec!["web-0", "web-2"])),
            (&[], Pick::GoingOn, Ok(vec![])),
        ] {
            let mut vms = of(ended);
            let picked = pick.among(&mut vms);
            let ids: Vec<_> = vms.iter().map(|vm| vm.id.as_str()).collect();
            match (picked, expected) {
                (Ok(()), Ok(expected)) => assert_eq!(ids, expected, "{ended:?} {pick:?}"),
                (Err(VmError::HasEnded { id, .. }), Err(expected)) => assert_eq!(id, expected),
                (picked, _) => panic!("{ended:?} {pick:?}: {picked:?}"),
            }
        }
    }

    /// The beginning of an id fits VMs of several tasks, of which none is picked.
    #[test]
    fn none_is_picked_of_several_tasks() {
        let vms = |tasks: &[&str]| -> Vec<VmRecord> {
            tasks.iter().map(|task| vm("acme", task, &format!("{task}-AAAAAAAA"), true)).collect()
        };
        assert!(are_one_tasks(&vms(&["web", "web"])) && are_one_tasks(&vms(&[])));
        assert!(!are_one_tasks(&vms(&["web", "web", "web-api"])));
    }

    /// A name means the right VM among those of acme and those of mallory, who chose names and ids to be mistaken for acme's.
    #[test]
    fn a_name_is_not_taken_over() {
        let check = |name: &str, mallorys: &[(&str, &str)], expected: &[&str]| {
            let mut vms = vec![
                vm("acme", "web", "web-AAAAAAA1", true),
                vm("acme", "web", "web-AAAAAAA2", false),
                vm("acme", "db", "db-BBBBBBBB", true),
            ];
            vms.extend(mallorys.iter().map(|(task, id)| vm("mallory", task, id, false)));
            let found = fitting(vms, name);
            assert_eq!(
                found.iter().map(|vm| vm.id.as_str()).collect::<Vec<_>>(),
                expected,
                "{name}"
            );
        };
        check("web", &[], &["web-AAAAAAA2"]);
        check("we", &[], &["web-AAAAAAA1", "web-AAAAAAA2"]);
        check("", &[], &["web-AAAAAAA1", "web-AAAAAAA2", "db-BBBBBBBB"]);
        check("none", &[], &[]);
        let both = ["web-AAAAAAA1", "web-AAAAAAA2", "web-MMMMMMMM"];
        check("web", &[("web", "web-MMMMMMMM")], &both);
        // These tasks are named like the beginning of an id, or like a whole id.
        for name in ["db-BBBB", "db-BBBBBBB", "db-BBBBBBBB"] {
            check(name, &[(name, "db-bbbb-MMMMMMMM")], &["db-BBBBBBBB"]);
        }
        // A word with so few random characters could be mallory's task by chance, so that it means both.
        check("db-B", &[("db-B", "db-b-MMMMMMMM")], &["db-BBBBBBBB", "db-b-MMMMMMMM"]);
        // Mallory's id begins like acme's task.
        check("db", &[("d", "d-bMMMMMMM")], &["db-BBBBBBBB"]);
        check("db", &[("", "dbMMMMMMM")], &["dbMMMMMMM", "db-BBBBBBBB"]);
    }

    #[test]
    fn several_are_listed_up_to_a_number() {
        let vms: Vec<_> =
            (0..40).map(|n| vm("acme", "a\u{1b}b", &format!("x-{n}"), true)).collect();
        let shown = shown(&vms);
        assert!(shown.starts_with("\n  acme/a\\u{1b}b  x-0\n"), "{shown}");
        assert!(shown.ends_with("and 24 more"), "{shown}");
    }
}
