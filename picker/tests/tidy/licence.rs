//! The licences of everything that is built in, against the list in `deny.toml`.

use std::fs;

use crate::dependencies::{name, packages};
use crate::finding::Finding;
use crate::tree;

/// The licences that `deny.toml` allows.
pub(crate) fn allowed() -> Vec<String> {
    let text = fs::read_to_string(tree::root().join("deny.toml")).expect("deny.toml is there");
    of_deny(&text)
}

/// The licences that the text of a `deny.toml` allows.
pub(crate) fn of_deny(text: &str) -> Vec<String> {
    let deny: toml::Table = text.parse().expect("deny.toml is well-formed");
    let list = deny["licenses"]["allow"]
        .as_array()
        .expect("deny.toml has licenses.allow");
    list.iter()
        .map(|it| it.as_str().expect("a licence is a string").to_owned())
        .collect()
}

/// Finds packages that no choice of allowed licences covers.
pub(crate) fn check(allowed: &[String], metadata: &str) -> Vec<Finding> {
    let packages = packages(metadata);
    let refused = packages
        .iter()
        .filter(|it| !permits(it["license"].as_str().unwrap_or_default(), allowed));
    refused
        .map(|package| {
            let licence = &package["license"];
            let fault = format!(
                "`{}` is under {licence}, which deny.toml does not allow: do without it",
                name(package)
            );
            Finding::new("Cargo.lock", 1, fault)
        })
        .collect()
}

/// Whether allowed licences are enough for an SPDX expression; `/` is an old way to write OR.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader {
        words: &words,
        allowed,
    };
    !words.is_empty() && reader.any() && reader.words.is_empty()
}

struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Reader<'_> {
    fn any(&mut self) -> bool {
        let mut is_permitted = self.all();
        while self.take("OR") {
            is_permitted |= self.all();
        }
        is_permitted
    }

    fn all(&mut self) -> bool {
        let mut is_permitted = self.one();
        while self.take("AND") {
            is_permitted &= self.one();
        }
        is_permitted
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let is_permitted = self.any();
            return self.take(")") && is_permitted;
        }
        let Some((licence, rest)) = self.words.split_first() else {
            return false;
        };
        self.words = rest;
        // An exception only ever permits more than its licence does.
        if self.take("WITH") {
            self.words = self.words.get(1..).unwrap_or_default();
        }
        self.allowed.iter().any(|it| it == licence)
    }

    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }
}
