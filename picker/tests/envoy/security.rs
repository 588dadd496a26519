//! TLS between Envoy and the picker: agreed, verified, and not agreed.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use simulator::engine::Profile;
use tempfile::TempDir;

use crate::scene::{By, Link, Scene, eventually};

/// The `transport_socket` that people are given.
fn sample() -> Value {
    let text = include_str!("../../../deploy/envoy/picker-tls.yaml");
    let value: Value = serde_saphyr::from_str(text).expect("YAML");
    value["transport_socket"].clone()
}

/// The sample, so that it accepts only certificates that this one has signed.
fn verifying(authority: &str) -> Value {
    let mut socket = sample();
    socket["typed_config"]["common_tls_context"]["validation_context"] =
        json!({"trusted_ca": {"inline_string": authority}});
    socket
}

/// A folder for `--cert-path`, and what to trust for it.
fn mounted() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["picker.test".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    fs::write(folder.path().join("tls.crt"), &certificate).expect("a file");
    fs::write(folder.path().join("tls.key"), key.serialize_pem()).expect("a file");
    (folder, certificate)
}

/// Sends a request, and checks that it went where the picker said.
async fn check_pick(scene: &Scene) {
    let body = json!({"model": "base", "prompt": "x", "max_tokens": 3}).to_string();
    let answer = scene
        .post(
            (0, By::Metadata),
            "v1/completions",
            "one",
            body.into_bytes(),
        )
        .await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.expect("a whole answer");
    let (_, server, _) = scene.received_by("one");
    assert_eq!(scene.picked("one").await, server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_verifies_nothing_gets_its_picks_over_tls() {
    let link = Link {
        flags: vec!["--require-tls".to_owned()],
        security: Some(sample()),
        ..Link::default()
    };
    let scene = Scene::linked(&[2], Profile::llama_8b_h100(), link).await;
    check_pick(&scene).await;
    let begun = "pointsman_connections_total{security=\"tls\"}";
    assert!(scene.metric(begun).await >= Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_trusts_the_mounted_certificate_gets_its_picks() {
    let (folder, certificate) = mounted();
    let link = Link {
        flags: vec![format!("--cert-path={}", folder.path().display())],
        security: Some(verifying(&certificate)),
        ..Link::default()
    };
    let scene = Scene::linked(&[2], Profile::llama_8b_h100(), link).await;
    check_pick(&scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_envoy_and_the_picker_disagree_on_is_told_apart() {
    let (_, elsewhere) = mounted();
    for (flags, security, reason) in [
        (&[][..], Some(verifying(&elsewhere)), "untrusted"),
        (&["--require-tls"], None, "plaintext_is_off"),
        (&["--secure-serving=false"], Some(sample()), "tls_is_off"),
    ] {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let link = Link {
            flags,
            security,
            ..Link::default()
        };
        let scene = Scene::unchecked(&[1], Profile::llama_8b_h100(), link).await;
        let refused = format!("pointsman_connections_refused_total{{reason=\"{reason}\"}}");
        eventually(reason, async || scene.metric(&refused).await >= Some(1.0)).await;
    }
}
