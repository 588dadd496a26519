//! What a checker found: where, and what is wrong with it.

use std::fmt;

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// The file, from the top of the repository.
    pub(crate) path: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is wrong, and what to do about it.
    pub(crate) fault: String,
}

impl Finding {
    /// A finding at a line of a file.
    pub(crate) fn new(path: &str, line: usize, fault: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            fault: fault.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.fault)
    }
}

/// Fails with every finding, sorted by place.
///
/// # Panics
///
/// When there is a finding: that is how a rule fails its test.
pub(crate) fn report(mut findings: Vec<Finding>) {
    findings.sort();
    let list: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(
        list.is_empty(),
        "{} found:\n{}\n",
        list.len(),
        list.join("\n")
    );
}
