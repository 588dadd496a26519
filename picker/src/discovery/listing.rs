//! What there is in a cluster at one moment: every object that pools and routes depend on, by lists alone.

use std::path::Path;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use thiserror::Error;

/// Objects that are listed at once.
const PAGE: u32 = 500;

/// A kind that is listed, in the versions to try; the first that the API server knows counts.
struct Kind {
    group: &'static str,
    versions: &'static [&'static str],
    kind: &'static str,
    plural: &'static str,
}

const fn kind(
    group: &'static str,
    versions: &'static [&'static str],
    kind: &'static str,
    plural: &'static str,
) -> Kind {
    Kind {
        group,
        versions,
        kind,
        plural,
    }
}

const POOLS: &str = "inference.networking.k8s.io";
const EXPERIMENTAL: &str = "inference.networking.x-k8s.io";
const LLM_D: &str = "llm-d.ai";
const GATEWAYS: &str = "gateway.networking.k8s.io";

const KINDS: &[Kind] = &[
    kind(POOLS, &["v1"], "InferencePool", "inferencepools"),
    kind(
        EXPERIMENTAL,
        &["v1alpha2"],
        "InferencePool",
        "inferencepools",
    ),
    kind(
        EXPERIMENTAL,
        &["v1alpha1"],
        "InferencePoolImport",
        "inferencepoolimports",
    ),
    kind(
        LLM_D,
        &["v1alpha2"],
        "InferenceObjective",
        "inferenceobjectives",
    ),
    kind(
        EXPERIMENTAL,
        &["v1alpha2"],
        "InferenceObjective",
        "inferenceobjectives",
    ),
    kind(
        LLM_D,
        &["v1alpha2"],
        "InferenceModelRewrite",
        "inferencemodelrewrites",
    ),
    kind(
        EXPERIMENTAL,
        &["v1alpha2"],
        "InferenceModelRewrite",
        "inferencemodelrewrites",
    ),
    kind(GATEWAYS, &["v1"], "HTTPRoute", "httproutes"),
    kind(GATEWAYS, &["v1"], "GRPCRoute", "grpcroutes"),
    kind(GATEWAYS, &["v1"], "Gateway", "gateways"),
    kind(
        GATEWAYS,
        &["v1", "v1beta1"],
        "ReferenceGrant",
        "referencegrants",
    ),
    kind("", &["v1"], "Namespace", "namespaces"),
    kind("", &["v1"], "Service", "services"),
    kind("", &["v1"], "Pod", "pods"),
    kind(
        "discovery.k8s.io",
        &["v1"],
        "EndpointSlice",
        "endpointslices",
    ),
];

/// What was listed.
#[derive(Debug, Default)]
pub struct Listing {
    /// Every object, with its apiVersion and kind.
    pub objects: Vec<Value>,
    /// Kinds that were listed, or that the API server does not know, so that there are none.
    pub complete: Vec<&'static str>,
    /// Kinds that may not be listed, each with the right that is missing.
    pub refused: Vec<(&'static str, String)>,
}

/// Why nothing could be listed.
#[derive(Debug, Error)]
pub enum ListingError {
    /// The kubeconfig is wrong.
    #[error("--kubeconfig {0}: {1}; give the kubeconfig of a cluster")]
    Kubeconfig(String, kube::config::KubeconfigError),
    /// There is neither a kubeconfig nor a cluster around us.
    #[error("no cluster: {0}; give --kubeconfig FILE, or manifests: files, folders or -")]
    NoCluster(kube::config::InferConfigError),
    /// The API server does not answer, or not as one.
    #[error(
        "the API server, asked for {0}: {1}; see whether `kubectl get {0}` works with the same kubeconfig"
    )]
    Failed(&'static str, kube::Error),
    /// The client cannot be set up.
    #[error(
        "the client of the API server: {0}; see whether `kubectl version` works with the same kubeconfig"
    )]
    Client(kube::Error),
}

/// Lists all of a cluster, or of some of its namespaces.
///
/// # Errors
/// [`ListingError`]; a kind that is unknown or may not be listed is none.
pub async fn list(
    kubeconfig: Option<&Path>,
    namespaces: &[String],
) -> Result<Listing, ListingError> {
    let config = match kubeconfig {
        None => Config::infer().await.map_err(ListingError::NoCluster)?,
        Some(file) => {
            let wrong = |error| ListingError::Kubeconfig(file.display().to_string(), error);
            let read = Kubeconfig::read_from(file).map_err(wrong)?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(read, &options).await;
            config.map_err(wrong)?
        }
    };
    let client = Client::try_from(config).map_err(ListingError::Client)?;
    let mut listing = Listing::default();
    for kind in KINDS {
        let found = kind.list(&client, namespaces).await;
        match found.map_err(|error| ListingError::Failed(kind.plural, error))? {
            Found::All(objects) => {
                listing.complete.push(kind.kind);
                listing.objects.extend(objects);
            }
            Found::Refused(place) => {
                let right = format!("grant list on {}{place}", kind.plural());
                listing.refused.push((kind.kind, right));
            }
        }
    }
    // Of two groups that have a kind, one that may not be listed may have more.
    let refused: Vec<_> = listing.refused.iter().map(|(kind, _)| *kind).collect();
    listing.complete.retain(|kind| !refused.contains(kind));
    Ok(listing)
}

enum Found {
    All(Vec<Value>),
    /// Where not.
    Refused(String),
}

impl Kind {
    fn plural(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    async fn list(&self, client: &Client, namespaces: &[String]) -> Result<Found, kube::Error> {
        for version in self.versions {
            let gvk = GroupVersionKind::gvk(self.group, version, self.kind);
            let resource = ApiResource::from_gvk_with_plural(&gvk, self.plural);
            let mut apis: Vec<(String, Api<DynamicObject>)> = Vec::new();
            if namespaces.is_empty() || self.kind == "Namespace" {
                apis.push((String::new(), Api::all_with(client.clone(), &resource)));
            } else {
                for namespace in namespaces {
                    let api = Api::namespaced_with(client.clone(), namespace, &resource);
                    apis.push((format!(" in namespace {namespace}"), api));
                }
            }
            let mut objects = Vec::new();
            let mut known = true;
            for (place, api) in apis {
                match list_all(&api, &resource).await {
                    Ok(found) => objects.extend(found),
                    Err(kube::Error::Api(status)) if status.code == 404 => known = false,
                    Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                        return Ok(Found::Refused(place));
                    }
                    Err(error) => return Err(error),
                }
            }
            if known {
                return Ok(Found::All(objects));
            }
        }
        Ok(Found::All(Vec::new()))
    }
}

/// Every object of a kind, page by page.
async fn list_all(
    api: &Api<DynamicObject>,
    resource: &ApiResource,
) -> Result<Vec<Value>, kube::Error> {
    let mut objects = Vec::new();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await?;
        for object in page.items {
            let mut whole = json!(object.data);
            whole["apiVersion"] = json!(resource.api_version);
            whole["kind"] = json!(resource.kind);
            whole["metadata"] = json!(object.metadata);
            objects.push(whole);
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => {
                parameters = ListParams::default().limit(PAGE).continue_token(&token);
            }
            _ => return Ok(objects),
        }
    }
}
