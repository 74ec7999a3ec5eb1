//! All routes, one table: the router is made from it, and so is the OpenAPI document.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{Method, StatusCode},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use tokio::time;

use qhost_model::limits::JOB_FILE_BYTES;

use crate::{
    Service, decisions, events, host, jobs, limits, metrics,
    operations::{self, OperationStatus},
    problem::Problem,
    query::Page,
    storage, vms,
};

/// One route.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// A name for programs that are made from the document.
    pub(crate) id: &'static str,
    /// What it does, in a sentence.
    pub(crate) summary: &'static str,
    /// Who may ask.
    pub(crate) audience: Audience,
    /// The parameters of its query.
    pub(crate) query: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// Whether its body is a job.
    pub(crate) takes_job: bool,
    /// What comes where it is done.
    pub(crate) answer: Answer,
    handler: MethodRouter<Service>,
}

/// Who may ask.
#[derive(Clone, Copy)]
pub(crate) enum Audience {
    /// Every connection to the socket.
    Connected,
    /// Operators, and tenants of what is theirs.
    Tenants,
    /// Operators.
    Operators,
}

impl Audience {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Tenants => "tenants",
            Self::Operators => "operators",
        }
    }
}

/// What comes where a request is done.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// Nothing.
    Nothing,
    /// An object.
    Json,
    /// An operation as it is now.
    Operation,
    /// An operation that was accepted.
    Accepted,
    /// Text.
    Text,
    /// Server-sent events.
    Stream,
    /// An object that is new.
    Created,
}

impl Answer {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Nothing => StatusCode::NO_CONTENT,
            Self::Json | Self::Operation | Self::Text | Self::Stream => StatusCode::OK,
            Self::Accepted => StatusCode::ACCEPTED,
            Self::Created => StatusCode::CREATED,
        }
    }
}

fn query<T: JsonSchema>() -> Option<fn(&mut SchemaGenerator) -> Schema> {
    Some(T::json_schema)
}

impl Route {
    fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self {
            method,
            path,
            id,
            summary,
            audience: Audience::Tenants,
            query: None,
            takes_job: false,
            answer: Answer::Json,
            handler,
        }
    }

    fn get(
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self::new(Method::GET, path, id, handler, summary)
    }

    fn post(
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self::new(Method::POST, path, id, handler, summary)
    }

    fn put(
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self::new(Method::PUT, path, id, handler, summary)
    }

    fn delete(
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self::new(Method::DELETE, path, id, handler, summary)
    }

    fn answers(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }

    fn asks<T: JsonSchema>(self) -> Self {
        Self { query: query::<T>(), ..self }
    }

    /// Of a job in its body.
    fn of_job(self) -> Self {
        Self { takes_job: true, ..self }.asks::<vms::Of>()
    }

    fn open(self) -> Self {
        Self { audience: Audience::Connected, ..self }
    }

    fn for_operators(self) -> Self {
        Self { audience: Audience::Operators, ..self }
    }
}

