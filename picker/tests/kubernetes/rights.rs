//! The manifests of `deploy/kubernetes`: accepted by the API server, enough for the picker, and no more than that.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use serde_json::{Value, json};

use crds::InferencePool;

use super::api_server::{ApiServer, client_of};
use super::gateway_api::{KINDS, install_gateway_api};
use super::object::{apply_pool, install_crds, make_namespace, make_pod, pool};
use super::scene::{eventually, pods, repository};

/// Every CRD, as who installs `crds/yaml` has them.
const ALL: &[&str] = &[
    "inferencepools.yaml",
    "x-inferencepools.yaml",
    "inferenceobjectives.yaml",
    "x-inferenceobjectives.yaml",
    "inferencemodelrewrites.yaml",
    "x-inferencemodelrewrites.yaml",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_cluster_role_it_serves_and_can_neither_read_secrets_nor_write() {
    drop(check("cluster", "pointsman", "anywhere").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_namespaced_role_it_serves_and_can_neither_read_secrets_nor_write() {
    drop(check("namespaced", "models", "models").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_rights_to_publish_it_may_write_services_and_nothing_else() {
    let (api_server, _picker) = check("publishing", "pointsman", "anywhere").await;
    let services: Api<Service> = Api::namespaced(api_server.client.clone(), "anywhere");
    eventually("the Service of the pool is there", async || {
        let service = services.get_opt("chat-epp").await.expect("an answer");
        service.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_rights_to_read_routes_it_serves_all_the_same_and_says_what_to_grant() {
    let (_api_server, picker) = check_with("cluster", "pointsman", "anywhere", false).await;
    let page = picker.get("/readyz").await;
    for kind in KINDS {
        let source = format!("{kind}.gateway.networking.k8s.io");
        let expected = format!(
            "[+] {source} in all namespaces (forbidden: grant get, list and watch on {source} in all namespaces)"
        );
        assert!(page.contains(&expected), "{page}");
    }
}

/// Applies an overlay and runs the binary with its flags, as its service account, for a pool in `served`.
async fn check(overlay: &str, home: &str, served: &str) -> (ApiServer, Picker) {
    let (api_server, picker) = check_with(overlay, home, served, true).await;
    let page = picker.get("/readyz").await;
    assert!(!page.contains("forbidden"), "{page}");
    let of_routes = page
        .lines()
        .filter(|line| line.contains("gateway.networking.k8s.io"));
    let of_routes: Vec<&str> = of_routes.collect();
    assert_eq!(of_routes.len(), KINDS.len(), "{page}");
    assert!(of_routes.iter().all(|line| !line.contains('(')), "{page}");
    (api_server, picker)
}

/// The same, with or without the rights to read routes.
async fn check_with(overlay: &str, home: &str, served: &str, routes: bool) -> (ApiServer, Picker) {
    let api_server = ApiServer::start().await;
    let client = api_server.client.clone();
    install_crds(&client, ALL).await;
    install_gateway_api(&client).await;
    make_namespace(&client, home).await;
    if served != home {
        make_namespace(&client, served).await;
    }
    let mut rendered = render(&api_server, overlay);
    if !routes {
        let with = rendered.len();
        rendered = rendered.replace("- gateway.networking.k8s.io\n", "- nothing.example.com\n");
        assert_ne!(rendered.len(), with, "there is a rule for routes");
    }
    apply(&api_server, &rendered, &[]);
    let servers = pods(1).await;
    let at = servers[0].address();
    apply_pool(&client, served, &pool("chat", &[at.port()])).await;
    make_pod(&client, served, "chat-0", &json!({"app": "chat"}), at).await;

    let token = api_server.kubectl(&["create", "token", "pointsman", "--namespace", home], "");
    let kubeconfig = api_server.kubeconfig("pointsman", Some(token.trim()));
    let picker = Picker::start(&flags(&rendered, home), &kubeconfig, home);
    let expected = at.to_string();
    eventually("the picker serves the pool", async || {
        picker.get("/debug/state").await.contains(&expected)
    })
    .await;
    eventually("the picker is ready", async || {
        let page = picker.get("/readyz").await;
        !page.is_empty() && !page.contains("[-]")
    })
    .await;
    refused(&client_of(&kubeconfig).await, served).await;
    (api_server, picker)
}

/// What the service account must not do.
async fn refused(client: &kube::Client, namespace: &str) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pools: Api<InferencePool> = Api::namespaced(client.clone(), namespace);
    let pod = json!({
        "metadata": {"name": "new"},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    });
    let pod = serde_json::from_value(pod).expect("a pod");
    let patch = Patch::Merge(json!({"status": {"parents": []}}));
    let named = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let kind = ApiResource::from_gvk_with_plural(&named, "httproutes");
    let routes: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let route = DynamicObject::new("new", &kind).data(json!({"spec": {}}));
    let results = [
        (
            "list Secrets",
            secrets.list(&ListParams::default()).await.err(),
        ),
        (
            "make pods",
            pods.create(&PostParams::default(), &pod).await.err(),
        ),
        (
            "delete pods",
            pods.delete("chat-0", &DeleteParams::default()).await.err(),
        ),
        (
            "make routes",
            routes.create(&PostParams::default(), &route).await.err(),
        ),
        (
            "write the status of routes",
            routes
                .patch_status("llm", &PatchParams::default(), &patch)
                .await
                .err(),
        ),
        (
            "write the status of pools",
            pools
                .patch_status("chat", &PatchParams::default(), &patch)
                .await
                .err(),
        ),
    ];
    for (what, error) in results {
        let code = match error {
            Some(kube::Error::Api(status)) => status.code,
            other => panic!("it may {what}: {other:?}"),
        };
        assert_eq!(code, 403, "to {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_manifest_is_accepted_by_the_api_server() {
    let api_server = ApiServer::start().await;
    install_crds(&api_server.client, ALL).await;
    install_gateway_api(&api_server.client).await;
    make_namespace(&api_server.client, "pointsman").await;
    make_namespace(&api_server.client, "models").await;
    for overlay in [
        "cluster",
        "namespaced",
        "publishing",
        "examples/simulated",
        "examples/vllm-lora",
    ] {
        let rendered = render(&api_server, overlay);
        apply(&api_server, &rendered, &["--dry-run=server"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_crds_are_accepted_as_they_are_applied_by_hand() {
    let api_server = ApiServer::start().await;
    let folder = repository().join("crds/yaml").display().to_string();
    let done = api_server.kubectl(&["apply", "--server-side", "-f", &folder], "");
    let applied = done
        .lines()
        .filter(|line| line.ends_with("serverside-applied"));
    assert_eq!(applied.count(), crds::manifest::manifests().len(), "{done}");
}

pub(super) fn render(api_server: &ApiServer, overlay: &str) -> String {
    let folder = repository().join("deploy/kubernetes").join(overlay);
    api_server.kubectl(&["kustomize", &folder.display().to_string()], "")
}

pub(super) fn apply(api_server: &ApiServer, manifests: &str, flags: &[&str]) {
    let mut line = vec!["apply", "--server-side", "-f", "-"];
    line.extend(flags);
    api_server.kubectl(&line, manifests);
}

/// The flags of the rendered Deployment, as a kubelet would put them in.
fn flags(rendered: &str, namespace: &str) -> Vec<String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(rendered).expect("YAML");
    let deployment = documents.iter().find(|one| one["kind"] == "Deployment");
    let container = &deployment.expect("a Deployment")["spec"]["template"]["spec"]["containers"][0];
    let flags = container["args"].as_array().expect("flags").iter();
    flags
        .map(|flag| {
            flag.as_str()
                .expect("text")
                .replace("$(NAMESPACE)", namespace)
        })
        .collect()
}

/// The binary as a process of its own.
struct Picker {
    child: Child,
    admin: String,
}

impl Picker {
    fn start(flags: &[String], kubeconfig: &Path, namespace: &str) -> Self {
        let own = [
            "--bind-address=127.0.0.1",
            "--grpc-port=0",
            "--grpc-health-port=0",
            "--metrics-port=0",
        ];
        let mut child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .arg("serve")
            .args(flags)
            .args(own)
            .env("KUBECONFIG", kubeconfig)
            .env("NAMESPACE", namespace)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let output = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).expect("where it listens");
        let admin = said["listening"]["admin"].as_str().expect("an address");
        Self {
            admin: admin.to_owned(),
            child,
        }
    }

    /// A page of the admin port; empty if it does not answer.
    async fn get(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.admin);
        match reqwest::get(url).await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }
}

impl Drop for Picker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl ApiServer {
    /// What kubectl says, as the administrator; `input` is its standard input.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new(self.assets.join("kubectl"))
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig("admin", None))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is there");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("kubectl reads");
        drop(stdin);
        let done = child.wait_with_output().expect("kubectl ends");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "kubectl {arguments:?}: {errors}");
        String::from_utf8(done.stdout).expect("text")
    }
}
