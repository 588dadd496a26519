//! Which sources the compiler reads: a file that no `mod` line reaches is dead.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Finding;

/// Finds sources that neither are the root of a target nor are reached from one.
pub(crate) fn check(sources: &[(&str, &str)]) -> Vec<Finding> {
    let texts: BTreeMap<&str, &str> = sources.iter().copied().collect();
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut waiting: Vec<String> = texts
        .keys()
        .filter(|path| is_root(path))
        .map(|path| (*path).to_owned())
        .collect();
    while let Some(path) = waiting.pop() {
        let Some(text) = texts.get(path.as_str()) else {
            continue;
        };
        if !reached.insert(path.clone()) {
            continue;
        }
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let folder = folder_of_children(&path);
        children(&file.items, &folder, &mut waiting);
    }
    let dead = texts.keys().filter(|path| !reached.contains(**path));
    dead.map(|path| {
        Finding::new(
            path,
            1,
            "no `mod` line reaches this file: declare it or delete it",
        )
    })
    .collect()
}

/// Whether a file is the root of a target: cargo takes it for one by itself, or a manifest names it.
fn is_root(path: &str) -> bool {
    if let Some((_, inner)) = path.split_once("/src/") {
        let parts: Vec<&str> = inner.split('/').collect();
        return matches!(
            parts[..],
            ["lib.rs" | "main.rs"] | ["bin", _] | ["bin", _, "main.rs"]
        );
    }
    let parts: Vec<&str> = path.rsplit('/').collect();
    matches!(
        parts[..],
        ["build.rs", ..]
            | [_, "tests" | "benches" | "examples" | "fuzz_targets", ..]
            | [
                "main.rs" | "bench.rs",
                _,
                "tests" | "benches" | "examples",
                ..
            ]
    )
}

fn folder_of_children(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if matches!(name, "lib.rs" | "main.rs") || is_root(path) {
        return folder.to_owned();
    }
    path.trim_end_matches(".rs").to_owned()
}

fn children(items: &[syn::Item], folder: &str, waiting: &mut Vec<String>) {
    for item in items {
        let syn::Item::Mod(module) = item else {
            continue;
        };
        let below = format!("{folder}/{}", module.ident);
        match &module.content {
            Some((_, inner)) => children(inner, &below, waiting),
            None => waiting.push(format!("{below}.rs")),
        }
    }
}
