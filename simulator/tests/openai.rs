//! The OpenAI client of PyPI, as applications use it, against simulated servers: `openai/client.py` says what must hold.

use std::path::Path;
use std::process::{Command, Output};

use simulator::engine::Profile;
use simulator::serve::{Options, spawn};

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_client_library_works_against_a_server() {
    let profile = Profile {
        base_ms: 1.0,
        per_prefill_token_ms: 0.0,
        per_seq_ms: 0.0,
        max_model_len: 2048,
        adapter_load_ms: 1.0,
        ..Profile::demo()
    };
    let free = Options::local(1, "tiny", &["a", "b"], profile.clone());
    let full = Options {
        max_num_queued_reqs: Some(0),
        ..Options::local(1, "tiny", &[], profile)
    };
    let mut servers = spawn(free).await.expect("starts");
    servers.extend(spawn(full).await.expect("starts"));
    let urls = servers
        .iter()
        .map(|server| format!("http://{}/v1", server.address()))
        .collect::<Vec<_>>();
    let checked = tokio::task::spawn_blocking(move || client(&urls)).await;
    let output = checked.expect("no panic");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

/// Runs the checks by the Python that has the client, which is installed if it is not there yet.
fn client(urls: &[String]) -> Output {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().expect("the repository");
    let installed = Command::new("python3")
        .args(["tools/environment.py", "simulator/tests/openai"])
        .current_dir(root)
        .output()
        .expect("python3 is installed");
    let errors = String::from_utf8_lossy(&installed.stderr);
    assert!(installed.status.success(), "tools/environment.py: {errors}");
    let python = String::from_utf8(installed.stdout).expect("a path");
    Command::new(python.trim())
        .arg("-B")
        .arg(package.join("tests/openai/client.py"))
        .args(urls)
        .output()
        .expect("the environment's python runs")
}
