//! What `pointsman migrate` writes, as the cases of `picker/tests/migrate` have it, is accepted by a real API server.

use std::fs;
use std::path::PathBuf;

use super::api_server::ApiServer;
use super::gateway_api::install_gateway_api;
use super::object::{install_crds, make_namespace};
use super::rights::apply;
use super::scene::repository;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_migrated_is_accepted_by_the_api_server() {
    let api_server = ApiServer::start().await;
    install_crds(
        &api_server.client,
        &["inferencepools.yaml", "inferenceobjectives.yaml"],
    )
    .await;
    install_gateway_api(&api_server.client).await;
    for namespace in ["ai", "apps", "llm-d"] {
        make_namespace(&api_server.client, namespace).await;
    }
    let cases = outputs();
    assert!(cases.len() >= 20, "{cases:?}");
    for case in cases {
        let text = fs::read_to_string(&case).expect("a case");
        apply(&api_server, &text, &["--dry-run=server"]);
    }
}

fn outputs() -> Vec<PathBuf> {
    let folder = repository().join("picker/tests/migrate/cases");
    let entries = fs::read_dir(folder).expect("the cases are there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let is_output = |path: &PathBuf| path.to_str().is_some_and(|it| it.ends_with(".out.yaml"));
    paths.filter(is_output).collect()
}
