//! Objects as upstream's users write them: read, written back, and, where they are old, read as new ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crds::inference_pool::{AppProtocol, FailureMode, Port, v1alpha2};
use crds::{
    InferenceModelRewrite, InferenceObjective, InferencePool, InferencePoolImport,
    LegacyInferenceModelRewrite, LegacyInferenceObjective,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[test]
fn a_sample_comes_back_as_it_was_with_its_defaults() {
    check::<InferencePool>("defaults.yaml");
    check::<InferencePool>("full.yaml");
    check::<InferencePool>("no-picker.yaml");
    check::<v1alpha2::InferencePool>("x-pool.yaml");
    check::<v1alpha2::InferencePool>("x-pool-least.yaml");
    check::<InferencePoolImport>("import.yaml");
    check::<InferenceObjective>("objective.yaml");
    check::<LegacyInferenceObjective>("x-objective.yaml");
    check::<InferenceModelRewrite>("rewrite.yaml");
    check::<LegacyInferenceModelRewrite>("x-rewrite.yaml");
    let samples = fs::read_dir(folder()).expect("the samples are there");
    assert_eq!(samples.count(), 10, "a sample that is not checked");
}

/// What a reader may find in an object that did not say it.
const DEFAULTS: [(&str, &str); 11] = [
    ("/spec/appProtocol", "\"http\""),
    ("/spec/endpointPickerRef/failureMode", "\"FailClose\""),
    ("/spec/endpointPickerRef/group", "\"\""),
    ("/spec/endpointPickerRef/kind", "\"Service\""),
    ("/spec/extensionRef/failureMode", "\"FailClose\""),
    ("/spec/extensionRef/group", "\"\""),
    ("/spec/extensionRef/kind", "\"Service\""),
    ("/spec/poolRef/group", "\"inference.networking.k8s.io\""),
    ("/spec/poolRef/kind", "\"InferencePool\""),
    ("/spec/rules/0/matches/0/model/type", "\"Exact\""),
    (
        "/status/parent/0/parentRef/group",
        "\"gateway.networking.k8s.io\"",
    ),
];

fn check<T: Serialize + DeserializeOwned>(name: &str) {
    let written: Value = read(name);
    let object: T = read(name);
    let back = leaves(&serde_json::to_value(&object).expect("an object is JSON"));
    let written = leaves(&written);
    for (path, value) in &written {
        assert_eq!(
            back.get(path),
            Some(value),
            "{name}: {path} is lost or changed"
        );
    }
    for (path, value) in back.iter().filter(|(path, _)| !written.contains_key(*path)) {
        assert!(
            DEFAULTS.contains(&(path.as_str(), value.as_str())),
            "{name}: {path} is added as {value}"
        );
    }
}

#[test]
fn what_a_pool_leaves_out_has_upstreams_default() {
    let pool: InferencePool = read("defaults.yaml");
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

#[test]
fn an_old_pool_is_read_as_a_new_one() {
    let old: v1alpha2::InferencePool = read("x-pool.yaml");
    let new = InferencePool::from(old);
    assert_eq!(new.metadata.name.as_deref(), Some("vllm-llama2-7b"));
    assert_eq!(new.spec.selector.match_labels["app"], "vllm-llama2-7b");
    assert_eq!(new.spec.target_ports, [Port { number: 8000 }]);
    let picker = new
        .spec
        .endpoint_picker_ref
        .expect("an old pool has a picker");
    assert_eq!(picker.name, "vllm-llama2-7b-epp");
    assert_eq!(picker.port, Some(Port { number: 9012 }));
    assert_eq!(picker.failure_mode, FailureMode::FailOpen);
    let parents = new.status.and_then(|status| status.parents);
    let parents = parents.expect("the sample has a status");
    let gateways: Vec<&str> = parents.iter().map(|one| &*one.parent_ref.name).collect();
    assert_eq!(
        gateways,
        ["inference"],
        "a placeholder stands for no Gateway"
    );
}

#[test]
fn an_old_pool_whose_service_names_no_port_has_9002() {
    let old: v1alpha2::InferencePool = read("x-pool-least.yaml");
    let picker = InferencePool::from(old).spec.endpoint_picker_ref;
    let port = picker.and_then(|picker| picker.port);
    assert_eq!(port, Some(Port { number: 9002 }));
}

#[test]
fn an_object_of_the_older_group_says_the_same_in_the_newer() {
    let old: LegacyInferenceObjective = read("x-objective.yaml");
    let objective = InferenceObjective::from(old);
    assert_eq!(objective.spec.priority, Some(-10));
    let old: LegacyInferenceModelRewrite = read("x-rewrite.yaml");
    let rewrite = InferenceModelRewrite::from(old);
    assert_eq!(rewrite.spec.pool_ref.name, "vllm-llama3-8b");
    assert_eq!(rewrite.spec.rules.len(), 1);
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let text = fs::read_to_string(folder().join(name)).expect("the sample is there");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every value that holds no other, by its JSON pointer.
fn leaves(value: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(value, String::new(), &mut found);
    found
}

fn collect(value: &Value, path: String, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, inner) in fields {
                collect(inner, format!("{path}/{name}"), found);
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

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}
