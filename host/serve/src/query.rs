//! Readers of a request's path, query and body, with errors as problems.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use qhost_model::printable;

use crate::{limits, problem::Problem};

/// The query, whose parameters are the fields of `T`.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(query) = Query::from_request_parts(parts, state).await?;
        Ok(Self(query))
    }
}

/// The part of the path that names an object.
pub(crate) struct Named(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::from_request_parts(parts, state).await?;
        Ok(Self(name))
    }
}

/// The body's bytes.
pub(crate) struct Raw(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Ok(Self(Bytes::from_request(request, state).await?))
    }
}

/// The body as a JSON object.
pub(crate) struct Object<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Object<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Raw(body) = Raw::from_request(request, state).await?;
        let object = serde_json::from_slice(&body).map_err(|error| {
            let error = printable::line(&error.to_string(), limits::SHOWN_CHARS).to_string();
            Problem::invalid(format!("the body: {error}"))
        });
        Ok(Self(object?))
    }
}

/// Reads a parameter as a time.
pub(crate) fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let time = text.map(str::parse::<Timestamp>).transpose();
    time.map_err(|_| {
        Problem::invalid(format!("{name}: expected a time, as in 2026-11-30T22:00:00Z"))
    })
}

/// Which items of a list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// At most so many items: from 1 to 1000, 100 unless it is given.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) limit: Option<usize>,
    /// The id of the last item of the page before.
    pub(crate) after: Option<String>,
}

impl Page {
    /// A page of a list of items in their order, under the list's name, with the id that the next page comes after.
    pub(crate) fn of(
        &self,
        name: &str,
        items: impl Iterator<Item = (String, Value)>,
    ) -> Result<Value, Problem> {
        let limit = self.limit.unwrap_or(limits::PAGE);
        if !(1..=limits::PAGE_MOST).contains(&limit) {
            let most = limits::PAGE_MOST;
            return Err(Problem::invalid(format!(
                "limit: {limit}; expected a number from 1 to {most}"
            )));
        }
        let mut items = items.peekable();
        if let Some(after) = &self.after {
            let found = items.by_ref().any(|(id, _)| id == *after);
            if !found {
                return Err(Problem::invalid(
                    "after: there is no such item in the list any more".into(),
                ));
            }
        }
        let page: Vec<_> = items.by_ref().take(limit).collect();
        let next = items.peek().and_then(|_| page.last().map(|(id, _)| id.clone()));
        let page: Vec<_> = page.into_iter().map(|(_, item)| item).collect();
        let mut answer = Map::from_iter([(name.to_owned(), Value::Array(page))]);
        answer.extend(next.map(|next| ("next".to_owned(), json!(next))));
        Ok(Value::Object(answer))
    }
}
