//! Turns the blocks of a job specification into the JSON that an agent has of them.

use hcl::edit::{
    Decorated, Ident, Span,
    structure::{Attribute, Block, Body, Structure},
};
use serde_json::{Map, Value};

use super::{
    Lines, Names,
    shapes::{
        JOB, NUMBERS, OPERATORS, PORT, Shape, TASK,
        What::{Alone, Free, Many, One, Port, Texts, Unread, UnreadMany},
    },
};
use crate::job::{
    cursor::{child, nearest, quoted},
    error::{Problem, Problems},
    nomad::lifetime::nanoseconds,
};

/// Turns blocks into JSON.
pub(super) struct Blocks<'a> {
    pub(super) names: &'a Names<'a>,
    pub(super) lines: &'a Lines,
    pub(super) problems: &'a Problems,
}

impl Blocks<'_> {
    /// Turns a job's block into JSON.
    pub(super) fn job(&self, block: &Block) -> Value {
        let label = self.label(block, "");
        let mut job = self.body(&JOB, &block.body, "");
        self.keep("", &block.ident);
        if let Some(label) = label {
            job.entry("ID").or_insert_with(|| label.as_str().into());
            job.entry("Name").or_insert_with(|| label.into());
        }
        Value::Object(job)
    }

    fn body(&self, shape: &Shape, body: &Body, pointer: &str) -> Map<String, Value> {
        let mut object = Map::new();
        for part in body {
            match part {
                Structure::Attribute(attribute) => {
                    self.attribute(shape, attribute, pointer, &mut object);
                }
                Structure::Block(block) => self.block(shape, block, pointer, &mut object),
            }
        }
        object
    }

    fn attribute(
        &self,
        shape: &Shape,
        attribute: &Attribute,
        pointer: &str,
        object: &mut Map<String, Value>,
    ) {
        let name = attribute.key.as_str();
        let nested = shape.blocks.iter().find(|nested| nested.name == name);
        let key = shape.attributes.iter().find(|(known, _)| *known == name).map(|(_, key)| *key);
        let is_constraint = shape.attributes.iter().any(|(_, key)| *key == "Operand");
        if let Some(key) = key {
            if let Some(value) = self.value(attribute, &child(pointer, key)) {
                object.insert(key.into(), as_an_agent_has_it(name, value));
            }
        } else if is_constraint && OPERATORS.contains(&name) {
            object.insert("Operand".into(), name.into());
            if let Some(value) = self.value(attribute, &child(pointer, "RTarget")) {
                object.insert("RTarget".into(), as_text(value));
            }
        } else {
            match nested.map(|nested| (nested.key, &nested.what)) {
                Some((key, Texts)) => {
                    if let Some(value) = self.value(attribute, &child(pointer, key)) {
                        object.insert(key.into(), as_texts(value));
                    }
                }
                Some((key, Unread)) => {
                    self.keep(&child(pointer, key), &attribute.key);
                    object.insert(key.into(), true.into());
                }
                Some((_, One(_) | Many(_) | Free | Port | UnreadMany | Alone)) => {
                    let found = format!("the attribute {name}");
                    self.problem(
                        pointer,
                        &attribute.key,
                        found,
                        &format!("a block: {name} {{ … }}"),
                    );
                }
                None => self.unknown(shape, pointer, &attribute.key, "attribute"),
            }
        }
    }

    fn block(&self, shape: &Shape, block: &Block, pointer: &str, object: &mut Map<String, Value>) {
        let name = block.ident.as_str();
        let Some(nested) = shape.blocks.iter().find(|nested| nested.name == name) else {
            return self.unknown(shape, pointer, &block.ident, "block");
        };
        let place = child(pointer, nested.key);
        match &nested.what {
            One(of) => {
                let value = self.body(of, &block.body, &place);
                self.insert(object, nested.key, &place, block, value.into());
            }
            Texts => {
                let value = self.free(&block.body, &place);
                self.insert(object, nested.key, &place, block, as_texts(value.into()));
            }
            Free => {
                let value = self.free(&block.body, &place);
                self.insert(object, nested.key, &place, block, value.into());
            }
            Unread => {
                let value = unread(&block.body);
                self.insert(object, nested.key, &place, block, value);
            }
            UnreadMany => {
                let item = unread(&block.body);
                self.push(object, nested.key, pointer, block, |_| Some(item));
            }
            Many(of) => self.push(object, nested.key, pointer, block, |place| {
                Some(self.named(of, block, place)?.into())
            }),
            Alone => self.push(object, nested.key, pointer, block, |place| {
                let task = self.named(&TASK, block, &format!("{place}/Tasks/0"))?;
                let name = task.get("Name").cloned().unwrap_or_default();
                Some(serde_json::json!({"Name": name, "Tasks": [task]}))
            }),
            Port => {
                let is_static = block.body.has_attribute("static");
                let key = if is_static { "ReservedPorts" } else { "DynamicPorts" };
                self.push(object, key, pointer, block, |place| {
                    let label = self.label(block, place)?;
                    let shape = Shape { attributes: PORT, blocks: &[] };
                    let mut port = self.body(&shape, &block.body, place);
                    port.insert("Label".into(), label.into());
                    Some(port.into())
                });
            }
        }
    }

    /// Turns a block of a list into JSON. A group and a task have their label as name; other blocks have none.
    fn named(&self, shape: &Shape, block: &Block, place: &str) -> Option<Map<String, Value>> {
        let has_name = ["group", "task"].contains(&block.ident.as_str());
        let name = if has_name { Some(self.label(block, place)?) } else { None };
        let mut object = self.body(shape, &block.body, place);
        if let Some(name) = name {
            object.insert("Name".into(), name.into());
        }
        Some(object)
    }

    /// Turns a block with keys of the tenant's choice into JSON.
    fn free(&self, body: &Body, pointer: &str) -> Map<String, Value> {
        let mut object = Map::new();
        for part in body {
            match part {
                Structure::Attribute(attribute) => {
                    let key = attribute.key.as_str();
                    if let Some(value) = self.value(attribute, &child(pointer, key)) {
                        object.insert(key.into(), value);
                    }
                }
                Structure::Block(block) => {
                    let key = block.ident.as_str();
                    let place = child(pointer, key);
                    self.keep(&place, &block.ident);
                    if !block.labels.is_empty() {
                        let found = format!("a label of {key}");
                        self.problem(&place, &block.ident, found, "a block without labels");
                    }
                    let value = Value::Object(self.free(&block.body, &place));
                    match object.get_mut(key) {
                        Some(Value::Array(several)) => several.push(value),
                        Some(one) => *one = Value::Array(vec![one.take(), value]),
                        None => {
                            object.insert(key.into(), value);
                        }
                    }
                }
            }
        }
        object
    }

    fn value(&self, attribute: &Attribute, pointer: &str) -> Option<Value> {
        self.keep(pointer, &attribute.key);
        self.names.value(&attribute.value, pointer)
    }

    fn insert(
        &self,
        object: &mut Map<String, Value>,
        key: &str,
        place: &str,
        block: &Block,
        value: Value,
    ) {
        self.keep(place, &block.ident);
        if object.insert(key.into(), value).is_some() {
            let found = format!("a second block {}", block.ident.as_str());
            self.problem(place, &block.ident, found, "one");
        }
    }

    fn push(
        &self,
        object: &mut Map<String, Value>,
        key: &str,
        pointer: &str,
        block: &Block,
        make: impl FnOnce(&str) -> Option<Value>,
    ) {
        let list = child(pointer, key);
        let number = object.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        let place = child(&list, &number.to_string());
        self.keep(&place, &block.ident);
        if number == 0 {
            self.keep(&list, &block.ident);
        }
        let Some(item) = make(&place) else { return };
        match object.entry(key).or_insert_with(|| Value::Array(vec![])) {
            Value::Array(items) => items.push(item),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => {
                self.problem(&list, &block.ident, "an attribute and a block".into(), "one of them");
            }
        }
    }

    /// Reads the one label of a block.
    fn label(&self, block: &Block, pointer: &str) -> Option<String> {
        if let [label] = block.labels.as_slice() {
            return Some(label.as_str().to_owned());
        }
        let name = block.ident.as_str();
        let found = format!("{name} with {} labels", block.labels.len());
        self.problem(pointer, &block.ident, found, &format!("{name} \"NAME\" {{ … }}"));
        None
    }

    fn unknown(&self, shape: &Shape, pointer: &str, name: &impl Named, what: &str) {
        let attributes = shape.attributes.iter().map(|(name, _)| *name);
        let known: Vec<_> =
            attributes.chain(shape.blocks.iter().map(|nested| nested.name)).collect();
        let found = format!("unknown {what} {}", quoted(name.text()));
        let problem = Problem::new(
            child(pointer, name.text()),
            found,
            format!("one of {}", known.join(", ")),
        );
        let near = nearest(name.text(), &known).filter(|_| !self.problems.are_many());
        let problem = match near {
            Some(near) => problem.hint(format!("did you mean {near}?")),
            None => problem,
        };
        self.problems.push(problem.at(self.lines.position(name.offset())));
    }

    fn problem(&self, pointer: &str, name: &impl Named, found: String, expected: &str) {
        let problem = Problem::new(pointer, found, expected);
        self.problems.push(problem.at(self.lines.position(name.offset())));
    }

    fn keep(&self, pointer: &str, name: &impl Named) {
        self.lines.keep(pointer, name.offset());
    }
}

