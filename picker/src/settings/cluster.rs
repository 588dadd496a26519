//! Settings of discovery by Kubernetes: which cluster, which pools, which pods.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use picker_core::route::head::Sight;

/// Which pools of which cluster are served, unless there are endpoints files.
#[derive(Clone, Debug, Args)]
pub struct Cluster {
    /// The cluster to ask, where this is no pod of it.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespaces whose pools are served, with commas; every one without this flag.
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Serve only pools whose endpointPickerRef names a Service of this name, or one of these with commas.
    #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
    pub picker_service: Vec<String>,
    /// Watch only pods with these labels, as `kubectl --selector` has them; in a large cluster this saves memory.
    #[arg(long, value_name = "LABELS")]
    pub pod_selector: Option<String>,
    /// Keep, in each served namespace, the Services that pools name as their picker, leading to those pods in the picker's own
    /// namespace (`NAMESPACE`) that have these labels. Needs rights of its own.
    #[arg(long, value_name = "LABELS")]
    pub publish_services: Option<String>,
    /// Namespaces whose routes, Gateways and ReferenceGrants are read beside those of --namespaces, with commas: those of
    /// the Gateways, and of routes to pools of other namespaces.
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub route_namespaces: Vec<String>,
    /// Whether the gateway calls the picker before or after it has applied a route's filters, which rewrite hosts, paths and
    /// headers. Envoy, and what is built on it, calls before.
    #[arg(long, value_name = "WHEN", default_value = "before-filters")]
    pub called: Called,
    /// Whether metrics pages and models of endpoints are read; if not, picks go by our own load alone.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true")]
    pub read_metrics: bool,
}

/// When a gateway calls the picker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Called {
    /// Host, path and headers are as the client sent them.
    BeforeFilters,
    /// Host, path and headers are as the model server will see them.
    AfterFilters,
}

impl From<Called> for Sight {
    fn from(called: Called) -> Self {
        match called {
            Called::BeforeFilters => Self::BeforeFilters,
            Called::AfterFilters => Self::AfterFilters,
        }
    }
}
