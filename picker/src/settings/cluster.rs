//! Settings of discovery by Kubernetes: which cluster, which pools, which pods.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use picker_core::route::PoolKey;
use picker_core::route::head::Sight;

use super::SettingsError;

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
    /// Serve the pods of these labels in the namespace --pool-namespace, without an InferencePool; as `kubectl --selector` has them.
    #[arg(long, value_name = "LABELS")]
    pub endpoint_selector: Option<String>,
    /// With --endpoint-selector: the ports of each pod that serve, one to eight, with commas.
    #[arg(
        long,
        value_name = "PORTS",
        default_value = "",
        hide_default_value = true
    )]
    pub endpoint_target_ports: String,
    /// The name of this pod; what --endpoint-selector selects is named for its Deployment.
    #[arg(long, env = "POD_NAME", value_name = "POD")]
    pub pod_name: Option<String>,
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

/// Pods that are served without an InferencePool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// What stands for the pool.
    pub pool: PoolKey,
    /// Their labels, in the form of `kubectl --selector`.
    pub labels: String,
    /// The ports of each that serve.
    pub ports: Vec<u16>,
}

impl Cluster {
    /// The pods that flags select where there is to be no InferencePool, in `namespace`.
    ///
    /// # Errors
    /// [`SettingsError::SelectorAndPool`], [`SettingsError::SelectedPorts`].
    pub fn selection(
        &self,
        namespace: &str,
        pool_name: Option<&str>,
    ) -> Result<Option<Selection>, SettingsError> {
        let Some(labels) = self
            .endpoint_selector
            .as_deref()
            .filter(|it| !it.is_empty())
        else {
            return Ok(None);
        };
        if let Some(name) = pool_name {
            return Err(SettingsError::SelectorAndPool(name.to_owned()));
        }
        let mut ports = Vec::new();
        for text in self.endpoint_target_ports.split(',').map(str::trim) {
            let wrong = || SettingsError::SelectedPorts(self.endpoint_target_ports.clone());
            let port = text.parse().ok().filter(|&port: &u16| port > 0);
            let port = port.ok_or_else(wrong)?;
            if !ports.contains(&port) {
                ports.push(port);
            }
            if ports.len() > SELECTED_PORTS_MAX {
                return Err(wrong());
            }
        }
        let name = self.pod_name.as_deref().and_then(deployment_of);
        Ok(Some(Selection {
            pool: PoolKey::new(namespace, name.unwrap_or("default")),
            labels: labels.to_owned(),
            ports,
        }))
    }
}

/// As many ports as an InferencePool can have.
const SELECTED_PORTS_MAX: usize = 8;

/// The Deployment whose pod has that name: upstream names by it what it serves without an InferencePool.
fn deployment_of(pod: &str) -> Option<&str> {
    let (replica_set, suffix) = pod.rsplit_once('-')?;
    let (deployment, hash) = replica_set.rsplit_once('-')?;
    let is_made = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (!deployment.is_empty() && is_made(hash) && is_made(suffix)).then_some(deployment)
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cluster: Cluster,
    }

    fn check(line: &str, pool: Option<&str>) -> Result<Option<Selection>, String> {
        let words = ["pointsman"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).expect("accepted");
        let selection = line.cluster.selection("ai", pool);
        selection.map_err(|error| error.to_string())
    }

    #[test]
    fn a_selector_needs_ports_and_no_pool() {
        let selected = |name: &str, ports: &[u16]| {
            Ok(Some(Selection {
                pool: PoolKey::new("ai", name),
                labels: "app=vllm,tier!=test".to_owned(),
                ports: ports.to_vec(),
            }))
        };
        let line = "--endpoint-selector=app=vllm,tier!=test --endpoint-target-ports=8000,8001,8000";
        assert_eq!(check(line, None), selected("default", &[8000, 8001]));
        let in_pod = format!("{line} --pod-name=chat-epp-7d4b9c6f5d-x2x4z");
        assert_eq!(check(&in_pod, None), selected("chat-epp", &[8000, 8001]));
        assert_eq!(
            check("--endpoint-selector= --endpoint-target-ports=", None),
            Ok(None)
        );
        let both = check(line, Some("chat")).expect_err("a pool, too");
        assert!(both.contains("--pool-name=chat"), "{both}");
        for ports in ["", "0", "8000,", "http", "1,2,3,4,5,6,7,8,9"] {
            let line = format!("--endpoint-selector=app=vllm --endpoint-target-ports={ports}");
            let error = check(&line, None).expect_err(ports);
            assert!(error.contains(&format!("`{ports}`")), "{error}");
        }
    }
}
