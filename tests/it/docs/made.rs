//! The parts of pages that are made from the code: tables between `<!-- generated: NAME -->` and `<!-- end -->`.

use std::{collections::BTreeSet, fs};

use qhost_engine::config::Config;
use qhost_model::{
    job::{self, NOMAD_OBJECTS, Treatment},
    launch::FIELDS,
};
use qhost_tests::{root, succeed};
use serde_json::Value;

/// Fills all tables of a page from the code.
pub(super) fn filled(page: &str) -> String {
    let mut parts = page.split("<!-- generated: ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, after) = part.split_once(" -->").expect("a name");
        let (_, rest) = after.split_once("<!-- end -->").expect("an end");
        text += &format!("<!-- generated: {name} -->\n{}<!-- end -->{rest}", table(name));
    }
    text
}

fn table(name: &str) -> String {
    match name {
        "exit codes" => exit_codes(),
        "job keys" => job_keys(),
        "nomad keys" => nomad_keys(),
        "launch fields" => launch_fields(),
        "configuration keys" => configuration_keys(),
        "fail points" => fail_points(),
        "api routes" => api_routes(),
        name => panic!("no table {name:?}"),
    }
}

fn exit_codes() -> String {
    let rows = qhost::exit::Exit::ALL;
    let rows = rows.map(|(exit, meaning)| format!("| {} | {meaning} |\n", exit.code()));
    format!("| code | meaning |\n|---|---|\n{}", rows.concat())
}

/// A description in one line of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn job_keys() -> String {
    let schema = job::schema();
    let config = &schema["$defs"]["config"];
    let required = config["required"].as_array().expect("a list");
    let keys = config["properties"].as_object().expect("an object");
    let rows = keys.iter().map(|(key, value)| {
        let must = if required.contains(&key.as_str().into()) { "yes" } else { "" };
        let text = value["description"].as_str().expect("each key has a description");
        format!("| `{key}` | {must} | {} |\n", cell(text))
    });
    format!("| key | required | meaning |\n|---|---|---|\n{}", rows.collect::<String>())
}

fn api_routes() -> String {
    let document = qhost_serve::document();
    let paths = document["paths"].as_object().expect("paths");
    let of_path = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        methods.iter().map(move |(method, route)| {
            let who = match route["x-qhost-audience"].as_str() {
                Some("connected") => "all",
                Some("tenants") => "tenants, of what is theirs",
                Some(other) => other,
                None => panic!("{method} {path} has no audience"),
            };
            let summary = route["summary"].as_str().expect("a summary");
            format!("| `{} {path}` | {who} | {summary} |\n", method.to_uppercase())
        })
    });
    format!("| request | who | what |\n|---|---|---|\n{}", of_path.collect::<String>())
}

fn nomad_keys() -> String {
    let rows = NOMAD_OBJECTS.map(|object| {
        let listed = |wanted: fn(Treatment) -> bool| {
            let keys: Vec<_> = object.which(wanted).iter().map(|key| format!("`{key}`")).collect();
            keys.join(", ")
        };
        let read = listed(|what| what == Treatment::Read);
        let refused = listed(|what| matches!(what, Treatment::Refused(_)));
        let told = listed(|what| what == Treatment::Ignored);
        format!("| {} | {read} | {refused} | {told} |\n", object.of)
    });
    let head = "| of a | done, or refused for its value | refused | named as not looked at |\n|---|---|---|---|\n";
    head.to_owned() + &rows.concat()
}

fn launch_fields() -> String {
    let rows = FIELDS.iter().map(|field| {
        let keys: BTreeSet<_> = field.keys.iter().map(|key| format!("`{}`", key.name)).collect();
        let keys = keys.into_iter().collect::<Vec<_>>().join(", ");
        format!("| `{}` | {keys} | {} | {} |\n", field.name, field.contract, field.tighter)
    });
    let head =
        "| field | job keys | in the contract | a tenant's policy may |\n|---|---|---|---|\n";
    head.to_owned() + &rows.collect::<String>()
}

fn configuration_keys() -> String {
    let schema = Config::schema();
    let mut rows = String::new();
    keys_of(&schema, &schema, "", &mut rows);
    format!("| key | default | meaning |\n|---|---|---|\n{rows}")
}

/// The schema that a schema refers to, if it does, even if the value may be absent.
fn referred<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let either = schema["anyOf"].as_array().into_iter().flatten();
    let reference = either.chain([schema]).find_map(|one| one["$ref"].as_str());
    reference.map_or(schema, |name| &root["$defs"][name.trim_start_matches("#/$defs/")])
}

fn keys_of(root: &Value, schema: &Value, path: &str, rows: &mut String) {
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let target = referred(root, value);
        let path = format!("{path}{key}");
        let named = referred(root, &target["additionalProperties"]);
        if named["properties"].is_object() {
            keys_of(root, named, &format!("{path}.NAME."), rows);
            continue;
        }
        if target["properties"].is_object() {
            keys_of(root, target, &format!("{path}."), rows);
            continue;
        }
        let text = value["description"].as_str().or(target["description"].as_str());
        let default = match &value["default"] {
            Value::Null => String::new(),
            default => format!("`{default}`"),
        };
        *rows += &format!("| `{path}` | {default} | {} |\n", cell(text.unwrap_or_default()));
    }
}

/// Where `failpoint::reach` is called, by the names of the points.
fn fail_points() -> String {
    let host = root().join("host");
    let listed = succeed("git", &["-C", host.to_str().expect("UTF-8"), "ls-files", "*.rs"]);
    let mut rows = BTreeSet::new();
    for file in listed.lines() {
        let text = fs::read_to_string(host.join(file)).unwrap_or_default();
        for after in text.split("failpoint::reach(\"").skip(1) {
            let (name, _) = after.split_once('"').expect("a name");
            rows.insert(format!("| `{name}` | `host/{file}` |\n"));
        }
    }
    format!("| point | reached in |\n|---|---|\n{}", rows.into_iter().collect::<String>())
}
