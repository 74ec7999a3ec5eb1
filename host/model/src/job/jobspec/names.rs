//! The variables and locals of a job specification. A variable has its default: qhost takes no values for variables.

use std::cell::Cell;

use hcl::{
    Map,
    edit::{
        Span,
        expr::Expression,
        structure::{Attribute, Block, Body},
    },
    eval::Context,
};
use serde_json::Value;

use super::{Lines, PRINT, functions, values::Reading};
use crate::{
    job::error::{Problem, Problems},
    limits,
};

/// The names that an expression can use.
pub(super) struct Names<'a> {
    pub(super) text: &'a str,
    pub(super) lines: &'a Lines,
    pub(super) problems: &'a Problems,
    /// Variables by name; a variable without a default is absent.
    pub(super) variables: Map<String, hcl::Value>,
    /// Locals by name; a local that could not be worked out is absent.
    pub(super) locals: Map<String, hcl::Value>,
    /// The evaluator's context, with variables, locals and functions.
    pub(super) context: Context<'static>,
    /// How many bytes of values may still be copied.
    pub(super) left: Cell<usize>,
}

impl<'a> Names<'a> {
    /// Reads the variables and locals of a file.
    pub(super) fn read(
        body: &Body,
        text: &'a str,
        lines: &'a Lines,
        problems: &'a Problems,
    ) -> Self {
        let mut names = Self {
            text,
            lines,
            problems,
            variables: Map::new(),
            locals: Map::new(),
            context: Context::new(),
            left: Cell::new(limits::JOBSPEC_COPIED_BYTES),
        };
        functions::declare(&mut names.context);
        let mut locals: Vec<&Attribute> = vec![];
        let mut known = 0;
        for block in body.blocks() {
            known += block.body.len().max(1);
            match block.ident.as_str() {
                "job" => known -= block.body.len().max(1),
                "variable" => names.variable(block),
                "variables" => {
                    for default in block.body.attributes() {
                        names.default(default.key.as_str(), &default.value);
                    }
                }
                "locals" => locals.extend(block.body.attributes()),
                _ => {
                    names.problem(block.span(), "an unknown block", "job, variable or locals", None)
                }
            }
        }
        if let Some(attribute) = body.attributes().next() {
            names.problem(attribute.span(), "an attribute", "job, variable or locals", None);
        }
        if known > limits::JOBSPEC_NAMES {
            let expected = format!("at most {}", limits::JOBSPEC_NAMES);
            names.problem(None, "more variables and locals", &expected, None);
            return names;
        }
        names.declare();
        names.work_out(locals);
        names
    }

    fn variable(&mut self, block: &Block) {
        let name = block.labels.first().map(|label| label.as_str().to_owned());
        let default = block.body.get_attribute("default");
        if let Some((name, default)) = name.zip(default) {
            self.default(&name, &default.value);
        }
    }

    fn default(&mut self, name: &str, expression: &Expression) {
        if let Some(value) = self.value(expression, "") {
            self.variables.insert(name.to_owned(), hcl_value(value));
        }
    }

    /// Works out the locals, which may refer to each other in any order.
    fn work_out(&mut self, mut waiting: Vec<&Attribute>) {
        while !waiting.is_empty() {
            let names: Vec<_> = waiting.iter().map(|local| local.key.as_str().to_owned()).collect();
            let (ready, rest): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|local| !Reading::of(self, &local.value).names_local_of(&names));
            if ready.is_empty() {
                let first = rest.first().and_then(|local| local.span());
                let expected = "locals that do not refer to themselves";
                return self.problem(
                    first,
                    "locals that refer to each other in a circle",
                    expected,
                    None,
                );
            }
            for local in ready {
                if let Some(value) = self.value(&local.value, "") {
                    self.locals.insert(local.key.as_str().to_owned(), hcl_value(value));
                }
            }
            self.declare();
            waiting = rest;
        }
    }

    fn declare(&mut self) {
        let object = |map: &Map<String, hcl::Value>| hcl::Value::Object(map.clone());
        self.context.declare_var("var", object(&self.variables));
        self.context.declare_var("local", object(&self.locals));
    }

    /// The value of an expression as JSON; absent after a problem was noted. `pointer` is the place that the value
    /// gets.
    pub(super) fn value(&self, expression: &Expression, pointer: &str) -> Option<Value> {
        Reading::of(self, expression).value(pointer)
    }

    pub(super) fn problem(
        &self,
        span: Option<std::ops::Range<usize>>,
        found: &str,
        expected: &str,
        hint: Option<&str>,
    ) {
        let position = self.lines.position(span.map_or(0, |span| span.start));
        let problem = Problem::new("", found, expected).hint(hint.unwrap_or(PRINT));
        self.problems.push(problem.at(position));
    }
}

fn hcl_value(value: Value) -> hcl::Value {
    // HCL has a value for every JSON value.
    hcl::to_value(value).unwrap_or_default()
}
