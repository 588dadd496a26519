//! Every definition against upstream's schema and against the committed YAML.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crds::manifest::{Manifest, manifests};
use serde_json::Value;

/// A value that one side has and the other has not, by the beginning of its JSON pointer, and why it may be so.
struct Difference {
    /// The file; every file if it is empty.
    file: &'static str,
    path: &'static str,
    reason: &'static str,
}

const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema/properties";

const UPSTREAM_ALONE: &[Difference] = &[
    all(
        "/spec/names/listKind",
        "the API server derives it from the kind",
    ),
    all(
        "{schema}/apiVersion/type",
        "the API server adds it to every schema",
    ),
    all(
        "{schema}/kind/type",
        "the API server adds it to every schema",
    ),
    all(
        "{schema}/metadata/type",
        "the API server adds it to every schema",
    ),
    all("/status", "written by the API server; a manifest has none"),
    of(
        "x-inferencepools.yaml",
        "/metadata/annotations",
        "they say of which bundle the file is, and this one is of none",
    ),
    of(
        "x-inferencepools.yaml",
        "{schema}/status/properties/parent/items/properties/parentRef",
        "the reference of v0.4 to any object became one to a Gateway in v1.0, as in v1; what is read is in both",
    ),
    of(
        "x-inferenceobjectives.yaml",
        "/metadata/annotations",
        "the compared schema is of v1.0.0-rc.3; ours says v1.4.0, the last that had the group",
    ),
    of(
        "x-inferencemodelrewrites.yaml",
        "/metadata/annotations",
        "the compared schema is of a release candidate of v1.4.0",
    ),
];

const OURS_ALONE: &[Difference] = &[
    of(
        "x-inferencepools.yaml",
        "/spec/names/shortNames",
        "added after v0.4, whose schema is compared",
    ),
    of(
        "x-inferencepools.yaml",
        "{schema}/status/properties/parent/items/properties/parentRef",
        "as v1.0 has it, see above",
    ),
    of(
        "x-inferenceobjectives.yaml",
        "/metadata/annotations",
        "see above",
    ),
    of(
        "x-inferenceobjectives.yaml",
        "{schema}/spec/properties/priority/format",
        "a Go int then, an int32 since; no priority in use needs more",
    ),
    of(
        "x-inferencemodelrewrites.yaml",
        "/metadata/annotations",
        "see above",
    ),
];

const fn all(path: &'static str, reason: &'static str) -> Difference {
    of("", path, reason)
}

const fn of(file: &'static str, path: &'static str, reason: &'static str) -> Difference {
    Difference { file, path, reason }
}

impl Difference {
    fn covers(&self, file: &str, path: &str) -> bool {
        let listed = self.path.replace("{schema}", SCHEMA);
        (self.file.is_empty() || self.file == file) && path.starts_with(&listed)
    }
}

#[test]
fn a_definition_is_upstreams_but_for_the_listed_differences() {
    let mut used = BTreeSet::new();
    for manifest in manifests() {
        let theirs = leaves(&upstream(&manifest));
        let ours = leaves(&manifest.definition);
        for (side, here, there, listed) in [
            ("ours", &ours, &theirs, OURS_ALONE),
            ("upstream's", &theirs, &ours, UPSTREAM_ALONE),
        ] {
            for (path, value) in here
                .iter()
                .filter(|(path, value)| there.get(*path) != Some(value))
            {
                let found = listed
                    .iter()
                    .position(|one| one.covers(manifest.file, path));
                let place = found.unwrap_or_else(|| {
                    panic!("{}: {path} = {value} is {side} alone", manifest.file)
                });
                used.insert((side, place));
            }
        }
    }
    for (side, listed) in [("ours", OURS_ALONE), ("upstream's", UPSTREAM_ALONE)] {
        for (place, one) in listed.iter().enumerate() {
            let is_used = used.contains(&(side, place));
            assert!(
                is_used,
                "{} ({}) is listed, and no difference",
                one.path, one.reason
            );
        }
    }
}

#[test]
fn the_committed_yaml_is_what_the_types_generate() {
    let mut generated = BTreeSet::new();
    for manifest in manifests() {
        let path = folder("yaml").join(manifest.file);
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == manifest.yaml(),
            "{} is out of date: run `make generate`",
            manifest.file
        );
        let read: Value = serde_saphyr::from_str(&committed).expect("the committed file is YAML");
        assert_eq!(read, manifest.definition, "{}", manifest.file);
        generated.insert(manifest.file.to_owned());
    }
    let there = fs::read_dir(folder("yaml")).expect("the folder is there");
    let names = there.map(|one| one.expect("an entry").file_name().into_string());
    let names: BTreeSet<String> = names.map(|name| name.expect("UTF-8")).collect();
    assert_eq!(names, generated, "files in crds/yaml");
}

fn upstream(manifest: &Manifest) -> Value {
    let path = folder("tests/upstream").join(manifest.file.replace(".yaml", ".json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).expect("upstream's schema is JSON")
}

/// Every value that holds no other, by its JSON pointer; descriptions left out.
fn leaves(value: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(value, String::new(), &mut found);
    found
}

fn collect(value: &Value, path: String, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, inner) in fields {
                if name != "description" || !inner.is_string() {
                    collect(inner, format!("{path}/{name}"), found);
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, inner) in items.iter().enumerate() {
                collect(inner, format!("{path}/{index}"), found);
            }
        }
        leaf => drop(found.insert(path, leaf.to_string())),
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
