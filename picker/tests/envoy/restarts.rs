//! A picker that is restarted under load: told to end, it loses nothing.

use std::path::PathBuf;

use simulator::restart::{Options, Signal, Way, measure};

use crate::scene::envoy_executable;

/// Restarts the picker under load, and says what was lost.
async fn check(follow: Way) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        envoy: envoy_executable(),
        pointsman: PathBuf::from(env!("CARGO_BIN_EXE_pointsman")),
        out: folder.path().to_owned(),
        restarts: 2,
        rate: 40.0,
        seconds: 8,
        follow: vec![follow],
        signal: vec![Signal::Term],
        json: false,
    };
    let losses = measure(&options).await.expect("it can be measured");
    assert_eq!(losses[0].lost, [0, 0], "{losses:?}");
    assert!(losses[0].requests >= 600, "{losses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picker_that_watches_and_is_told_to_end_loses_no_request() {
    check(Way::Watched).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picker_that_follows_in_full_and_is_told_to_end_loses_no_request() {
    check(Way::Full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picker_that_follows_nothing_and_is_told_to_end_loses_no_request() {
    check(Way::Released).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picker_that_watches_by_the_filter_that_asks_and_is_told_to_end_loses_no_request() {
    check(Way::OneFilter).await;
}
