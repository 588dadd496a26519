//! What became of each part of what was given: a table for people.

use std::fmt::Write;

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it was converted.
    pub outcome: Outcome,
    /// The object: kind, namespace and name.
    pub object: String,
    /// The field, or nothing for the whole.
    pub field: String,
    /// Into what, or why not and what to do.
    pub text: String,
}

/// Whether a part was converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It means the same as before.
    Converted,
    /// It is not needed any more.
    Dropped,
    /// It has to be seen to by hand.
    Left,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Converted => "converted",
            Self::Dropped => "dropped",
            Self::Left => "NOT CONVERTED",
        }
    }
}

/// The notices of one run, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Notices(pub(super) Vec<Notice>);

impl Notices {
    pub(super) fn converted(&mut self, object: &str, field: &str, text: impl Into<String>) {
        self.add(Outcome::Converted, object, field, text.into());
    }

    pub(super) fn dropped(&mut self, object: &str, field: &str, text: impl Into<String>) {
        self.add(Outcome::Dropped, object, field, text.into());
    }

    pub(super) fn left(&mut self, object: &str, field: &str, text: impl Into<String>) {
        self.add(Outcome::Left, object, field, text.into());
    }

    fn add(&mut self, outcome: Outcome, object: &str, field: &str, text: String) {
        let notice = Notice {
            outcome,
            object: object.to_owned(),
            field: field.to_owned(),
            text,
        };
        if !self.0.contains(&notice) {
            self.0.push(notice);
        }
    }
}

/// Notices as a table.
#[must_use]
pub fn table(notices: &[Notice]) -> String {
    let rows: Vec<[&str; 4]> = notices
        .iter()
        .map(|it| [it.outcome.word(), &*it.object, &*it.field, &*it.text])
        .collect();
    let head = ["RESULT", "OBJECT", "FIELD", "WHAT"];
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].len());
        cells.max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for cells in [&head].into_iter().chain(&rows) {
        for (cell, width) in cells.iter().zip(widths) {
            let _infallible = write!(text, "{cell:width$}  ");
        }
        let _infallible = writeln!(text, "{}", cells[3]);
    }
    text
}
