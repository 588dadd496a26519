//! Settings of `pointsman migrate`: what is converted, and into what.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

/// What is converted: Ingresses and routes in front of model servers, or values of llm-d's charts.
#[derive(Clone, Debug, Args)]
pub struct Migrate {
    /// Manifests with Ingresses or routes, the Services behind them and the Deployments of the servers: files, folders, or - for
    /// standard input.
    #[arg(value_name = "MANIFEST", required_unless_present = "helm_values")]
    pub manifests: Vec<PathBuf>,
    /// A file of values of llm-d's router chart, or of the inferencepool chart.
    #[arg(
        long,
        value_name = "FILE",
        requires = "release",
        conflicts_with = "manifests"
    )]
    pub helm_values: Option<PathBuf>,
    /// The name of that chart's release, which its pool has.
    #[arg(long, value_name = "NAME")]
    pub release: Option<String>,
    /// The namespace of what names none.
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// The Gateway that routes of Ingresses attach to; without a namespace, one of the route's own.
    #[arg(
        long,
        value_name = "[NAMESPACE/]NAME",
        default_value = "inference-gateway"
    )]
    pub gateway: GatewayArgument,
    /// A Service of model servers that are not known as such by their image or command, as NAME or NAMESPACE/NAME. Repeatable.
    #[arg(long, value_name = "SERVICE")]
    pub model_service: Vec<String>,
    /// Leave out the pools' picker Services: a picker with --publish-services makes them.
    #[arg(long)]
    pub published: bool,
}

/// A Gateway by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayArgument {
    /// Its namespace, if it is not the route's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl FromStr for GatewayArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if name.is_empty() || namespace == Some("") || name.contains('/') {
            return Err(format!(
                "`{text}` is no Gateway; write NAME or NAMESPACE/NAME"
            ));
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}
