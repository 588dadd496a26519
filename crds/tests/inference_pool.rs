//! InferencePool against upstream's schema, against the committed YAML, and against samples.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crds::InferencePool;
use crds::inference_pool::{AppProtocol, FailureMode};
use crds::manifest::manifests;
use serde_json::Value;

/// Where our definition says less than upstream's, and why that is the same to a cluster.
const DIFFERENCES: [(&str, &str); 5] = [
    (
        "/spec/names/listKind",
        "the apiserver fills it in from the kind",
    ),
    (
        "/spec/versions/0/schema/openAPIV3Schema/properties/apiVersion/type",
        "the apiserver adds it to every schema",
    ),
    (
        "/spec/versions/0/schema/openAPIV3Schema/properties/kind/type",
        "the apiserver adds it to every schema",
    ),
    (
        "/spec/versions/0/schema/openAPIV3Schema/properties/metadata/type",
        "the apiserver adds it to every schema",
    ),
    ("/status", "written by the apiserver; a manifest has none"),
];

#[test]
fn the_definition_is_upstreams_but_for_the_listed_differences() {
    let upstream: Value = serde_json::from_str(include_str!("upstream/inferencepools.json"))
        .expect("upstream's schema is JSON");
    let theirs = leaves(&upstream);
    let ours = leaves(&manifests()[0].definition);
    for (path, value) in &ours {
        assert_eq!(theirs.get(path), Some(value), "{path} is ours alone");
    }
    let missing: Vec<&String> = theirs
        .keys()
        .filter(|path| !ours.contains_key(*path))
        .collect();
    for path in &missing {
        let is_listed = DIFFERENCES
            .iter()
            .any(|(listed, _)| path.starts_with(listed));
        assert!(is_listed, "{path} is upstream's alone: {}", theirs[*path]);
    }
    for (listed, reason) in DIFFERENCES {
        let is_used = missing.iter().any(|path| path.starts_with(listed));
        assert!(is_used, "{listed} ({reason}) is listed, and no difference");
    }
}

#[test]
fn the_committed_yaml_is_what_the_types_generate() {
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
    }
}

#[test]
fn a_sample_comes_back_as_it_was_with_its_defaults() {
    let mut samples = 0;
    for entry in fs::read_dir(folder("tests/samples")).expect("the samples are there") {
        let path = entry.expect("the samples can be listed").path();
        let text = fs::read_to_string(&path).expect("a sample can be read");
        let written: Value = serde_saphyr::from_str(&text).expect("a sample is YAML");
        let pool: InferencePool =
            serde_json::from_value(written.clone()).expect("a sample is a pool");
        let back = serde_json::to_value(&pool).expect("a pool is JSON");
        let (written, back) = (leaves(&written), leaves(&back));
        for (path, value) in &written {
            assert_eq!(back.get(path), Some(value), "{path} is lost or changed");
        }
        for (path, value) in back.iter().filter(|(path, _)| !written.contains_key(*path)) {
            assert!(
                DEFAULTS.contains(&(path.as_str(), value.as_str())),
                "{path} is added as {value}"
            );
        }
        samples += 1;
    }
    assert_eq!(samples, 3);
}

/// What a reader may find in a pool that did not say it.
const DEFAULTS: [(&str, &str); 4] = [
    ("/spec/appProtocol", "\"http\""),
    ("/spec/endpointPickerRef/failureMode", "\"FailClose\""),
    ("/spec/endpointPickerRef/group", "\"\""),
    ("/spec/endpointPickerRef/kind", "\"Service\""),
];

#[test]
fn what_a_pool_leaves_out_has_upstreams_default() {
    let pool: InferencePool = serde_saphyr::from_str(include_str!("samples/defaults.yaml"))
        .expect("the sample is a pool");
    assert_eq!(pool.spec.app_protocol, AppProtocol::Http);
    let picker = pool
        .spec
        .endpoint_picker_ref
        .expect("the sample names a picker");
    assert_eq!(
        (picker.group.as_str(), picker.kind.as_str()),
        ("", "Service")
    );
    assert_eq!(picker.failure_mode, FailureMode::FailClose);
    assert_eq!(picker.port.map(|port| port.number), Some(9002));
}

#[test]
fn a_port_that_is_none_is_refused() {
    let text = include_str!("samples/no-picker.yaml").replace("65535", "65536");
    let error = serde_saphyr::from_str::<InferencePool>(&text).expect_err("65536 is no port");
    assert!(
        error.to_string().contains("number") || error.to_string().contains("u16"),
        "{error}"
    );
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
