//! What depends on what, asked of cargo.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::finding::Finding;
use crate::rules::Rules;
use crate::tree;

/// Where the packages that picker-core may be built from are listed.
pub(crate) const CORE_LIST: &str = "picker/core/dependencies.txt";

/// What `cargo metadata` says of the workspace and of all it depends on, as JSON.
pub(crate) fn metadata() -> String {
    cargo(&["metadata", "--format-version", "1", "--locked"])
}

/// Finds dependencies between packages of the workspace that the table does not allow.
pub(crate) fn check_arrows(rules: &Rules, metadata: &str) -> Vec<Finding> {
    let packages = packages(metadata);
    let own: BTreeSet<&str> = packages
        .iter()
        .filter(|it| it["source"].is_null())
        .map(name)
        .collect();
    let mut findings = Vec::new();
    for package in packages.iter().filter(|it| it["source"].is_null()) {
        let place = format!("Cargo.toml of {}", name(package));
        let Some(row) = rules.packages.get(name(package)) else {
            findings.push(Finding::new(
                &place,
                1,
                "the package is not in the table of rules.toml: give it its place",
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = name(dependency);
            let in_tests =
                dependency["kind"] == "dev" && row.tests_use.iter().any(|it| it == other);
            if own.contains(other) && !in_tests && !row.uses.iter().any(|it| it == other) {
                let fault = format!(
                    "may not depend on {other}: arrows between packages point one way (docs/architecture.md)"
                );
                findings.push(Finding::new(&place, 1, fault));
            }
        }
    }
    findings
}

/// Finds what picker-core is built from beyond the committed list, and what is listed and gone.
pub(crate) fn check_core() -> Vec<Finding> {
    let tree = cargo(&[
        "tree",
        "-p",
        "picker-core",
        "-e",
        "normal",
        "--target",
        "all",
        "--prefix",
        "none",
        "--locked",
    ]);
    let list = fs::read_to_string(tree::root().join(CORE_LIST))
        .expect("picker/core/dependencies.txt is there");
    compare(&list, &tree)
}

/// Compares the committed list, a name a line, with what `cargo tree` prints.
pub(crate) fn compare(list: &str, tree: &str) -> Vec<Finding> {
    let listed: BTreeSet<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let found: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let added = found.difference(&listed).map(|name| {
        format!("picker-core is built from `{name}`, which is not listed: the core stays pure; do without it, or list it and say why in docs/decisions")
    });
    let gone = listed
        .difference(&found)
        .map(|name| format!("`{name}` is listed and gone: take it off"));
    added
        .chain(gone)
        .map(|fault| Finding::new(CORE_LIST, 1, fault))
        .collect()
}

/// The packages that `cargo metadata` lists.
pub(crate) fn packages(metadata: &str) -> Vec<Value> {
    let mut metadata: Value = serde_json::from_str(metadata).expect("cargo metadata writes JSON");
    let packages = metadata["packages"].take();
    serde_json::from_value(packages).expect("cargo metadata lists packages")
}

/// The name of a package or a dependency.
pub(crate) fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a package has a name")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(tree::root())
        .output();
    let output = output.expect("cargo can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo {} failed:\n{said}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}
