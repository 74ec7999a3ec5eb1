//! `qhost decisions`: the decisions that were made, and their reasons.

use serde_json::json;

use qhost_model::printable;
use qhost_policy::{
    Actor, DecisionLog, Input, NotLaunched, Operation, OperationRecord, Outcome, Record, Recorded,
};

use super::{RunError, engine, images::ago, named_are_there, show};
use crate::{
    cli::{DecisionsArgs, Shared},
    exit::Exit,
    outcome::Shown,
};

pub(super) fn decisions(shared: &Shared, args: &DecisionsArgs) -> Exit {
    match told(shared, args) {
        Ok(exit) => exit,
        Err(error) => show::failure(shared, &error),
    }
}

fn told(shared: &Shared, args: &DecisionsArgs) -> Result<Exit, RunError> {
    named_are_there(shared)?;
    let log = engine(shared)?.decisions().folder;
    let read = qhost_policy::read_log(&log, |one| is_meant(one, args));
    let DecisionLog { records: mut found, unread } =
        read.map_err(|source| RunError::Log { path: log, source })?;
    if unread > 0 {
        tracing::warn!(
            lines = unread,
            "not all of the log of decisions is records; qhost policy replay says which is not"
        );
    }
    if let Some(id) = &args.id {
        return one(shared, found, id);
    }
    if !args.all {
        found.truncate(args.tail);
    }
    listed(shared, args, &found);
    Ok(Exit::Done)
}

/// Prints a list of decisions.
pub(super) fn listed(shared: &Shared, args: &DecisionsArgs, found: &[Recorded]) {
    if args.quiet {
        show::print(&found.iter().map(|one| format!("{}\n", one.id)).collect::<String>());
    } else if shared.json {
        show::print(&show::json(&json!({ "decisions": found })));
    } else {
        show::print(&table(found));
    }
}

/// Prints one decision.
pub(super) fn told_one(shared: &Shared, one: &Recorded) {
    show::tell(&if shared.json { show::json(one) } else { in_full(one) });
}

/// Prints the only decision whose id begins like this.
fn one(shared: &Shared, mut found: Vec<Recorded>, id: &str) -> Result<Exit, RunError> {
    let shown = printable::line(id, 80);
    match (found.pop(), found.len()) {
        (Some(only), 0) => told_one(shared, &only),
        (None, _) => {
            let none = format!("no decision's id begins with {shown}; see qhost decisions --all");
            return Err(RunError::Usage(none));
        }
        (Some(_), more) => {
            let several =
                format!("the ids of {} decisions begin with {shown}; give more of it", more + 1);
            return Err(RunError::Usage(several));
        }
    }
    Ok(Exit::Done)
}

fn is_meant(one: &Recorded, args: &DecisionsArgs) -> bool {
    let policies = &one.record.decision.policies;
    let was_asked = |name: &String| policies.iter().any(|policy| policy.name == *name);
    args.id.as_ref().is_none_or(|id| one.id.to_string().starts_with(id.as_str()))
        && args.filter.includes(&one.record)
        && args.policy.as_ref().is_none_or(was_asked)
}

/// The policy or rule that refused a task, and its reason.
fn why(one: &Recorded) -> (String, String) {
    let Record { outcome, decision, error, not_launched, .. } = &one.record;
    if let Some(NotLaunched { by, reason }) = not_launched {
        return (by.clone(), reason.clone());
    }
    if *outcome == Outcome::Allowed {
        return Default::default();
    }
    let of_policies = decision.policies.iter().filter(|one| one.refuses());
    let violations = of_policies.flat_map(|one| &one.violations).chain(&decision.host.violations);
    let said = violations.map(|violation| violation.message.clone()).next();
    let why = error.clone().or(said).unwrap_or_default();
    (decision.refused_by().join(", "), why)
}

/// The operation on a VM that was decided about, if there was one.
fn operation(one: &Recorded) -> String {
    let name = |of: &OperationRecord| format!(" {}", of.operation.name());
    one.record.operation.as_ref().map(name).unwrap_or_default()
}

fn in_full(one: &Recorded) -> String {
    let Record { outcome, input, decision, error, not_launched, masked, .. } = &one.record;
    let Input { task, time, .. } = input;
    let shown = |text: &str| printable::line(text, 300).to_string();
    let mut text = format!(
        "decision  {}\ntime      {time:.3}, {}\noutcome   {}\ntenant    {}\njob       {}\ntask      {}\nimage     {}\nchecksum  {}\n{}",
        one.id,
        ago(*time),
        outcome.name(),
        shown(&task.tenant),
        shown(&task.job),
        shown(&task.name),
        shown(&qhost_image::shown(&task.image.source)),
        task.image.checksum.digest(),
        Shown(decision),
    );
    let by = |actor: &Actor| {
        let tenant = actor.tenant.as_ref().map(|tenant| format!(", as {}", shown(tenant)));
        format!("by {}{}", shown(&actor.name), tenant.unwrap_or_default())
    };
    if let Some(actor) = &one.record.actor {
        text += &format!("asked     {}\n", by(actor));
    }
    if let Some(OperationRecord { vm, operation, actor, .. }) = &one.record.operation {
        let command = if let Operation::Exec(command) = operation {
            format!(": {}", shown(&command.join(" ")))
        } else {
            String::new()
        };
        let (name, vm) = (operation.name(), shown(vm));
        text += &format!("operation {name} of {vm}, {}{command}\n", by(actor));
    }
    if let Some(NotLaunched { by, reason }) = not_launched {
        text += &format!("refused   by {}: {}\n", shown(by), shown(reason));
    }
    if let Some(error) = error {
        text += &format!("error     {}\n", shown(error));
    }
    if !masked.is_empty() {
        text += &format!("masked    {}\n", shown(&masked.join(", ")));
    }
    text
}

fn table(found: &[Recorded]) -> String {
    let mut rows = vec![["ID", "WHEN", "OUTCOME", "TASK", "BY", "WHY"].map(str::to_owned)];
    rows.extend(found.iter().map(|one| {
        let Record { outcome, input: Input { task, time, .. }, .. } = &one.record;
        let (by, why) = why(one);
        let shown = |text: &str, most| printable::line(text, most).to_string();
        [
            one.id.to_string().chars().take(8).collect(),
            ago(*time),
            outcome.name().to_owned(),
            format!("{}/{}{}", shown(&task.tenant, 40), shown(&task.name, 40), operation(one)),
            shown(&by, 60),
            shown(&why, 200),
        ]
    }));
    show::table(&rows)
}