/// All of them.
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
        .answers(Answer::Nothing)
        .open(),
        Route::get("/version", "version", get(host::version), "Says which version this is.").open(),
        Route::get("/openapi.json", "document", get(host::document), "Gives this document.").open(),
        Route::get(
            "/metrics",
            "metrics",
            get(metrics::get),
            "Gives what is counted and used, as OpenMetrics text.",
        )
        .answers(Answer::Text)
        .for_operators(),
        Route::get("/v1/host", "host", get(host::get), "Says what QEMU and this host can do."),
        Route::get(
            "/v1/policies",
            "policies",
            get(host::policies),
            "Lists the policies with their digests.",
        )
        .for_operators(),
        Route::get("/v1/vms", "list-vms", get(vms::list), "Lists VMs, the latest first.")
            .asks::<vms::Filter>(),
        Route::post("/v1/vms", "start-vm", post(vms::start), "Starts the VM of a job.")
            .of_job()
            .answers(Answer::Accepted),
        Route::get("/v1/vms/{vm}", "get-vm", get(vms::get), "Says all about a VM."),
        Route::delete(
            "/v1/vms/{vm}",
            "remove-vm",
            delete(vms::remove),
            "Removes what is kept of an ended VM.",
        )
        .answers(Answer::Nothing),
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
            "Ends a VM that runs, and starts it again.",
        )
        .answers(Answer::Accepted),
        Route::post("/v1/vms/{vm}/pause", "pause-vm", post(vms::pause), "Pauses the guest.")
            .answers(Answer::Nothing),
        Route::post(
            "/v1/vms/{vm}/resume",
            "resume-vm",
            post(vms::resume),
            "Lets a paused guest go on.",
        )
        .answers(Answer::Nothing),
        Route::get("/v1/vms/{vm}/stats", "vm-stats", get(vms::stats), "Says what a VM uses."),
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
        .asks::<Page>(),
        Route::get(
            "/v1/operations/{operation}",
            "get-operation",
            get(operations::get),
            "Says how far an operation is.",
        )
        .answers(Answer::Operation),
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
        .answers(Answer::Operation),
        Route::get(
            "/v1/operations/{operation}/events",
            "follow-operation",
            get(events::operation),
            "Tells an operation's status, and each change of it, until it is over.",
        )
        .answers(Answer::Stream),
        Route::get("/v1/volumes", "list-volumes", get(storage::volumes), "Lists volumes.")
            .asks::<storage::Filter>(),
        Route::put(
            "/v1/volumes/{volume}",
            "create-volume",
            put(storage::create_volume),
            "Makes an empty volume.",
        )
        .asks::<storage::Sized>()
        .answers(Answer::Created),
        Route::delete(
            "/v1/volumes/{volume}",
            "remove-volume",
            delete(storage::remove_volume),
            "Removes a volume that no VM has.",
        )
        .asks::<storage::Of>()
        .answers(Answer::Nothing),
        Route::post(
            "/v1/volumes/{volume}/resize",
            "resize-volume",
            post(storage::resize_volume),
            "Makes a volume larger that no VM has.",
        )
        .asks::<storage::Sized>(),
        Route::get("/v1/images", "list-images", get(storage::images), "Lists stored images.")
            .asks::<storage::Filter>(),
        Route::get(
            "/v1/quotas",
            "list-quotas",
            get(storage::quotas),
            "Says what tenants take of this host, and what they may take.",
        )
        .asks::<storage::Filter>(),
        Route::post(
            "/v1/jobs/validate",
            "validate-job",
            post(jobs::validate),
            "Says what a job is understood as.",
        )
        .of_job(),
        Route::post(
            "/v1/jobs/plan",
            "plan-job",
            post(jobs::plan),
            "Decides about a job, and says what it would be run as. Starts nothing.",
        )
        .of_job(),
        Route::post(
            "/v1/decide",
            "decide",
            post(jobs::decide),
            "Says what the policies decide about a job. Records nothing and starts nothing.",
        )
        .of_job(),
        Route::get(
            "/v1/decisions",
            "list-decisions",
            get(decisions::list),
            "Lists recorded decisions, the latest first.",
        )
        .asks::<decisions::Filter>(),
        Route::get(
            "/v1/decisions/{decision}",
            "get-decision",
            get(decisions::get),
            "Gives the record of a decision, by the beginning of its id.",
        ),
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
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn(bounded))
        .layer(from_fn_with_state(service.clone(), metrics::counted))
        .layer(DefaultBodyLimit::max(JOB_FILE_BYTES as usize))
        .with_state(service)
}

/// Ends a request that takes too long; what it has begun goes on by itself.
async fn bounded(request: Request, next: Next) -> Response {
    let late = || {
        let detail = format!("it took longer than {} s", limits::REQUEST.as_secs());
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-slow", detail).into_response()
    };
    time::timeout(limits::REQUEST, next.run(request)).await.unwrap_or_else(|_| late())
}

/// Types that the document names.
pub(crate) fn named(generator: &mut SchemaGenerator) -> [(&'static str, Schema); 2] {
    let operation = generator.subschema_for::<OperationStatus>();
    let problem = generator.subschema_for::<Problem>();
    [("operation", operation), ("problem", problem)]
}
