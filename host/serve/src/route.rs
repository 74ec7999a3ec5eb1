//! One route of the API: its method and path, what it takes, and its answer.

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
    /// A name for programs that are generated from the OpenAPI document.
    pub(crate) id: &'static str,
    /// What the route does, in a sentence.
    pub(crate) summary: &'static str,
    /// Who may ask.
    pub(crate) audience: Audience,
    /// The parameters of the query.
    pub(crate) query: Option<SchemaOf>,
    /// The kind of the body; none if the route takes no body.
    pub(crate) takes: Option<Takes>,
    /// The answer of a request that succeeds.
    pub(crate) answer: Answer,
    pub(crate) handler: MethodRouter<Service>,
}

/// Who may ask.
#[derive(Clone, Copy)]
pub(crate) enum Audience {
    /// Every connection.
    Connected,
    /// Operators, and tenants for what is theirs.
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

/// The kind of a request's body.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    /// A job.
    Job,
    /// A component's bytes.
    Component,
    /// An object.
    Json(SchemaOf),
}

/// The schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The answer of a request that succeeds.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// Nothing.
    Nothing,
    /// An object.
    Json(SchemaOf),
    /// A page of a list of objects, by the list's name.
    Page(&'static str, SchemaOf),
    /// An operation that was accepted.
    Accepted,
    /// Text.
    Text,
    /// OpenMetrics text.
    Metrics,
    /// Server-sent events.
    Stream,
    /// An object that is new.
    Created(SchemaOf),
    /// A picture, in PNG.
    Picture,
    /// A WebSocket.
    Socket,
}

impl Answer {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Nothing => StatusCode::NO_CONTENT,
            Self::Json(_)
            | Self::Page(..)
            | Self::Text
            | Self::Metrics
            | Self::Stream
            | Self::Picture => StatusCode::OK,
            Self::Socket => StatusCode::SWITCHING_PROTOCOLS,
            Self::Accepted => StatusCode::ACCEPTED,
            Self::Created(_) => StatusCode::CREATED,
        }
    }
}

fn subschema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
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
            answer: Answer::Nothing,
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

    /// Answers an object.
    pub(crate) fn gives<T: JsonSchema>(self) -> Self {
        self.answers(Answer::Json(subschema::<T>))
    }

    /// Answers an object that is new.
    pub(crate) fn creates<T: JsonSchema>(self) -> Self {
        self.answers(Answer::Created(subschema::<T>))
    }

    /// Answers a page of a list, by the list's name.
    pub(crate) fn lists<T: JsonSchema>(self, name: &'static str) -> Self {
        self.answers(Answer::Page(name, subschema::<T>))
    }

    pub(crate) fn asks<T: JsonSchema>(self) -> Self {
        Self { query: Some(T::json_schema), ..self }
    }

    /// Takes a job as the body.
    pub(crate) fn of_job(self) -> Self {
        Self { takes: Some(Takes::Job), ..self }.asks::<vms::Of>()
    }

    /// Takes a component as the body, which may be absent.
    pub(crate) fn of_component(self) -> Self {
        Self { takes: Some(Takes::Component), ..self }
    }

    /// Takes an object as the body.
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
