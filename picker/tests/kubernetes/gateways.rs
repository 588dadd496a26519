//! The files of `deploy/gateways`: accepted by the API server as far as it can know their kinds, by Envoy, and true to the samples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::gateway_api::install_gateway_api;
use super::object::{POOLS, install_crds, make_namespace};
use super::scene::{envoy_executable, repository};

/// The groups whose CRDs can be had without their gateway; those of a vendor are its own.
const KNOWN: [&str; 3] = [
    "gateway.networking.k8s.io/v1",
    "inference.networking.k8s.io/v1",
    "v1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_objects_for_every_gateway_are_accepted_by_the_api_server() {
    let api_server = ApiServer::start().await;
    install_crds(&api_server.client, POOLS).await;
    install_gateway_api(&api_server.client).await;
    make_namespace(&api_server.client, "models").await;
    let apply = [
        "apply",
        "--server-side",
        "--dry-run=server",
        "--namespace=models",
        "-f",
        "-",
    ];
    for file in files() {
        let text = fs::read_to_string(&file).expect("the file");
        let all: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let version = |one: &Value| one["apiVersion"].as_str().expect("a version").to_owned();
        let known = all
            .iter()
            .filter(|one| KNOWN.contains(&version(one).as_str()));
        let known: Vec<String> = known.map(Value::to_string).collect();
        assert!(known.len() >= 3, "{}: {known:?}", file.display());
        api_server.kubectl(&apply, &known.join("\n"));
    }
    let folder = folder().join("bare-envoy").display().to_string();
    let rendered = api_server.kubectl(&["kustomize", &folder], "");
    api_server.kubectl(&apply, &rendered);
}

#[test]
fn envoy_accepts_the_configuration_for_a_cluster() {
    let tried = Command::new(envoy_executable())
        .args(["--mode", "validate", "-c"])
        .arg(folder().join("bare-envoy/envoy.yaml"))
        .output()
        .expect("Envoy runs");
    let errors = String::from_utf8_lossy(&tried.stderr);
    assert!(tried.status.success(), "{errors}");
}

#[test]
fn the_configuration_for_a_cluster_is_the_sample_but_for_the_picker_and_the_pool() {
    let read = |path: PathBuf| -> Value {
        let text = fs::read_to_string(path).expect("the file");
        serde_saphyr::from_str(&text).expect("YAML")
    };
    let mut sample = read(repository().join("deploy/envoy/pointsman.yaml"));
    let clusters = sample["static_resources"]["clusters"].as_array_mut();
    let clusters = clusters.expect("clusters");
    clusters.retain(|cluster| cluster["name"] != "model_servers");
    let picker = clusters.last_mut().expect("the picker");
    picker["type"] = json!("STRICT_DNS");
    picker["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
        ["address"] = json!("pointsman.pointsman.svc.cluster.local");
    let filters =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let pick = format!("{filters}/1/typed_config/grpc_service/initial_metadata");
    let metadata = sample.pointer_mut(&pick).and_then(Value::as_array_mut);
    let pool = json!({"key": "x-pointsman-pool", "value": "models/vllm-llama3-8b"});
    metadata.expect("the metadata of the call").insert(0, pool);
    assert_eq!(read(folder().join("bare-envoy/envoy.yaml")), sample);
}

#[test]
fn the_page_of_gateways_names_every_file() {
    let page = fs::read_to_string(repository().join("docs/gateways.md")).expect("the page");
    for file in files() {
        let name = file.file_name().and_then(|name| name.to_str());
        let link = format!("../deploy/gateways/{}", name.expect("a name"));
        assert!(
            page.contains(&link),
            "docs/gateways.md does not name {link}"
        );
    }
}

fn folder() -> PathBuf {
    repository().join("deploy/gateways")
}

/// The files for gateways that have a controller.
fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("the folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let is_yaml = |path: &PathBuf| path.extension() == Some(Path::new("yaml").as_os_str());
    let mut files: Vec<PathBuf> = paths.filter(is_yaml).collect();
    files.sort();
    files
}
