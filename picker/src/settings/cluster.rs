//! Settings of discovery by Kubernetes: which cluster, which pools, which pods.

use std::path::PathBuf;

use clap::{ArgAction, Args};

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
    /// Whether metrics pages and models of endpoints are read; if not, picks go by our own load alone.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true")]
    pub read_metrics: bool,
}
