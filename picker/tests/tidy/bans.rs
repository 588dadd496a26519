//! Words that may not be written: sequences of code in sources, marks in any file.

use crate::finding::Finding;
use crate::rules::Rules;
use crate::tokens;

/// Finds banned sequences of code; comments and strings are not code.
pub(crate) fn check_code(rules: &Rules, path: &str, text: &str) -> Vec<Finding> {
    let tokens = tokens::of_source(path, text);
    let mut findings = Vec::new();
    for ban in rules.calls.iter().filter(|ban| ban.applies_to(path)) {
        for word in &ban.words {
            let pattern = tokens::of_pattern(word);
            for window in tokens.windows(pattern.len()) {
                if window
                    .iter()
                    .zip(&pattern)
                    .all(|(token, wanted)| token.text == *wanted)
                {
                    findings.push(Finding::new(
                        path,
                        window[0].line,
                        fault(word, &ban.instead),
                    ));
                }
            }
        }
    }
    // One finding a line: several bans may cover the same call.
    findings.sort_by_key(|finding| finding.line);
    findings.dedup_by_key(|finding| finding.line);
    findings
}

/// Finds banned marks, in comments and strings too, where no letter or digit stands beside them.
pub(crate) fn check_marks(rules: &Rules, path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ban in rules.marks.iter().filter(|ban| ban.applies_to(path)) {
        for (number, line) in text.lines().enumerate() {
            for word in ban.words.iter().filter(|word| has_word(line, word)) {
                findings.push(Finding::new(path, number + 1, fault(word, &ban.instead)));
            }
        }
    }
    findings
}

fn fault(word: &str, instead: &str) -> String {
    format!("`{word}` is banned here: {instead}")
}

fn has_word(line: &str, word: &str) -> bool {
    let joins = |edge: Option<char>, beside: Option<char>| {
        edge.is_some_and(char::is_alphanumeric) && beside.is_some_and(char::is_alphanumeric)
    };
    line.match_indices(word).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + word.len()..]);
        !joins(word.chars().next(), before.chars().next_back())
            && !joins(word.chars().next_back(), after.chars().next())
    })
}
