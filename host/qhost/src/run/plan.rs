//! `qhost plan`: shows what a run would be. Downloads nothing, starts nothing.

use std::sync::Arc;

use serde::Serialize;

use qhost_engine::Plan;

use super::{RunError, Shown, context, cpu_share, engine, order, show};
use crate::{
    cli::{DecideArgs, Shared},
    exit::Exit,
    outcome::Report,
};

/// A report, and the command line that a run would use.
#[derive(Serialize)]
struct Planned {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    launch: Option<Plan>,
}

pub(super) async fn plan(shared: &Shared, args: &DecideArgs) -> Exit {
    let shown = Arc::new(Shown::new(shared, args));
    let planned = planned(shared, args, &shown).await;
    let mut report = shown.report();
    let (exit, launch) = match planned {
        Ok(launch) => (Exit::Done, Some(launch)),
        Err(error) => (report.fail(&error), None),
    };
    report.finish(exit);
    told(shared, report, launch);
    exit
}

/// Prints a report with the launch that was chosen.
pub(super) fn told(shared: &Shared, report: Report, launch: Option<Plan>) {
    if shared.json {
        return show::print(&show::json(&Planned { report, launch }));
    }
    show::report(shared, &report);
    if let (Some(launch), Some(decision)) = (launch, &report.decision) {
        show::print(&text(&launch, &decision.launch));
    }
}

async fn planned(shared: &Shared, args: &DecideArgs, shown: &Arc<Shown>) -> Result<Plan, RunError> {
    let engine = engine(shared)?;
    cpu_share::of(&engine, &args.tenant).enter_commands().map_err(RunError::Cgroup)?;
    let order = order(args, None).await?;
    Ok(engine.plan(order, &context(shown).0).await?)
}

fn text(plan: &Plan, launch: &qhost_model::launch::Launch) -> String {
    let mut text = format!("launch    {}\n", launch.line());
    for port in &launch.ports {
        let host = port.host.map_or("a free port".into(), |host| host.to_string());
        text += &format!(
            "port      {}: {}:{host} → guest {}/{}\n",
            port.label,
            port.bind,
            port.guest,
            port.protocol.name()
        );
    }
    text += if plan.image_stored {
        "image     in the store\n"
    } else {
        "image     not in the store; a run would fetch it. Its format below is a guess from its name\n"
    };
    text += &format!("digest    {}\ncage      {}\n", plan.image_digest, plan.cage.summary());
    text += &format!("command   {}", shell_words::quote(&plan.program));
    // A line begins with each option, which starts with a dash, and has the option's value.
    for argument in &plan.argv {
        text += if argument.starts_with('-') { " \\\n            " } else { " " };
        text += &shell_words::quote(argument);
    }
    text + "\n"
}
