//! Problems as `application/problem+json` (RFC 9457), with the same text, places and hints as on the command line.

use axum::{
    Json,
    extract::rejection::{BytesRejection, PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;

use qhost_engine::EngineError;
use qhost_model::{kind::Kind, printable};
use qhost_policy::Decision;

use crate::limits;

/// Why a request was not done.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Problem(Box<Details>);

/// What is said of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
struct Details {
    /// A name of the kind of problem, for programs: `urn:qhost:denied`.
    r#type: String,
    /// The status's words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What was found, and what was expected.
    detail: String,
    /// Why, each cause under the one before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// What refused it: a policy, a quota, the host's ports, the image's checksum.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_by: Option<String>,
    /// The problems of a job, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<serde_json::Value>")]
    problems: Vec<qhost_model::job::Problem>,
    /// Who said what, where policies or the host's rules refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    decision: Option<Box<Decision>>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, name: &str, detail: String) -> Self {
        Self(Box::new(Details {
            r#type: format!("urn:qhost:{name}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail,
            causes: vec![],
            hint: None,
            refused_by: None,
            problems: vec![],
            decision: None,
        }))
    }

    /// The problem of an object that is not there, or is another tenant's.
    pub(crate) fn not_found(what: &str, word: &str) -> Self {
        let word = printable::line(word, limits::SHOWN_CHARS);
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no {what} {word}"))
    }

    /// The problem of a file that cannot be read.
    pub(crate) fn unreadable(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", error.to_string())
    }

    /// The problem of a record that cannot be written down, as on a full disk; the log says why.
    pub(crate) fn unwritable(what: &str) -> Self {
        let detail = format!("{what} cannot be written down; the service's log says why");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unwritable", detail)
    }

    /// The problem's detail with its causes.
    pub(crate) fn in_a_line(&self) -> String {
        let causes = self.0.causes.iter();
        causes.fold(self.0.detail.clone(), |text, cause| format!("{text}: {cause}"))
    }

    /// The problem of a request whose caller is not known.
    pub(crate) fn unknown_caller(why: &str) -> Self {
        let hint = "an operator makes tokens: qhost token new";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", why.into()).hinting(hint)
    }

    /// The name of the problem's kind, as in `denied`.
    pub(crate) fn name(&self) -> &str {
        self.0.r#type.trim_start_matches("urn:qhost:")
    }

    pub(crate) fn invalid(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-request", detail)
    }

    /// The problem of a request that the current state forbids.
    pub(crate) fn conflict(detail: String) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// The problem of a VM whose guest never ran: its QEMU failed, or this host cannot run it.
    pub(crate) fn not_started(detail: String, cannot_run: bool) -> Self {
        let (status, kind) = if cannot_run {
            (StatusCode::SERVICE_UNAVAILABLE, Kind::HostUnable)
        } else {
            (StatusCode::CONFLICT, Kind::VmFailed)
        };
        Self::new(status, kind.name(), detail)
    }

    pub(crate) fn hinting(mut self, hint: &str) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<&EngineError> for Problem {
    fn from(error: &EngineError) -> Self {
        let status = match error.kind() {
            Kind::InvalidArgument => StatusCode::BAD_REQUEST,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::PolicyFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Unavailable => StatusCode::BAD_GATEWAY,
            Kind::HostUnable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::VmFailed | Kind::Cancelled => StatusCode::CONFLICT,
            Kind::InvalidJob | Kind::ChecksumMismatch | Kind::ImageRejected | Kind::CheckFailed => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        };
        let causes = std::iter::successors(std::error::Error::source(error), |it| it.source());
        let mut problem = Self::new(status, error.kind().name(), error.to_string());
        problem.0.causes = causes.map(ToString::to_string).collect();
        problem.0.hint = error.hint().map(Into::into);
        problem.0.refused_by = error.refused_by().map(Into::into);
        problem.0.problems = error.problems().to_vec();
        problem.0.decision = error.verdict().cloned().map(Box::new);
        problem
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self::from(&error)
    }
}

impl From<QueryRejection> for Problem {
    fn from(refused: QueryRejection) -> Self {
        Self::invalid(printable::line(&refused.body_text(), limits::SHOWN_CHARS).to_string())
    }
}

impl From<PathRejection> for Problem {
    fn from(refused: PathRejection) -> Self {
        Self::invalid(printable::line(&refused.body_text(), limits::SHOWN_CHARS).to_string())
    }
}

impl From<BytesRejection> for Problem {
    fn from(refused: BytesRejection) -> Self {
        let detail = printable::line(&refused.body_text(), limits::SHOWN_CHARS).to_string();
        Self::new(refused.status(), "invalid-body", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if response.status() == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, limits::RETRY_AFTER_S.into());
        }
        response
    }
}
