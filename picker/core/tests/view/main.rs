//! Priorities, rewrites and the catalogue of a pool: cases as data, and the shares of a weighted split.

use std::collections::{BTreeMap, BTreeSet};

use picker_core::catalogue;
use picker_core::route::PoolKey;
use picker_core::seed::Random;
use picker_core::view::objective::Objective;
use picker_core::view::rewrite::Rewrite;
use picker_core::view::{Asked, PoolView};
use serde::Deserialize;

/// A pool `ai/chat`, and what its requests get.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    objectives: Vec<Objective>,
    #[serde(default)]
    rewrites: Vec<Rewrite>,
    /// What servers list, as they send it.
    #[serde(default)]
    servers: Vec<serde_json::Value>,
    #[serde(default)]
    requests: Vec<Expected>,
    /// The catalogue: `[id, root, parent, created, max_model_len]` of each model.
    catalogue: Option<Vec<serde_json::Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    model: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    priority: Option<i32>,
    fairness: Option<String>,
    /// The models that it can get, over many draws; empty if it gets what it asks for.
    gets: Option<BTreeSet<String>>,
}

#[test]
fn objectives_rewrites_and_catalogues_are_as_the_cases_say() {
    let cases: Vec<Case> =
        serde_saphyr::from_str(include_str!("cases.yaml")).expect("a list of cases");
    let failures: Vec<_> = cases.iter().flat_map(Case::failures).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

impl Case {
    fn failures(&self) -> Vec<String> {
        let view = self.view();
        let mut failures = Vec::new();
        for request in &self.requests {
            if let Some(found) = request.differs(&view) {
                failures.push(format!("{}: {request:?}: found {found}", self.name));
            }
        }
        if let Some(wanted) = &self.catalogue {
            let found = self.listed(&view);
            if found != *wanted {
                failures.push(format!("{}: found {found:?}", self.name));
            }
        }
        failures
    }

    fn view(&self) -> PoolView {
        PoolView::new(
            &PoolKey::new("ai", "chat"),
            &self.objectives,
            &self.rewrites,
        )
    }

    fn listed(&self, view: &PoolView) -> Vec<serde_json::Value> {
        let read = |page: &serde_json::Value| {
            catalogue::read(page.to_string().as_bytes()).expect("a list")
        };
        let servers: Vec<_> = self.servers.iter().map(read).collect();
        let body = catalogue::body(catalogue::merge(servers.iter().map(Vec::as_slice), view));
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["object"], "list");
        let cards = body["data"].as_array().expect("a list of models");
        let row = |card: &serde_json::Value| {
            assert_eq!(card["object"], "model");
            serde_json::json!([
                card["id"],
                card["root"],
                card["parent"],
                card["created"],
                card["max_model_len"]
            ])
        };
        cards.iter().map(row).collect()
    }
}

impl Expected {
    fn differs(&self, view: &PoolView) -> Option<String> {
        with(self.model.as_deref(), &self.headers, |asked| {
            let standing = view.standing(asked);
            let gets = || -> BTreeSet<String> {
                let mut random = Random::new(1);
                (0..200)
                    .filter_map(|_| view.target(asked, random.next_u64()))
                    .map(|target| target.model.to_string())
                    .collect()
            };
            let wrong = self.priority.is_some_and(|it| it != standing.priority)
                || self
                    .fairness
                    .as_ref()
                    .is_some_and(|it| **it != *standing.fairness)
                || self.gets.as_ref().is_some_and(|it| *it != gets());
            wrong.then(|| format!("{standing:?}, {:?}", gets()))
        })
    }
}

