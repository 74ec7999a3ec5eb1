//! Finds what an expression of a job specification refers to before it is evaluated: the evaluator has no bounds of its own, and knows no
//! places in the text.

use std::ops::Range;

use hcl::edit::{
    Span,
    expr::{Expression, Traversal, TraversalOperator},
    template::Directive,
    visit::{self, Visit},
};

use super::functions;
use crate::{job::cursor::quoted, limits};

/// A name in an expression.
pub(super) struct Reference {
    /// The reference's first part; `var` and `local` are known here.
    pub(super) root: String,
    /// The reference's second part.
    pub(super) name: Option<String>,
    pub(super) span: Range<usize>,
}

/// An expression that is not worked out here.
pub(super) struct Unfit {
    pub(super) span: Range<usize>,
    pub(super) found: String,
    pub(super) expected: &'static str,
}

/// The names that an expression uses.
#[derive(Default)]
pub(super) struct References {
    pub(super) all: Vec<Reference>,
    /// The first part that is not worked out here.
    pub(super) unfit: Option<Unfit>,
}

impl References {
    pub(super) fn by(expression: &Expression) -> Self {
        let mut references = Self::default();
        references.visit_expr(expression);
        references
    }

    fn unfit(&mut self, span: Option<Range<usize>>, found: String, expected: &'static str) {
        self.unfit.get_or_insert(Unfit { span: span.unwrap_or_default(), found, expected });
    }
}

impl Visit for References {
    fn visit_expr(&mut self, expression: &Expression) {
        let span = expression.span();
        match expression {
            Expression::Variable(name) => {
                self.note(name.as_str(), None, span);
            }
            Expression::ForExpr(_) => {
                self.unfit(span, "a for expression".into(), "values written out");
            }
            Expression::Traversal(traversal) => self.traversal(traversal, span),
            Expression::FuncCall(call) => {
                let name = call.name.name.as_str();
                if !call.name.namespace.is_empty() || !functions::NAMES.contains(&name) {
                    let found = format!("the function {}", quoted(name));
                    self.unfit(span, found, functions::KNOWN);
                }
                visit::visit_expr(self, expression);
            }
            Expression::Null(_)
            | Expression::Bool(_)
            | Expression::Number(_)
            | Expression::String(_)
            | Expression::Array(_)
            | Expression::Object(_)
            | Expression::StringTemplate(_)
            | Expression::HeredocTemplate(_)
            | Expression::Parenthesis(_)
            | Expression::Conditional(_)
            | Expression::UnaryOp(_)
            | Expression::BinaryOp(_) => visit::visit_expr(self, expression),
        }
    }

    fn visit_directive(&mut self, directive: &Directive) {
        self.unfit(directive.span(), "a directive %{…}".into(), "a text written out");
    }
}

impl References {
    fn note(&mut self, root: &str, name: Option<String>, span: Option<Range<usize>>) {
        let (root, span) = (root.to_owned(), span.unwrap_or_default());
        self.all.push(Reference { root, name, span });
    }

    fn traversal(&mut self, traversal: &Traversal, span: Option<Range<usize>>) {
        let operators = &traversal.operators;
        let is_splat = |operator: &TraversalOperator| {
            matches!(operator, TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_))
        };
        if operators.len() > limits::JOBSPEC_STEPS || operators.iter().any(|one| is_splat(one)) {
            self.unfit(
                span.clone(),
                "a long reference, or one with *".into(),
                "values written out",
            );
        }
        let Some(root) = root(traversal) else {
            return visit::visit_traversal(self, traversal);
        };
        let name = operators.first().and_then(|first| match first.value() {
            TraversalOperator::GetAttr(name) => Some(name.as_str().to_owned()),
            TraversalOperator::Index(index) => index.as_str().map(str::to_owned),
            TraversalOperator::AttrSplat(_)
            | TraversalOperator::FullSplat(_)
            | TraversalOperator::LegacyIndex(_) => None,
        });
        self.note(root, name, span);
        for operator in operators {
            visit::visit_traversal_operator(self, operator);
        }
    }
}

/// The name that a reference begins with.
pub(super) fn root(traversal: &Traversal) -> Option<&str> {
    traversal.expr.as_variable().map(|name| name.as_str())
}
