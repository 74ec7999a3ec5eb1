//! One route of the API: what it is asked by, what it takes, and what comes of it.

use axum::{
    http::{Method, StatusCode},
    routing::MethodRouter,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::{Service, vms};

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
    /// What its body is; absent: it has none.
    pub(crate) takes: Option<Takes>,
    /// What comes where it is done.
    pub(crate) answer: Answer,
    pub(crate) handler: MethodRouter<Service>,
}

/// Who may ask.
#[derive(Clone, Copy)]
pub(crate) enum Audience {
    /// Every connection.
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

/// What a request's body is.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    /// A job.
    Job,
    /// A component's bytes.
    Component,
    /// An object.
    Json(fn(&mut SchemaGenerator) -> Schema),
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
    /// A picture, in PNG.
    Picture,
    /// A WebSocket.
    Socket,
}

impl Answer {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Nothing => StatusCode::NO_CONTENT,
            Self::Json | Self::Operation | Self::Text | Self::Stream | Self::Picture => {
                StatusCode::OK
            }
            Self::Socket => StatusCode::SWITCHING_PROTOCOLS,
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
            takes: None,
            answer: Answer::Json,
            handler,
        }
    }

    pub(crate) fn get(
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self::new(Method::GET, path, id, handler, summary)
    }

    pub(crate) fn post(
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self::new(Method::POST, path, id, handler, summary)
    }

    pub(crate) fn put(
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self::new(Method::PUT, path, id, handler, summary)
    }

    pub(crate) fn delete(
        path: &'static str,
        id: &'static str,
        handler: MethodRouter<Service>,
        summary: &'static str,
    ) -> Self {
        Self::new(Method::DELETE, path, id, handler, summary)
    }

    pub(crate) fn answers(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }

    pub(crate) fn asks<T: JsonSchema>(self) -> Self {
        Self { query: query::<T>(), ..self }
    }

    /// Of a job in its body.
    pub(crate) fn of_job(self) -> Self {
        Self { takes: Some(Takes::Job), ..self }.asks::<vms::Of>()
    }

    /// Of a component in its body, where there is one.
    pub(crate) fn of_component(self) -> Self {
        Self { takes: Some(Takes::Component), ..self }
    }

    /// Of an object in its body.
    pub(crate) fn of_json<T: JsonSchema>(self) -> Self {
        Self { takes: Some(Takes::Json(T::json_schema)), ..self }
    }

    pub(crate) fn open(self) -> Self {
        Self { audience: Audience::Connected, ..self }
    }

    pub(crate) fn for_operators(self) -> Self {
        Self { audience: Audience::Operators, ..self }
    }
}
