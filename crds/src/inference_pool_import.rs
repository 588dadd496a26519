//! `InferencePoolImport`, `inference.networking.x-k8s.io/v1alpha1`: a pool of other clusters, as this one sees it.
#![expect(
    unreachable_pub,
    reason = "KubeSchema repeats a struct, with its visibility, inside a function"
)]

use std::borrow::Cow;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::core::NamespaceResourceScope;
use kube::{KubeSchema, Resource};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::inference_pool::ParentStatus;
use crate::syntax::{self, CONTROLLER_NAME};

const GROUP: &str = "inference.networking.x-k8s.io";
const VERSION: &str = "v1alpha1";
const KIND: &str = "InferencePoolImport";
const PLURAL: &str = "inferencepoolimports";

/// A pool that other clusters export. It asks for nothing: a controller for several clusters writes its status.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct InferencePoolImport {
    /// `inference.networking.x-k8s.io/v1alpha1`.
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    /// `InferencePoolImport`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Name, namespace, labels.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What controllers say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<InferencePoolImportStatus>,
}

/// What controllers say of an imported pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct InferencePoolImportStatus {
    /// One entry for each controller.
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub controllers: Vec<ImportController>,
}

/// What one controller says.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ImportController {
    /// Who wrote the entry, as `domain/path`.
    #[schemars(length(min = 1, max = 253), regex(pattern = CONTROLLER_NAME))]
    pub name: String,
    /// The clusters whose pools are behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exporting_clusters: Option<Vec<ExportingCluster>>,
    /// One entry for each Gateway that routes to the import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub parents: Option<Vec<ParentStatus>>,
    /// Accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "syntax::conditions")]
    pub conditions: Option<Vec<Condition>>,
}

/// A cluster that exports a pool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExportingCluster {
    /// Its name in the set of clusters.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The schema of the whole object, for the definition: no `spec`, which kube's derive would demand.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is wanted")]
struct Shape {
    status: Option<InferencePoolImportStatus>,
}

fn api_version() -> String {
    format!("{GROUP}/{VERSION}")
}

fn kind() -> String {
    KIND.to_owned()
}

impl InferencePoolImport {
    /// The CustomResourceDefinition.
    ///
    /// # Panics
    ///
    /// Never: what is written here is a definition.
    #[must_use]
    pub fn crd() -> CustomResourceDefinition {
        let settings = SchemaSettings::openapi3().with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        let settings = settings.with_transform(kube::core::schema::StructuralSchemaRewriter);
        let mut schema = settings.into_generator().into_root_schema_for::<Shape>();
        schema.insert(
            "description".to_owned(),
            json!("A pool that other clusters export, as this cluster sees it."),
        );
        let definition = json!({
            "metadata": {
                "name": format!("{PLURAL}.{GROUP}"),
                "annotations": {"inference.networking.k8s.io/bundle-version": "main-dev"},
            },
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {
                    "kind": KIND,
                    "plural": PLURAL,
                    "singular": "inferencepoolimport",
                    "shortNames": ["infpimp"],
                },
                "versions": [{
                    "name": VERSION,
                    "served": true,
                    "storage": true,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }],
            },
        });
        serde_json::from_value(definition).expect("this is a definition")
    }
}

impl Resource for InferencePoolImport {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
