//! Which module uses which: `crate::x`, or `super` up to the top, in code and in macros alike.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::finding::Finding;
use crate::rules::{Layers, Rules};

/// Finds uses of a module that the table does not allow.
pub(crate) fn check(rules: &Rules, path: &str, text: &str) -> Vec<Finding> {
    let Some((layers, inner)) = rules.layers.iter().find_map(|layers| {
        let inner = path
            .strip_prefix(layers.folder.as_str())?
            .strip_prefix('/')?;
        Some((layers, inner))
    }) else {
        return Vec::new();
    };
    let place: Vec<&str> = inner.trim_end_matches(".rs").split('/').collect();
    if matches!(place[..], ["lib" | "main"]) || place[0] == "bin" {
        return Vec::new();
    }
    let own = place[0];
    let Some(allowed) = layers.allowed(own) else {
        let fault = format!(
            "the table of {} has no module `{own}`: give it its place in rules.toml",
            layers.folder
        );
        return vec![Finding::new(path, 1, fault)];
    };
    let stream: TokenStream = text
        .parse()
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut uses = Vec::new();
    collect(
        &stream.into_iter().collect::<Vec<_>>(),
        place.len(),
        &mut uses,
    );
    let is_upward =
        |name: &str| name != own && !allowed.iter().any(|it| it == name) && knows(layers, name);
    let upward = uses.into_iter().filter(|(name, _)| is_upward(name));
    upward
        .map(|(name, line)| {
            let fault = format!(
                "`{own}` may not use `{name}`: move what both need below them, or change the table in rules.toml \
                 and say why in docs/decisions"
            );
            Finding::new(path, line, fault)
        })
        .collect()
}

/// Whether a name is a module of the package; `crate::Name` may also be something that lib.rs re-exports.
fn knows(layers: &Layers, name: &str) -> bool {
    layers.allowed(name).is_some()
}

/// Collects the top-level names that paths start with, at a depth of modules below the top.
fn collect(trees: &[TokenTree], depth: usize, uses: &mut Vec<(String, usize)>) {
    let mut index = 0;
    while index < trees.len() {
        if let TokenTree::Group(group) = &trees[index] {
            let inline_module =
                index >= 2 && is_word(&trees[index - 2], "mod") && is_brace(&trees[index]);
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            collect(&inner, depth + usize::from(inline_module), uses);
            index += 1;
            continue;
        }
        let (steps_up, after) = climb(trees, index);
        let at_top = steps_up > 0 && (is_word(&trees[index], "crate") || steps_up == depth);
        if at_top && let Some(next) = trees.get(after) {
            first_names(next, uses);
            index = after;
        } else {
            index = after.max(index + 1);
        }
    }
}

/// How many times `super::` or `crate::` stand here, and where the path goes on.
fn climb(trees: &[TokenTree], start: usize) -> (usize, usize) {
    let word = if is_word(&trees[start], "crate") {
        "crate"
    } else {
        "super"
    };
    let mut at = start;
    while at + 2 < trees.len() && is_word(&trees[at], word) && is_colons(&trees[at + 1..at + 3]) {
        at += 3;
    }
    ((at - start) / 3, at)
}

/// The name after `crate::`, or each first name of a group `crate::{a::B, c}`.
fn first_names(tree: &TokenTree, uses: &mut Vec<(String, usize)>) {
    match tree {
        TokenTree::Ident(name) => uses.push((name.to_string(), name.span().start().line)),
        TokenTree::Group(group) => {
            let mut expects_name = true;
            for inner in group.stream() {
                match &inner {
                    TokenTree::Ident(name) if expects_name => {
                        uses.push((name.to_string(), name.span().start().line));
                        expects_name = false;
                    }
                    TokenTree::Punct(mark) if mark.as_char() == ',' => expects_name = true,
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn is_word(tree: &TokenTree, word: &str) -> bool {
    matches!(tree, TokenTree::Ident(ident) if ident == word)
}

fn is_brace(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

fn is_colons(trees: &[TokenTree]) -> bool {
    trees
        .iter()
        .all(|tree| matches!(tree, TokenTree::Punct(mark) if mark.as_char() == ':'))
}
