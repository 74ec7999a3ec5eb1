//! The places of a job specification's parts in its text.

use std::{cell::RefCell, collections::BTreeMap};

use crate::{
    job::error::{Position, Problem},
    limits,
};

/// The lines of a text, and the places of its parts.
pub(in crate::job) struct Lines {
    /// The text, in which characters are counted.
    text: String,
    /// The offset of each line, in bytes.
    begins: Vec<usize>,
    /// Offsets in bytes by JSON pointer.
    places: RefCell<BTreeMap<String, usize>>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let begins = text.match_indices('\n').map(|(at, _)| at + 1);
        let begins = std::iter::once(0).chain(begins).collect();
        Self { text: text.to_owned(), begins, places: RefCell::default() }
    }

    /// The line and column of an offset in bytes.
    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.begins.partition_point(|begin| *begin <= offset);
        let begin = line.checked_sub(1).and_then(|line| self.begins.get(line)).copied();
        let before = self.text.get(begin.unwrap_or_default()..offset).unwrap_or_default();
        Position { line, column: before.chars().count() + 1 }
    }

    /// Keeps the place of the value at a JSON pointer. A long pointer is not kept, and its parent's place stands for
    /// it.
    pub(super) fn keep(&self, pointer: &str, offset: usize) {
        if pointer.len() <= limits::JOBSPEC_POINTER_BYTES {
            self.places.borrow_mut().insert(pointer.to_owned(), offset);
        }
    }

    /// The place of a JSON pointer, or of the nearest pointer around it.
    fn of_pointer(&self, pointer: &str) -> Option<Position> {
        let places = self.places.borrow();
        let mut pointer = pointer;
        loop {
            if let Some(offset) = places.get(pointer) {
                return Some(self.position(*offset));
            }
            pointer = pointer.rsplit_once('/')?.0;
        }
    }

    /// Adds its place to a problem.
    pub(in crate::job) fn place(&self, problem: &mut Problem) {
        problem.position = problem.position.or_else(|| self.of_pointer(&problem.pointer));
    }

    /// Adds the line of its place to a JSON pointer.
    pub(in crate::job) fn add_to(&self, pointer: &mut String) {
        if let Some(position) = self.of_pointer(pointer) {
            *pointer += &format!(" (line {})", position.line);
        }
    }
}
