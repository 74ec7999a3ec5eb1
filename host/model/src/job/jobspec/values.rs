//! The values of a job specification's expressions: literals, variables, locals and some functions. A part that needs an agent stays a text
//! with `${…}` in it, as Nomad's own command leaves it; a part that needs a file or a loop is a problem.

use hcl::{
    edit::{
        Span,
        expr::{Expression, Object, ObjectKey},
        template::{Element, Interpolation, Strip, Template},
    },
    eval::Evaluate as _,
};
use serde_json::{Map, Value};

use super::{
    Names, PRINT,
    references::{Reference, References, Unfit, root},
};
use crate::{
    job::{
        cursor::{child, quoted},
        error::Problem,
    },
    limits,
};

/// An expression that is being read.
pub(super) struct Reading<'n, 'e> {
    names: &'n Names<'n>,
    expression: &'e Expression,
}

impl<'n, 'e> Reading<'n, 'e> {
    pub(super) fn of(names: &'n Names<'n>, expression: &'e Expression) -> Self {
        Self { names, expression }
    }

    /// Whether the expression refers to one of these locals.
    pub(super) fn names_local_of(&self, locals: &[String]) -> bool {
        References::by(self.expression).all.iter().any(|Reference { root, name, span: _ }| {
            root == "local" && name.as_ref().is_some_and(|name| locals.contains(name))
        })
    }

    /// The expression's value; absent after a problem was noted.
    pub(super) fn value(&self, pointer: &str) -> Option<Value> {
        match self.expression {
            Expression::Null(_) => Some(Value::Null),
            Expression::Bool(value) => Some((*value.value()).into()),
            Expression::Number(number) => serde_json::to_value(number.value()).ok(),
            Expression::String(text) => Some(text.value().as_str().into()),
            Expression::Parenthesis(inner) => self.within(inner.inner()).value(pointer),
            Expression::StringTemplate(template) => self.template(template, pointer),
            Expression::HeredocTemplate(heredoc) => self.template(&heredoc.template, pointer),
            Expression::Array(items) => {
                let items = items.iter().enumerate().map(|(number, item)| {
                    let place = child(pointer, &number.to_string());
                    self.keep(&place, item);
                    self.within(item).value(&place)
                });
                // All items are read before the result is made, so that the problems of all are reported.
                let items: Vec<_> = items.collect();
                items.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
            }
            Expression::Object(object) => self.object(object, pointer),
            Expression::Variable(_)
            | Expression::FuncCall(_)
            | Expression::Traversal(_)
            | Expression::Conditional(_)
            | Expression::UnaryOp(_)
            | Expression::BinaryOp(_)
            | Expression::ForExpr(_) => self.evaluated(pointer),
        }
    }