fn with<R>(
    model: Option<&str>,
    headers: &[(String, String)],
    look: impl FnOnce(&Asked<'_>) -> R,
) -> R {
    let headers: Vec<_> = headers
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    look(&Asked {
        model,
        headers: &headers,
    })
}

fn split(weights: &[(&str, u32)]) -> PoolView {
    let targets = weights
        .iter()
        .map(|(model, weight)| serde_json::json!({"modelRewrite": model, "weight": weight}));
    let rewrite = serde_json::json!({
        "metadata": {"name": "canary", "namespace": "ai", "annotations": {"pointsman.dev/sticky-header": "x-session-id"}},
        "spec": {"poolRef": {"name": "chat"}, "rules": [
            {"matches": [{"model": {"value": "llama"}}], "targets": targets.collect::<Vec<_>>()}]},
    });
    let rewrite: Rewrite = serde_json::from_value(rewrite).expect("a rewrite");
    PoolView::new(&PoolKey::new("ai", "chat"), &[], &[rewrite])
}

/// The model of each of 4,000 sessions.
fn sessions(view: &PoolView) -> BTreeMap<u32, (String, usize)> {
    let one = |session: u32| {
        let headers = [("x-session-id".to_owned(), format!("session-{session}"))];
        let target = with(Some("llama"), &headers, |asked| view.target(asked, 7));
        let target = target.expect("a rule");
        let arm = target.arm.expect("an arm of the rewrite");
        (session, (target.model.to_string(), arm.target))
    };
    (0..4_000).map(one).collect()
}

fn share(sessions: &BTreeMap<u32, (String, usize)>, model: &str) -> f64 {
    let of_model = sessions
        .values()
        .filter(|(other, _)| other == model)
        .count();
    of_model as f64 / sessions.len() as f64
}

#[test]
fn a_split_keeps_its_weights_and_says_which_arm_it_was() {
    let found = sessions(&split(&[("stable", 90), ("canary", 10)]));
    assert!(
        (share(&found, "canary") - 0.1).abs() < 0.02,
        "{}",
        share(&found, "canary")
    );
    assert!(
        found
            .values()
            .all(|(model, arm)| (model == "canary") == (*arm == 1))
    );
    let mut random = Random::new(3);
    let view = split(&[("stable", 90), ("canary", 10)]);
    let drawn = (0..4_000).filter(|_| {
        let target = with(Some("llama"), &[], |asked| {
            view.target(asked, random.next_u64())
        });
        &*target.expect("a rule").model == "canary"
    });
    let drawn = drawn.count() as f64 / 4_000.0;
    assert!((drawn - 0.1).abs() < 0.02, "{drawn}");
}

#[test]
fn when_weights_change_only_those_sessions_move_that_the_change_is_about() {
    let before = sessions(&split(&[("stable", 80), ("canary", 10), ("third", 10)]));
    let after = sessions(&split(&[("stable", 60), ("canary", 30), ("third", 10)]));
    let moved = before
        .iter()
        .filter(|(session, (model, _))| after[session].0 != *model);
    for (session, (from, _)) in moved {
        // What canary gains comes from the others, and nothing moves between those but for what stable loses.
        assert!(
            from != "canary",
            "session {session} left canary, whose weight grew"
        );
    }
    let stayed = before
        .iter()
        .filter(|(session, (model, _))| after[session].0 == *model);
    assert!(stayed.count() > 3_000);
    let zero = sessions(&split(&[("stable", 0), ("canary", 100)]));
    assert!((share(&zero, "canary") - 1.0).abs() < f64::EPSILON);
}

#[test]
fn the_listing_of_a_real_server_is_read_and_given_back() {
    let page = include_bytes!("../fixtures/vllm/http/v1_models.json");
    let cards = catalogue::read(page).expect("vLLM's listing");
    let names: Vec<_> = cards.iter().map(|card| &*card.id).collect();
    assert_eq!(names, ["tiny", "a", "b", "c", "d"]);
    let body = catalogue::body(catalogue::merge([&cards[..]], &PoolView::default()));
    let ours: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let theirs: serde_json::Value = serde_json::from_slice(page).expect("JSON");
    let card = |list: &serde_json::Value, name: &str| {
        let data = list["data"].as_array().expect("a list").clone();
        let mut card = data
            .into_iter()
            .find(|card| card["id"] == name)
            .expect("the model");
        // What a model may be asked for is not ours to say.
        card.as_object_mut().expect("a card").remove("permission");
        card
    };
    for name in names {
        assert_eq!(card(&ours, name), card(&theirs, name));
    }
    let error = catalogue::read(b"<html>").expect_err("no list");
    assert!(error.contains("/v1/models"), "{error}");
}
