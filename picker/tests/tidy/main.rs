//! The rules that a machine can keep, checked over the whole repository; `docs/style.md` gives the reason of each.
//!
//! Limits, tables and banned words stand in `rules.toml`. Every checker is a function from text to findings, and
//! `violations.toml` holds texts that it must find fault with, and texts that it must not.

mod bans;
mod dependencies;
mod finding;
mod image;
mod layers;
mod layout;
mod licence;
mod links;
mod planted;
mod reach;
mod rules;
mod sizes;
mod tokens;
mod tree;

use finding::{Finding, report};
use rules::Rules;
use tree::Tree;

/// Applies one checker to every Rust source.
fn check_sources(check: impl Fn(&Rules, &str, &str) -> Vec<Finding>) {
    let rules = Rules::read();
    let tree = Tree::read();
    let sources = tree.with_extension("rs");
    assert!(
        sources.len() > 10,
        "the tree was not found: {} sources",
        sources.len()
    );
    report(
        sources
            .iter()
            .flat_map(|file| check(&rules, &file.path, &file.text))
            .collect(),
    );
}

#[test]
fn a_module_uses_only_what_the_table_lets_it() {
    check_sources(layers::check);
}

#[test]
fn a_package_depends_only_on_what_the_table_lets_it() {
    report(dependencies::check_arrows(
        &Rules::read(),
        &dependencies::metadata(),
    ));
}

#[test]
fn the_core_depends_on_exactly_the_committed_list() {
    report(dependencies::check_core());
}

#[test]
fn a_dependency_has_an_allowed_licence() {
    report(licence::check(
        &licence::allowed(),
        &dependencies::metadata(),
    ));
}

#[test]
fn a_file_keeps_within_its_lines() {
    let rules = Rules::read();
    let tree = Tree::read();
    let written = tree
        .files
        .iter()
        .filter(|file| rules.size.applies_to(&file.path));
    report(
        written
            .flat_map(|file| sizes::check_file(&rules, &file.path, &file.text))
            .collect(),
    );
}

#[test]
fn a_function_keeps_within_its_lines() {
    check_sources(sizes::check_functions);
}

#[test]
fn a_source_opens_with_what_it_owns() {
    check_sources(layout::check_opening);
}

#[test]
fn unit_tests_stand_last_in_their_file() {
    check_sources(layout::check_tests_last);
}

#[test]
fn a_module_is_named_for_the_noun_it_owns() {
    check_sources(layout::check_name);
}

#[test]
fn a_banned_call_is_in_no_source() {
    check_sources(bans::check_code);
}

#[test]
fn a_banned_mark_is_in_no_file() {
    let rules = Rules::read();
    let tree = Tree::read();
    report(
        tree.files
            .iter()
            .flat_map(|file| bans::check_marks(&rules, &file.path, &file.text))
            .collect(),
    );
}

#[test]
fn a_source_is_reached_by_a_mod_line() {
    report(reach::check(&Tree::read().sources()));
}

/// The Dockerfile as it is, and with each of the names in it changed.
#[test]
fn the_image_is_made_of_the_toolchain_packages_and_binaries_that_there_are() {
    let tree = Tree::read();
    let text = |path| tree.text(path).expect("it is there");
    let (dockerfile, toolchain) = (text(image::DOCKERFILE), text("rust-toolchain.toml"));
    let metadata = dependencies::metadata();
    report(image::check(dockerfile, toolchain, &metadata));
    for (from, to) in [
        ("rust:1.", "rust:0."),
        ("-p picker", "-p picking"),
        ("release/pointsman-sim", "release/simulator"),
    ] {
        let changed = dockerfile.replace(from, to);
        let found = image::check(&changed, toolchain, &metadata);
        assert!(!found.is_empty(), "{to} is not found");
    }
}

#[test]
fn a_relative_link_leads_somewhere() {
    let tree = Tree::read();
    let pages = tree.with_extension("md");
    report(
        pages
            .iter()
            .flat_map(|page| links::check(&tree, &page.path, &page.text))
            .collect(),
    );
}
