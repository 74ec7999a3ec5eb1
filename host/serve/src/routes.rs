//! All routes in one table, from which the router and the OpenAPI document are made.

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, Request},
    http::{StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{delete, get, post, put},
};
use tokio::time;

use qhost_engine::{Decided, GuestInfo, InForce, QuotaUsage, VmDetails, Volume, replay::Replay};
use qhost_model::limits::JOB_FILE_BYTES;
use qhost_policy::Recorded;
use qhost_vm::{Stats, VmRecord};

use crate::{
    Service, console, decisions, events, guest, host, jobs, limits, metrics,
    operation::OperationStatus,
    operations, page, policies,
    problem::Problem,
    query::Page,
    route::{Answer, Route},
    session, starts, storage, vms,
};

/// All routes.
pub(crate) fn all() -> Vec<Route> {
    vec![
        Route::get("/health/live", "live", get(host::live), "Says that the service answers.")
            .answers(Answer::Nothing)
            .open(),
        Route::get(
            "/health/ready",
            "ready",
            get(host::ready),
            "Says whether VMs can be started: the policies load, and QEMU answers.",
        )
        .open(),
        Route::get("/version", "version", get(host::version), "Says which version this is.")
        .gives::<host::Version>().open(),
        Route::get("/openapi.json", "document", get(host::document), "Gives this document.")
        .gives::<serde_json::Map<String, serde_json::Value>>().open(),
        Route::get(
            "/metrics",
            "metrics",
            get(metrics::get),
            "Gives what is counted and used, as OpenMetrics text.",
        )
        .answers(Answer::Metrics)
        .for_operators(),
        Route::get("/v1/caller", "caller", get(session::caller), "Says who the caller is.")
        .gives::<session::Shown>(),
        Route::post(
            "/v1/session",
            "begin-session",
            post(session::begin).layer(DefaultBodyLimit::max(limits::SESSION_BYTES)),
            "Begins a browser's session: its token is kept in a cookie.",
        )
        .of_json::<session::Login>()
        .open(),
        Route::delete(
            "/v1/session",
            "end-session",
            delete(session::end),
            "Ends a browser's session.",
        )
        .open(),
        Route::get("/v1/host", "host", get(host::get), "Says what QEMU and this host can do.")
        .gives::<host::Host>(),
        Route::get(
            "/v1/policies",
            "policies",
            get(policies::list),
            "Lists the policies, with what they said and cost since the service began.",
        )
        .gives::<policies::Policies>()
        .for_operators(),
        Route::post(
            "/v1/replay",
            "replay",
            post(policies::replay).layer(DefaultBodyLimit::max(limits::COMPONENT_BYTES)),
            "Makes the latest decisions again, by today's policies or with another component, and says what differs.",
        )
        .gives::<Replay>()
        .of_component()
        .asks::<policies::Again>()
        .for_operators(),
        Route::get(
            "/v1/configuration",
            "configuration",
            get(policies::in_force),
            "Says which configuration is in force.",
        )
        .gives::<InForce>()
        .for_operators(),
        Route::post(
            "/v1/configuration/try",
            "try-configuration",
            post(policies::attempt),
            "Makes the latest decisions again by the configuration on disk, which stays out of force.",
        )
        .gives::<Replay>()
        .asks::<policies::Latest>()
        .for_operators(),
        Route::post(
            "/v1/configuration/reload",
            "reload-configuration",
            post(policies::reload),
            "Takes the configuration on disk over, after it was tried on the latest decisions.",
        )
        .gives::<InForce>()
        .for_operators(),
        Route::post(
            "/v1/configuration/step-back",
            "step-back",
            post(policies::step_back),
            "Goes back to the configuration before.",
        )
        .gives::<InForce>()
        .for_operators(),
        Route::get("/v1/vms", "list-vms", get(vms::list), "Lists VMs, the latest first.")
        .lists::<VmRecord>("vms")
            .asks::<vms::Filter>(),
        Route::post("/v1/vms", "start-vm", post(starts::start), "Starts the VM of a job.")
            .of_job()
            .asks::<starts::Start>()
            .answers(Answer::Accepted),
        Route::get("/v1/vms/{vm}", "get-vm", get(vms::get), "Says all about a VM.")
        .gives::<VmDetails>(),
        Route::delete(
            "/v1/vms/{vm}",
            "remove-vm",
            delete(vms::remove),
            "Removes what is kept of an ended VM.",
        ),
        Route::post(
            "/v1/vms/{vm}/stop",
            "stop-vm",
            post(vms::stop),
            "Presses the guest's power button, and makes QEMU quit if that does not help in time.",
        )
        .asks::<vms::Grace>()
        .answers(Answer::Accepted),
        Route::post("/v1/vms/{vm}/kill", "kill-vm", post(vms::kill), "Kills QEMU.")
            .answers(Answer::Accepted),
        Route::post(
            "/v1/vms/{vm}/restart",
            "restart-vm",
            post(vms::restart),
            "Ends a VM that runs, and starts it again; one that has ended is decided again first.",
        )
        .asks::<vms::Grace>()
        .answers(Answer::Accepted),
        Route::post("/v1/vms/{vm}/pause", "pause-vm", post(vms::pause), "Pauses the guest.")
            .answers(Answer::Nothing),
        Route::post(
            "/v1/vms/{vm}/resume",
            "resume-vm",
            post(vms::resume),
            "Lets a paused guest go on.",
        ),
        Route::get(
            "/v1/vms/{vm}/wait",
            "wait-vm",
            get(vms::wait),
            "Waits until a VM runs, is ready or has ended, or the time is over; then says how it is doing.",
        )
        .asks::<vms::Wait>()
        .gives::<VmRecord>(),
        Route::get(
            "/v1/vms/{vm}/guest",
            "guest",
            get(guest::info),
            "Says what a guest's agent says of it; null where it has none.",
        )
        .gives::<Option<GuestInfo>>(),
        Route::get("/v1/vms/{vm}/stats", "vm-stats", get(vms::stats), "Says what a VM uses.")
        .gives::<Stats>(),
        Route::get(
            "/v1/vms/{vm}/logs",
            "vm-logs",
            get(vms::logs),
            "Gives the end of a console's log, the guest's bytes.",
        )
        .asks::<vms::Tail>()
        .answers(Answer::Text),
        Route::get(
            "/v1/vms/{vm}/console",
            "follow-console",
            get(events::console),
            "Tells what a console has said and says, until the VM's end: items with `bytes`, in Base64.",
        )
        .asks::<events::From>()
        .answers(Answer::Stream),
        Route::post(
            "/v1/vms/{vm}/console/ticket",
            "console-ticket",
            post(console::ticket),
            "Gives a ticket by which its caller attaches to a console, once, within a minute.",
        )
        .creates::<console::Given>(),
        Route::get(
            "/v1/vms/{vm}/console/attach",
            "attach-console",
            get(console::attach),
            "Attaches to a console by a WebSocket: what comes is what the guest says, what is sent is typed.",
        )
        .asks::<console::Attach>()
        .answers(Answer::Socket),
        Route::post(
            "/v1/vms/{vm}/exec",
            "exec",
            post(guest::exec),
            "Runs a command in a guest by its agent, and waits for its end.",
        )
        .gives::<guest::Ran>()
        .of_json::<guest::Command>(),
        Route::post(
            "/v1/vms/{vm}/screenshot",
            "screenshot",
            post(guest::screenshot),
            "Takes a picture of a guest's display.",
        )
        .answers(Answer::Picture),
        Route::get(
            "/v1/events",
            "follow-events",
            get(events::all),
            "Tells what has happened to VMs, as far as it is kept, and what happens.",
        )
        .asks::<events::Filter>()
        .answers(Answer::Stream),
        Route::get(
            "/v1/operations",
            "list-operations",
            get(operations::list),
            "Lists operations, the latest first.",
        )
        .lists::<OperationStatus>("operations")
        .asks::<Page>(),
        Route::get(
            "/v1/operations/{operation}",
            "get-operation",
            get(operations::get),
            "Says how far an operation is.",
        )
        .gives::<OperationStatus>(),
        Route::delete(
            "/v1/operations/{operation}",
            "cancel-operation",
            delete(operations::cancel),
            "Gives an operation up. A VM that runs already goes on.",
        )
        .answers(Answer::Accepted),
        Route::get(
            "/v1/operations/{operation}/wait",
            "wait-operation",
            get(operations::wait),
            "Waits until an operation is over, or the time is.",
        )
        .asks::<operations::Wait>()
        .gives::<OperationStatus>(),
        Route::get(
            "/v1/operations/{operation}/events",
            "follow-operation",
            get(events::operation),
            "Tells an operation's status, and each change of it, until it is over.",
        )
        .answers(Answer::Stream),
        Route::get("/v1/volumes", "list-volumes", get(storage::volumes), "Lists volumes.")
        .lists::<Volume>("volumes")
            .asks::<storage::Filter>(),
        Route::put(
            "/v1/volumes/{volume}",
            "create-volume",
            put(storage::create_volume),
            "Makes an empty volume.",
        )
        .asks::<storage::Sized>()
        .creates::<Volume>(),
        Route::delete(
            "/v1/volumes/{volume}",
            "remove-volume",
            delete(storage::remove_volume),
            "Removes a volume that no VM has.",
        )
        .asks::<storage::Of>(),
        Route::post(
            "/v1/volumes/{volume}/resize",
            "resize-volume",
            post(storage::resize_volume),
            "Makes a volume larger that no VM has.",
        )
        .gives::<Volume>()
        .asks::<storage::Sized>(),
        Route::post(
            "/v1/volumes/{volume}/copy",
            "copy-volume",
            post(storage::copy_volume),
            "Copies a volume. Where a running VM has it, its guest's file systems are frozen meanwhile.",
        )
        .asks::<storage::Copied>()
        .answers(Answer::Accepted),
        Route::get("/v1/images", "list-images", get(storage::images), "Lists stored images.")
        .lists::<storage::Image>("images")
            .asks::<storage::Filter>(),
        Route::post(
            "/v1/images",
            "fetch-image",
            post(storage::fetch_image),
            "Fetches an image into the store, without a VM.",
        )
        .of_json::<storage::Wanted>()
        .answers(Answer::Accepted)
        .for_operators(),
        Route::delete(
            "/v1/images/{image}",
            "remove-image",
            delete(storage::remove_image),
            "Removes a stored image that nothing uses, by its SHA-256.",
        )
        .for_operators(),
        Route::get(
            "/v1/quotas",
            "list-quotas",
            get(storage::quotas),
            "Says what tenants take of this host, and what they may take.",
        )
        .lists::<QuotaUsage>("quotas")
        .asks::<storage::Filter>(),
        Route::post(
            "/v1/jobs/validate",
            "validate-job",
            post(jobs::validate),
            "Says what a job is understood as.",
        )
        .gives::<jobs::Understood>()
        .of_job(),
        Route::post(
            "/v1/jobs/plan",
            "plan-job",
            post(jobs::plan),
            "Decides about a job, and says what it would be run as. Starts nothing.",
        )
        .gives::<jobs::Planned>()
        .of_job(),
        Route::post(
            "/v1/decide",
            "decide",
            post(jobs::decide),
            "Says what the policies decide about a job. Records nothing and starts nothing.",
        )
        .gives::<Decided>()
        .of_job(),
        Route::get(
            "/v1/decisions",
            "list-decisions",
            get(decisions::list),
            "Lists recorded decisions, the latest first.",
        )
        .lists::<Recorded>("decisions")
        .asks::<decisions::Filter>(),
        Route::get(
            "/v1/decisions/{decision}",
            "get-decision",
            get(decisions::get),
            "Gives the record of a decision, by the beginning of its id.",
        )
        .gives::<Recorded>(),
    ]
}

