//! How a source is called, how it opens, and how it ends.

use std::path::Path;

use syn::spanned::Spanned as _;

use crate::finding::Finding;
use crate::rules::Rules;

/// Finds a source whose first line does not say what it owns.
pub(crate) fn check_opening(_: &Rules, path: &str, text: &str) -> Vec<Finding> {
    let said = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("//! "));
    if said.is_some_and(|words| words.trim().len() > 10) {
        return Vec::new();
    }
    vec![Finding::new(
        path,
        1,
        "the first line is not a `//!` sentence that says what the file owns",
    )]
}

/// Finds items that stand behind the unit tests.
pub(crate) fn check_tests_last(_: &Rules, path: &str, text: &str) -> Vec<Finding> {
    let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let behind = file
        .items
        .iter()
        .skip_while(|item| !is_tests(item))
        .find(|item| !is_tests(item));
    let fault =
        "an item stands behind the unit tests: a file is read from the top, and tests come last";
    behind
        .map(|item| Finding::new(path, item.span().start().line, fault))
        .into_iter()
        .collect()
}

/// Finds files and folders whose name owns nothing, and `mod.rs`.
pub(crate) fn check_name(rules: &Rules, path: &str, _: &str) -> Vec<Finding> {
    // Packages are named in Cargo.toml; here it is what stands below them.
    let tops = ["/src/", "/tests/", "/benches/", "/examples/"];
    let below = tops.iter().find_map(|top| path.split_once(top));
    let inner = below.map_or(path, |(_, inner)| inner);
    let parts = Path::new(inner).with_extension("");
    let mut findings = Vec::new();
    for part in parts.iter().map(|part| part.to_string_lossy()) {
        if part == "mod" {
            let fault = "`mod.rs` hides the module's name in a tab: use `foo.rs` beside `foo/`";
            findings.push(Finding::new(path, 1, fault));
        } else if rules.names.banned.iter().any(|name| *name == part) {
            let fault = format!("`{part}` names no noun: call the module for what it owns");
            findings.push(Finding::new(path, 1, fault));
        }
    }
    findings
}

fn is_tests(item: &syn::Item) -> bool {
    let syn::Item::Mod(module) = item else {
        return false;
    };
    module.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|argument| argument == "test")
    })
}
