//! The CRDs as a cluster installs them.

use kube::CustomResourceExt as _;
use serde_json::Value;

use crate::InferencePool;

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
    let mut pool = serde_json::to_value(InferencePool::crd()).expect("a definition is JSON");
    tidy(&mut pool);
    vec![Manifest {
        file: "inferencepools.yaml",
        definition: pool,
    }]
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
