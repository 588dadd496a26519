//! The Dockerfile against the workspace: nothing here builds images, so what it names is compared with what there is.

use serde_json::Value;

use crate::finding::Finding;

/// Where the image is described.
pub(crate) const DOCKERFILE: &str = "deploy/Dockerfile";

/// Finds a compiler that is not the toolchain's, packages that are not there, and binaries that those do not make.
pub(crate) fn check(dockerfile: &str, toolchain: &str, metadata: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let metadata: Value = serde_json::from_str(metadata).expect("cargo's metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let own = packages.iter().filter(|one| one["source"].is_null());
    let own: Vec<&Value> = own.collect();
    let mut built: Vec<&str> = Vec::new();
    for (index, line) in dockerfile.lines().enumerate() {
        let mut find = |fault: String| findings.push(Finding::new(DOCKERFILE, index + 1, fault));
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["FROM", image, ..] if image.starts_with("rust:") => {
                let version = image["rust:".len()..].split('-').next().unwrap_or_default();
                if !toolchain.contains(&format!("channel = \"{version}")) {
                    find(format!("{image} is not what rust-toolchain.toml asks for"));
                }
            }
            ["RUN", "cargo", "build", ..] => {
                let named = words.windows(2).filter(|pair| pair[0] == "-p");
                built = named.map(|pair| pair[1]).collect();
                for name in &built {
                    if !own.iter().any(|one| one["name"] == **name) {
                        find(format!("there is no package {name}"));
                    }
                }
            }
            ["COPY", "--from=build", ref files @ .., _] => {
                let of_built = own
                    .iter()
                    .filter(|one| built.iter().any(|it| one["name"] == **it));
                let targets = of_built.flat_map(|one| one["targets"].as_array()).flatten();
                let binaries: Vec<&Value> = targets.filter(|one| one["kind"][0] == "bin").collect();
                for file in files {
                    let name = file.rsplit('/').next().unwrap_or_default();
                    if !binaries.iter().any(|one| one["name"] == *name) {
                        find(format!("no package that is built makes {file}"));
                    }
                }
            }
            _ => {}
        }
    }
    if built.is_empty() {
        findings.push(Finding::new(DOCKERFILE, 1, "it builds no package by -p"));
    }
    findings
}
