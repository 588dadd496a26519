//! The CRDs as a cluster installs them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::Value;

use crate::inference_pool::v1alpha2;
use crate::{
    InferenceModelRewrite, InferenceObjective, InferencePool, InferencePoolImport,
    LegacyInferenceModelRewrite, LegacyInferenceObjective,
};

const HEADING: &str =
    "# Written by `make generate` from the Rust types in crds/src; do not edit.\n";

/// A file of `crds/yaml` and the CRD in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The name of the file.
    pub file: &'static str,
    /// The CustomResourceDefinition.
    pub definition: Value,
}

impl Manifest {
    /// The text of the file.
    ///
    /// # Panics
    ///
    /// Never: what is JSON can be written as YAML.
    #[must_use]
    pub fn yaml(&self) -> String {
        let body = serde_saphyr::to_string(&self.definition).expect("JSON can be written as YAML");
        format!("{HEADING}{body}")
    }
}

/// Every CRD of this package.
///
/// # Panics
///
/// Never: a derived definition is always JSON.
#[must_use]
pub fn manifests() -> Vec<Manifest> {
    let mut old_pool = without_spec("x-inferencepools.yaml", &v1alpha2::InferencePool::crd());
    schema(&mut old_pool)["properties"]["status"]["default"] = v1alpha2::status_default();
    vec![
        of("inferencepools.yaml", &InferencePool::crd()),
        old_pool,
        of("inferencepoolimports.yaml", &InferencePoolImport::crd()),
        without_spec("inferenceobjectives.yaml", &InferenceObjective::crd()),
        without_spec(
            "x-inferenceobjectives.yaml",
            &LegacyInferenceObjective::crd(),
        ),
        without_spec("inferencemodelrewrites.yaml", &InferenceModelRewrite::crd()),
        without_spec(
            "x-inferencemodelrewrites.yaml",
            &LegacyInferenceModelRewrite::crd(),
        ),
    ]
}

/// A definition whose objects may lack a spec, as upstream's may: kube's derive demands one always.
fn without_spec(file: &'static str, definition: &CustomResourceDefinition) -> Manifest {
    let mut manifest = of(file, definition);
    if let Some(fields) = schema(&mut manifest).as_object_mut() {
        fields.remove("required");
    }
    manifest
}

fn schema(manifest: &mut Manifest) -> &mut Value {
    &mut manifest.definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn of(file: &'static str, definition: &CustomResourceDefinition) -> Manifest {
    let mut definition = serde_json::to_value(definition).expect("a definition is JSON");
    tidy(&mut definition);
    Manifest { file, definition }
}

/// Writes a derived schema as upstream writes it: optional fields may be absent, never null (no `nullable`); limits
/// are whole numbers (not `65535.0`); and a schema has no `title`.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, value| !is_derived_only(name, value));
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(whole) = as_whole(number) {
                *schema = Value::from(whole);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// A property of that name would have an object for its value.
fn is_derived_only(name: &str, value: &Value) -> bool {
    (name == "nullable" && value.is_boolean()) || (name == "title" && value.is_string())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a value without a fraction below 2^53 is kept exactly"
)]
fn as_whole(number: &serde_json::Number) -> Option<i64> {
    let value = number
        .as_f64()
        .filter(|it| it.fract() == 0.0 && it.abs() < 9e15)?;
    Some(value as i64)
}
