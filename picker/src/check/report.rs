//! What was found, as a table for people or JSON for scripts.

use std::collections::BTreeMap;
use std::fmt::Write;

use picker_core::diagnosis::{Finding, Severity};
use serde::Serialize;

use crate::manifest::Place;

/// All that was found, and what could not be looked at.
#[derive(Debug, Serialize)]
pub struct Report {
    findings: Vec<Told>,
    /// What could not be told, and why.
    unchecked: Vec<String>,
    errors: usize,
    warnings: usize,
    /// Objects that were looked at, by kind.
    objects: BTreeMap<String, usize>,
}

/// One finding, with where its object stands.
#[derive(Debug, Serialize)]
struct Told {
    severity: Severity,
    reason: String,
    object: Object,
    field: String,
    message: String,
    fix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Object {
    kind: String,
    namespace: String,
    name: String,
}

impl Report {
    pub(super) fn new(
        findings: Vec<Finding>,
        places: &BTreeMap<String, Place>,
        unchecked: Vec<String>,
        objects: BTreeMap<String, usize>,
    ) -> Self {
        let mut told: Vec<Told> = findings
            .into_iter()
            .map(|finding| {
                let place = places.get(&finding.object);
                Told {
                    severity: finding.reason.severity(),
                    reason: finding.reason.word(),
                    object: Object::of(&finding.object),
                    field: finding.field,
                    message: finding.text,
                    fix: finding.fix,
                    file: place.map(|it| it.file.to_string()),
                    document: place.map(|it| it.document),
                }
            })
            .collect();
        told.sort_by_key(|it| it.severity);
        let errors = told.iter().filter(|it| it.severity == Severity::Error);
        let errors = errors.count();
        Self {
            errors,
            warnings: told.len() - errors,
            findings: told,
            unchecked,
            objects,
        }
    }

    /// Whether anything is wrong that is more than a warning.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// The report as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("a report has no keys but strings") + "\n"
    }

    /// The report as a table, and after it each finding with its fix.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let rows: Vec<[String; 5]> = self.findings.iter().enumerate().map(row).collect();
        let head = ["#", "SEVERITY", "OBJECT", "FIELD", "REASON"].map(str::to_owned);
        let width = |column: usize| {
            let cells = rows.iter().chain([&head]).map(|row| row[column].len());
            cells.max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2), width(3)];
        if !rows.is_empty() {
            for cells in [&head].into_iter().chain(&rows) {
                for (cell, width) in cells.iter().zip(widths) {
                    push(&mut text, format_args!("{cell:width$}  "));
                }
                push(&mut text, format_args!("{}\n", cells[4]));
            }
            text.push('\n');
        }
        for (index, finding) in self.findings.iter().enumerate() {
            finding.tell(index + 1, &mut text);
        }
        self.summary(&mut text);
        text
    }

    fn summary(&self, text: &mut String) {
        let count = |number: usize, one: &str| match number {
            1 => format!("1 {one}"),
            _ => format!("{number} {one}s"),
        };
        let objects = self
            .objects
            .iter()
            .map(|(kind, number)| count(*number, kind));
        let objects: Vec<_> = objects.collect();
        let looked = if objects.is_empty() {
            "nothing that pools or routes depend on".to_owned()
        } else {
            objects.join(", ")
        };
        push(
            text,
            format_args!(
                "{}, {}. Looked at: {looked}.\n",
                count(self.errors, "error"),
                count(self.warnings, "warning"),
            ),
        );
        if !self.unchecked.is_empty() {
            text.push_str("Could not be told:\n");
        }
        for one in &self.unchecked {
            push(text, format_args!("- {one}\n"));
        }
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _infallible = text.write_fmt(arguments);
}

fn row((index, finding): (usize, &Told)) -> [String; 5] {
    [
        (index + 1).to_string(),
        finding.severity.word().to_owned(),
        finding.object.title(),
        finding.field.clone(),
        finding.reason.clone(),
    ]
}

impl Told {
    fn tell(&self, number: usize, text: &mut String) {
        let title = self.object.title();
        push(text, format_args!("{number}. {title}: {}.\n", self.message));
        if let (Some(file), Some(document)) = (&self.file, self.document) {
            push(text, format_args!("   ({file}, document {document})\n"));
        }
        text.push('\n');
        for line in self.fix.lines() {
            push(text, format_args!("       {line}\n"));
        }
        text.push('\n');
    }
}

impl Object {
    fn of(title: &str) -> Self {
        let (kind, key) = title.split_once(' ').unwrap_or(("", title));
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn title(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }
}
