//! How long files and functions are.

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::finding::Finding;
use crate::rules::Rules;

/// Finds a file that has too many lines.
pub(crate) fn check_file(rules: &Rules, path: &str, text: &str) -> Vec<Finding> {
    let limit = rules.size.own.get(path).copied().unwrap_or(rules.size.file);
    let lines = text.lines().count();
    if lines <= limit {
        return Vec::new();
    }
    let fault = format!("{lines} lines, and {limit} are allowed: split it by the nouns it owns");
    vec![Finding::new(path, limit + 1, fault)]
}

/// Finds functions that have too many lines, from `fn` to the closing brace, comments included.
pub(crate) fn check_functions(rules: &Rules, path: &str, text: &str) -> Vec<Finding> {
    let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut functions = Functions { found: Vec::new() };
    functions.visit_file(&file);
    let limit = rules.size.function;
    let long = functions
        .found
        .into_iter()
        .filter(|function| function.lines() > limit);
    long.map(|function| {
        let lines = function.lines();
        let fault = format!(
            "`{}` has {lines} lines, and {limit} are allowed: name its parts",
            function.name
        );
        Finding::new(path, function.first, fault)
    })
    .collect()
}

struct Function {
    name: String,
    first: usize,
    last: usize,
}

impl Function {
    fn lines(&self) -> usize {
        self.last + 1 - self.first
    }
}

struct Functions {
    found: Vec<Function>,
}

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        self.found.push(Function {
            name: signature.ident.to_string(),
            first: signature.span().start().line,
            last: block.span().end().line,
        });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}