    fn within<'i>(&self, expression: &'i Expression) -> Reading<'n, 'i> {
        Reading { names: self.names, expression }
    }

    fn object(&self, object: &Object, pointer: &str) -> Option<Value> {
        let mut map = Map::new();
        let mut is_whole = true;
        for (key, value) in object {
            let name = match key {
                ObjectKey::Ident(name) => Some(name.as_str().to_owned()),
                ObjectKey::Expression(key) => match self.within(key).value(pointer) {
                    Some(key) => text_of(&key).or_else(|| {
                        self.problem(pointer, object.span(), "a key that is no text", "a text")
                    }),
                    None => None,
                },
            };
            let Some(name) = name else {
                is_whole = false;
                continue;
            };
            let place = child(pointer, &name);
            self.keep(&place, value.expr());
            match self.within(value.expr()).value(&place) {
                Some(value) => {
                    map.insert(name, value);
                }
                None => is_whole = false,
            }
        }
        is_whole.then_some(Value::Object(map))
    }

    fn template(&self, template: &Template, pointer: &str) -> Option<Value> {
        if let Some(Element::Interpolation(only)) = template.get(0)
            && template.len() == 1
        {
            return self.interpolated(only, pointer);
        }
        let mut text = String::new();
        for element in template {
            match element {
                Element::Literal(literal) => text += literal,
                Element::Interpolation(interpolation) => {
                    if interpolation.strip != Strip::None {
                        return self.problem(
                            pointer,
                            element.span(),
                            "a text with ~",
                            "a text without it",
                        );
                    }
                    let value = self.interpolated(interpolation, pointer)?;
                    let Some(value) = text_of(&value) else {
                        return self.problem(
                            pointer,
                            element.span(),
                            "a list or an object in a text",
                            "a text or a number",
                        );
                    };
                    text += &value;
                }
                Element::Directive(_) => {
                    return self.problem(
                        pointer,
                        element.span(),
                        "a directive %{…}",
                        "a text written out",
                    );
                }
            }
        }
        Some(text.into())
    }

    /// The value of `${…}`. A part that an agent fills in when it starts a task stays as it is.
    fn interpolated(&self, interpolation: &Interpolation, pointer: &str) -> Option<Value> {
        let name = interpolation.expr.as_variable().map(|name| name.as_str());
        let root = name.or_else(|| interpolation.expr.as_traversal().and_then(root));
        if root.is_some_and(|root| !["var", "local"].contains(&root)) {
            return interpolation
                .span()
                .and_then(|span| self.names.text.get(span))
                .map(Value::from);
        }
        self.within(&interpolation.expr).value(pointer)
    }

    /// The value of an expression that is more than a literal.
    fn evaluated(&self, pointer: &str) -> Option<Value> {
        let references = References::by(self.expression);
        if let Some(Unfit { span, found, expected }) = references.unfit {
            return self.problem(pointer, Some(span), &found, expected);
        }
        let mut copied = 0;
        for reference in references.all {
            copied += self.known(reference, pointer)?;
        }
        let Some(left) = self.names.left.get().checked_sub(copied) else {
            let expected = format!("at most {} bytes of them in all", limits::JOBSPEC_COPIED_BYTES);
            let span = self.expression.span();
            return self.problem(
                pointer,
                span,
                "values of variables and locals without end",
                &expected,
            );
        };
        self.names.left.set(left);
        let expression = hcl::Expression::from(self.expression.clone());
        match expression.evaluate(&self.names.context) {
            Ok(value) => serde_json::to_value(value).ok(),
            Err(error) => {
                let found = format!("an expression without a value: {}", error.kind());
                let found = crate::printable::line(&found, limits::SHOWN_CHARS * 2).to_string();
                self.problem(pointer, self.expression.span(), &found, "a value")
            }
        }
    }

    /// Checks a reference, and gives how many bytes are copied to look it up: those of all variables, or of all locals.
    fn known(&self, reference: Reference, pointer: &str) -> Option<usize> {
        let Reference { root, name, span } = reference;
        let (known, expected) = match root.as_str() {
            "var" => (
                &self.names.variables,
                "a variable with a default: qhost takes no values for variables",
            ),
            "local" => (&self.names.locals, "a local of this file"),
            _ => {
                let found = format!("the name {}", quoted(&root));
                let expected = "var.NAME, local.NAME, or a text in quotes";
                return self.problem(pointer, Some(span), &found, expected);
            }
        };
        let name = name.unwrap_or_default();
        if !known.contains_key(&name) {
            let found = format!("{}, which has no value here", quoted(&format!("{root}.{name}")));
            return self.problem(pointer, Some(span), &found, expected);
        }
        Some(known.values().map(size).sum())
    }

    fn keep(&self, pointer: &str, at: &impl Span) {
        if let Some(span) = at.span() {
            self.names.lines.keep(pointer, span.start);
        }
    }

    fn problem<T>(
        &self,
        pointer: &str,
        span: Option<std::ops::Range<usize>>,
        found: &str,
        expected: &str,
    ) -> Option<T> {
        let offset = span.or_else(|| self.expression.span()).map_or(0, |span| span.start);
        let problem = Problem::new(pointer, found, expected).hint(PRINT);
        self.names.problems.push(problem.at(self.names.lines.position(offset)));
        None
    }
}

/// A value as part of a text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// About how many bytes a value has.
fn size(value: &hcl::Value) -> usize {
    match value {
        hcl::Value::Null | hcl::Value::Bool(_) | hcl::Value::Number(_) => 16,
        hcl::Value::String(text) => 16 + text.len(),
        hcl::Value::Array(items) => 16 + items.iter().map(size).sum::<usize>(),
        hcl::Value::Object(map) => {
            16 + map.iter().map(|(key, value)| 32 + key.len() + size(value)).sum::<usize>()
        }
    }
}
