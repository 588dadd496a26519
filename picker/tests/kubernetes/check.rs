//! `pointsman check` of a real API server, by lists alone; and of the manifests of `deploy/kubernetes` as they are rendered.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::api_server::ApiServer;
use super::object::{
    POOLS, apply_pool, install_crds, make_namespace, make_pod, make_service, pool, set_ready,
};
use super::rights::render;
use super::scene::{eventually, pods};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_checked_by_lists_and_its_pods_by_asking_them() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, POOLS).await;
    make_namespace(&client, "ai").await;
    let servers = pods(1).await;
    let at = servers[0].address();
    apply_pool(&client, "ai", &pool("chat", &[at.port()])).await;
    apply_pool(&client, "ai", &pool("code", &[8000])).await;
    let labels = json!({"app": "chat"});
    make_pod(&client, "ai", "chat-0", &labels, at).await;
    let nobody = SocketAddr::new([127, 9, 9, 9].into(), at.port());
    make_pod(&client, "ai", "chat-1", &labels, nobody).await;
    make_service(&client, "ai", "chat-epp", 9002).await;

    let kubeconfig = api_server.kubeconfig("admin", None);
    // The pods are made of an image called vllm without a port, which therefore listens on 8000.
    let expected = [
        "picker-protocol-unset Service ai/chat-epp",
        "picker-service-empty InferencePool ai/chat",
        "picker-service-missing InferencePool ai/code",
        "pods-missing InferencePool ai/code",
        "port-not-served InferencePool ai/chat",
    ];
    let (code, report) = check(&kubeconfig, &[]);
    assert_eq!((code, found(&report)), (1, set(&expected)), "{report:#}");
    assert_eq!(report["unchecked"], json!([]));

    let probed = [&expected[..], &["metrics-missing Pod ai/chat-1"]].concat();
    let (_, report) = check(&kubeconfig, &["--probe"]);
    assert_eq!(found(&report), set(&probed), "{report:#}");

    set_ready(&client, "ai", "chat-0", false).await;
    set_ready(&client, "ai", "chat-1", false).await;
    let (_, report) = check(&kubeconfig, &["--namespaces=ai"]);
    let unready = [&expected[..], &["pods-not-ready InferencePool ai/chat"]].concat();
    assert_eq!(found(&report), set(&unready), "{report:#}");
    let (code, report) = check(&kubeconfig, &["--namespaces=default"]);
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_cannot_be_read_is_a_finding_of_its_own() {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, &["inferencepools.yaml"]).await;
    make_namespace(&client, "ai").await;
    // An API server that holds a pool to no schema, as an older CRD may have left it.
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "inferencepools.inference.networking.k8s.io";
    let open = json!([{
        "op": "replace",
        "path": "/spec/versions/0/schema/openAPIV3Schema",
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(open).expect("a patch"));
    crds.patch(name, &PatchParams::default(), &patch)
        .await
        .expect("the schema is changed");
    let mut wrong = pool("chat", &[8000]);
    wrong["spec"]["targetPorts"] = json!("8000");
    eventually(
        "the API server takes a pool by the new schema",
        async || {
            let api: Api<DynamicObject> = Api::namespaced_with(
                client.clone(),
                "ai",
                &ApiResource::erase::<crds::InferencePool>(&()),
            );
            let parameters = PatchParams::apply("test").force();
            api.patch("chat", &parameters, &Patch::Apply(&wrong))
                .await
                .is_ok()
        },
    )
    .await;
    let (code, report) = check(&api_server.kubeconfig("admin", None), &[]);
    assert_eq!(code, 1);
    assert_eq!(
        found(&report),
        set(&["unreadable InferencePool ai/chat"]),
        "{report:#}"
    );
    assert_eq!(report["findings"][0]["field"], "spec.targetPorts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_missing_are_named_and_make_no_fault() {
    let api_server = ApiServer::start().await;
    install_crds(&api_server.client, POOLS).await;
    make_namespace(&api_server.client, "ai").await;
    apply_pool(&api_server.client, "ai", &pool("chat", &[8000])).await;
    let (code, report) = check(&api_server.kubeconfig("nobody", Some("reader-token")), &[]);
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
    let unchecked = report["unchecked"].to_string();
    assert!(
        unchecked.contains("grant list on inferencepools.inference.networking.k8s.io"),
        "{unchecked}"
    );
    assert!(unchecked.contains("grant list on pods"), "{unchecked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifests_of_this_repository_have_no_finding() {
    let api_server = ApiServer::start().await;
    let picker = render(&api_server, "namespaced");
    let alone = [
        "cluster",
        "publishing",
        "examples/simulated",
        "examples/vllm-lora",
    ];
    let mut texts = vec![("namespaced", picker.clone())];
    for overlay in alone {
        texts.push((overlay, render(&api_server, overlay)));
    }
    // The examples with the picker that they are meant for, in its namespace.
    for example in ["examples/simulated", "examples/vllm-lora"] {
        let both = format!("{picker}\n---\n{}", render(&api_server, example));
        texts.push((example, both));
    }
    for (overlay, text) in texts {
        let file = NamedTempFile::with_suffix(".yaml").expect("a file");
        std::fs::write(file.path(), text).expect("the manifests are written");
        let path = file.path().display().to_string();
        let done = pointsman(&["check", "--namespace=models", "-o", "json", &path]);
        let report = json_of(&done);
        assert_eq!(found(&report), set(&[]), "{overlay}: {report:#}");
        assert_eq!(done.status.code(), Some(0), "{overlay}");
    }
}

fn check(kubeconfig: &Path, flags: &[&str]) -> (i32, Value) {
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let mut arguments = vec!["check", "-o", "json", &kubeconfig];
    arguments.extend(flags);
    let done = pointsman(&arguments);
    (done.status.code().expect("no signal"), json_of(&done))
}

fn pointsman(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).env_remove("KUBECONFIG");
    command.output().expect("the binary is built")
}

fn json_of(done: &Output) -> Value {
    let read = serde_json::from_slice(&done.stdout);
    read.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&done.stderr)))
}

fn set(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(|it| (*it).to_owned()).collect()
}

/// Reason and object of every finding.
fn found(report: &Value) -> BTreeSet<String> {
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    let findings = report["findings"].as_array().expect("a list of findings");
    let one = |it: &Value| {
        let object = &it["object"];
        let (kind, namespace) = (word(&object["kind"]), word(&object["namespace"]));
        format!(
            "{} {kind} {namespace}/{}",
            word(&it["reason"]),
            word(&object["name"])
        )
    };
    findings.iter().map(one).collect()
}