/// The router of all routes.
pub(crate) fn router(service: Service) -> Router {
    let routes = all()
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.path, route.handler));
    let not_found = || async {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-route",
            "there is no such path; /openapi.json has all".into(),
        )
    };
    let not_allowed = || async {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "no-such-method",
            "the path has other methods; /openapi.json has all".into(),
        )
    };
    routes
        .route("/", get(page::index))
        .route("/assets/{file}", get(page::asset))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn(read))
        .layer(from_fn(bounded))
        .layer(from_fn_with_state(service.clone(), metrics::counted))
        .layer(DefaultBodyLimit::max(JOB_FILE_BYTES as usize))
        .with_state(service)
}

/// Reads a small body before the request is looked at. Over HTTP/2, a refusal before the body is read resets the stream, which some clients
/// take for an answer that did not come.
async fn read(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_none_or(|length: usize| length > limits::BODY_READ) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match time::timeout(limits::HEAD, to_bytes(body, limits::BODY_READ)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) | Err(_) => {
            let detail = "the body did not come".into();
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", detail).into_response()
        }
    }
}

/// Ends a request that takes too long; the work that it began goes on by itself.
async fn bounded(request: Request, next: Next) -> Response {
    let late = || {
        let detail = format!("it took longer than {} s", limits::REQUEST.as_secs());
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-slow", detail).into_response()
    };
    time::timeout(limits::REQUEST, next.run(request)).await.unwrap_or_else(|_| late())
}