/// A name in the text, with its place there.
trait Named {
    fn text(&self) -> &str;
    fn offset(&self) -> usize;
}

impl Named for Decorated<Ident> {
    fn text(&self) -> &str {
        self.as_str()
    }

    fn offset(&self) -> usize {
        self.span().map_or(0, |span| span.start)
    }
}

/// Turns a text into the number that an agent has: numbers written as text, and the one length of time that is compared
/// with a default.
fn as_an_agent_has_it(name: &str, value: Value) -> Value {
    let Some(text) = value.as_str() else { return value };
    let number = if NUMBERS.contains(&name) {
        text.parse::<i64>().ok().map(Value::from)
    } else if name == "interval" {
        nanoseconds(text).map(Value::from)
    } else {
        None
    };
    number.unwrap_or(value)
}

/// Turns a number into a text where a text is wanted, as HCL does.
fn as_text(value: Value) -> Value {
    match value {
        Value::Bool(value) => value.to_string().into(),
        Value::Number(value) => value.to_string().into(),
        Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => value,
    }
}

fn as_texts(value: Value) -> Value {
    match value {
        Value::Object(pairs) => {
            pairs.into_iter().map(|(key, value)| (key, as_text(value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            value
        }
    }
}

/// The keys of a block as an agent spells them, without their values.
fn unread(body: &Body) -> Value {
    let key = |part: &Structure| {
        let name = match part {
            Structure::Attribute(attribute) => attribute.key.as_str(),
            Structure::Block(block) => block.ident.as_str(),
        };
        let words = name.split('_').map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        });
        (words.collect::<String>(), Value::from(true))
    };
    body.iter().map(key).collect()
}
