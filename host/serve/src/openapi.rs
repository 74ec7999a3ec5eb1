//! The OpenAPI document (version 3.1), made from the table of routes and from the types that handlers read and give.

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use qhost_model::{digest::Sha256, name::VOLUME_PATTERN};

use crate::{
    cookie,
    operation::OperationStatus,
    problem::Problem,
    route::{Answer, Audience, Route, Takes},
    routes,
};

/// The OpenAPI document of the API.
///
/// # Example
/// ```
/// assert_eq!(qhost_serve::document()["paths"]["/v1/vms"]["get"]["operationId"], "list-vms");
/// ```
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let shapes = Shapes {
        operation: generator.subschema_for::<OperationStatus>().to_value(),
        problem: generator.subschema_for::<Problem>().to_value(),
    };
    let mut paths = Map::new();
    for route in routes::all() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            let method = route.method.as_str().to_ascii_lowercase();
            path.insert(method, shapes.of(&route, &mut generator));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "qhost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Runs tenants' virtual machines, decided by WebAssembly policies.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie::NAME},
            },
        },
    })
}

/// The schemas that all routes' answers share.
struct Shapes {
    operation: Value,
    problem: Value,
}

impl Shapes {
    fn of(&self, route: &Route, generator: &mut SchemaGenerator) -> Value {
        let mut parameters = vec![];
        for name in
            route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        {
            let schema = match name {
                "volume" => json!({"type": "string", "pattern": VOLUME_PATTERN}),
                "image" => generator.subschema_for::<Sha256>().to_value(),
                _ => json!({"type": "string", "minLength": 1}),
            };
            parameters
                .push(json!({"in": "path", "name": name, "required": true, "schema": schema}));
        }
        parameters.extend(
            route
                .query
                .map(|query| query(generator))
                .into_iter()
                .flat_map(|schema| of_query(schema.as_value())),
        );
        if route.id == "start-vm" {
            let schema = json!({"type": "string", "minLength": 1, "maxLength": 255});
            let why = "The same request sent again with the same key begins nothing new.";
            parameters.push(json!({"in": "header", "name": "Idempotency-Key", "description": why, "schema": schema}));
        }
        let mut operation = json!({
            "operationId": route.id,
            "summary": route.summary,
            "parameters": parameters,
            "responses": self.responses(route, generator),
            // The audience says who may ask.
            "x-qhost-audience": route.audience.name(),
        });
        let bytes = json!({"type": "string", "format": "binary"});
        let body = route.takes.map(|takes| match takes {
            Takes::Job => json!({
                "description": "A job: JSON in qhost's own form or as Nomad's API has it, or Nomad's HCL.",
                "required": true,
                "content": {"application/json": {"schema": {"type": "object"}}},
            }),
            Takes::Component => json!({
                "description": "A policy's component.",
                "content": {
                    "application/wasm": {"schema": bytes},
                    "application/octet-stream": {"schema": bytes},
                },
            }),
            Takes::Json(schema) => {
                let schema = schema(generator).to_value();
                json!({"required": true, "content": {"application/json": {"schema": schema}}})
            }
        });
        if let Some(operation) = operation.as_object_mut() {
            operation.extend(body.map(|body| ("requestBody".to_owned(), body)));
            if !matches!(route.audience, Audience::Connected) {
                // On the socket the connection's user is enough, so that the last alternative asks for nothing.
                let known = json!([{"token": []}, {"certificate": []}, {"session": []}, {}]);
                operation.insert("security".into(), known);
            }
        }
        operation
    }

    fn responses(&self, route: &Route, generator: &mut SchemaGenerator) -> Value {
        let content = |kind: &str, schema: &Value| json!({kind: {"schema": schema}});
        let mut content_of = |answer| match answer {
            Answer::Nothing | Answer::Socket => None,
            Answer::Picture => Some(content("image/png", &json!({"type": "string"}))),
            Answer::Json(schema) | Answer::Created(schema) => {
                Some(content("application/json", &schema(generator).to_value()))
            }
            Answer::Page(name, schema) => {
                Some(content("application/json", &page(name, schema(generator))))
            }
            Answer::Accepted => Some(content("application/json", &self.operation)),
            Answer::Text => Some(content("text/plain", &json!({"type": "string"}))),
            Answer::Metrics => {
                Some(content("application/openmetrics-text", &json!({"type": "string"})))
            }
            // The specification has no schema for the items of a stream before its version 3.2.
            Answer::Stream => Some(json!({"text/event-stream": {}})),
        };
        let mut done =
            Map::from_iter([("description".to_owned(), json!("It is done, or has begun."))]);
        done.extend(content_of(route.answer).map(|content| ("content".to_owned(), content)));
        let problem = json!({
            "description": "Why it is not done.",
            "content": content("application/problem+json", &self.problem),
        });
        json!({ route.answer.status().as_str(): done, "default": problem })
    }
}

/// A page of a list, with the id that the next page comes after.
fn page(name: &str, item: Schema) -> Value {
    let next = "What `after` takes for the next page; absent of the last one.";
    json!({
        "type": "object",
        "required": [name],
        "properties": {
            name: {"type": "array", "items": item},
            "next": {"type": "string", "description": next},
        },
    })
}

/// The parameters of a query, by the schema of its type.
fn of_query(schema: &Value) -> Vec<Value> {
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let properties = schema.get("properties").and_then(Value::as_object);
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let about = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let required = required.contains(&json!(name));
        json!({"in": "query", "name": name, "required": required, "description": about, "schema": schema})
    };
    properties.into_iter().flatten().map(parameter).collect()
}
