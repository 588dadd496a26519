//! The checkers checked: each must find the violations that `violations.toml` plants, and nothing else.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::finding::Finding;
use crate::rules::Rules;
use crate::tree::Tree;
use crate::{bans, dependencies, layers, layout, licence, links, reach, sizes};

const TEXT: &str = include_str!("violations.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Planted {
    case: Vec<Case>,
}

/// Made-up files, and the lines where a checker must find fault with them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    rule: String,
    finds: Vec<String>,
    files: BTreeMap<String, String>,
}

#[test]
fn a_checker_finds_what_is_planted_and_nothing_else() {
    let planted: Planted = toml::from_str(TEXT).expect("violations.toml is well-formed");
    let rules = Rules::read();
    let mut tried: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for mut case in planted.case {
        case.files.values_mut().for_each(expand);
        let mut found: Vec<String> = apply(&rules, &case)
            .iter()
            .map(|it| format!("{}:{}", it.path, it.line))
            .collect();
        found.sort();
        assert_eq!(
            found, case.finds,
            "rule {} over {:?}",
            case.rule, case.files
        );
        let counts = tried.entry(case.rule).or_default();
        *(if found.is_empty() {
            &mut counts.1
        } else {
            &mut counts.0
        }) += 1;
    }
    for (rule, (bad, good)) in &tried {
        assert!(
            *bad > 0 && *good > 0,
            "rule {rule} needs a text with a fault and one without"
        );
    }
    assert_eq!(tried.len(), 13, "a rule has no case: {tried:?}");
}

/// Writes out a text that is too long to stand in the file.
fn expand(text: &mut String) {
    if let Some(count) = text.strip_prefix("LINES ").and_then(|it| it.parse().ok()) {
        *text = "//! A line.\n".repeat(count);
    } else if let Some(count) = text
        .strip_prefix("FUNCTION ")
        .and_then(|it| it.parse::<usize>().ok())
    {
        *text = format!(
            "//! A function.\nfn long() {{\n{}}}\n",
            "    // A line.\n".repeat(count - 2)
        );
    }
}

fn apply(rules: &Rules, case: &Case) -> Vec<Finding> {
    let each = |check: &dyn Fn(&Rules, &str, &str) -> Vec<Finding>| -> Vec<Finding> {
        case.files
            .iter()
            .flat_map(|(path, text)| check(rules, path, text))
            .collect()
    };
    let file = |path: &str| case.files[path].as_str();
    match case.rule.as_str() {
        "layers" => each(&layers::check),
        "calls" => each(&bans::check_code),
        "marks" => each(&bans::check_marks),
        "file size" => each(&sizes::check_file),
        "function size" => each(&sizes::check_functions),
        "opening" => each(&layout::check_opening),
        "tests last" => each(&layout::check_tests_last),
        "names" => each(&layout::check_name),
        "reach" => {
            let sources: Vec<(&str, &str)> = case
                .files
                .iter()
                .map(|(path, text)| (path.as_str(), text.as_str()))
                .collect();
            reach::check(&sources)
        }
        "links" => {
            let tree = Tree::of(case.files.clone());
            each(&|_, path, text| {
                if path.ends_with(".md") {
                    links::check(&tree, path, text)
                } else {
                    Vec::new()
                }
            })
        }
        "arrows" => dependencies::check_arrows(rules, file("metadata.json")),
        "core list" => dependencies::compare(file(dependencies::CORE_LIST), file("cargo tree")),
        "licences" => licence::check(&licence::of_deny(file("deny.toml")), file("metadata.json")),
        other => panic!("violations.toml names the rule {other}, which is none"),
    }
}
