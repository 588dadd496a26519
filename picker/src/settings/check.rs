//! Settings of `pointsman check`: what is looked at, and how it is told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What is looked at: manifests, or without any a cluster.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Manifests: files, folders (every .yaml, .yml and .json below), or - for standard input. Without any, the cluster is asked.
    #[arg(value_name = "MANIFEST")]
    pub manifests: Vec<PathBuf>,
    /// The namespace of manifests that name none.
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// Take the manifests for all there is: what they refer to and do not contain is missing.
    #[arg(long, requires = "manifests")]
    pub complete: bool,
    /// The cluster to ask; without it that of `KUBECONFIG`, of ~/.kube/config, or the one this runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespaces of the cluster to look at, with commas; every one without this flag.
    #[arg(
        long,
        value_name = "NAMESPACE",
        value_delimiter = ',',
        conflicts_with = "manifests"
    )]
    pub namespaces: Vec<String>,
    /// Ask every pod of a pool for its metrics and models; this machine has to reach the pods' addresses.
    #[arg(long, conflicts_with = "manifests")]
    pub probe: bool,
    /// How findings are told.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How findings are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}
