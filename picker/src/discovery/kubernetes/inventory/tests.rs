//! What the inventory makes of changes, in any order.

use std::ops::Range;

use picker_core::Event;
use picker_core::adapter::Model;
use picker_core::endpoint::{AdapterReading, EngineReading, Reading};
use prometheus_client::registry::Registry;
use serde_json::json;

use super::*;
use crate::driver::{DriverMetrics, Pools};

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        namespace: "ai".into(),
        name: name.into(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn pod(ip: &str, of: &[(&str, &str)]) -> Pod {
    Pod {
        uid: format!("uid-{ip}").into(),
        ip: ip.parse().expect("an address"),
        labels: labels(of),
        active_ports: None,
    }
}

fn pool(of: &[(&str, &str)], ports: &[u16]) -> Pool {
    Pool {
        selector: labels(of),
        ports: ports.to_vec(),
        service: Some(("epp".into(), Some(9002))),
    }
}

fn inventory() -> Inventory {
    Inventory::new(Wanted {
        shared_port: 9002,
        ..Wanted::default()
    })
}

/// What became of the touched pools: their addresses, or nothing if they are not served.
fn touched(inventory: &mut Inventory) -> Vec<(String, Option<Vec<String>>)> {
    let addresses = |spec: PoolSpec| {
        let all = spec.endpoints.iter().map(|one| one.address.to_string());
        all.collect()
    };
    let touched = inventory.take_touched().into_iter();
    touched
        .map(|(pool, spec)| (pool.name.to_string(), spec.map(addresses)))
        .collect()
}

fn is(name: &str, addresses: &[&str]) -> (String, Option<Vec<String>>) {
    let addresses = addresses.iter().map(|one| (*one).to_owned()).collect();
    (name.to_owned(), Some(addresses))
}

#[test]
fn pods_and_pools_meet_in_any_order() {
    let chat = &[("app", "chat")];
    for pods_first in [false, true] {
        let mut inventory = inventory();
        let set_pods = |inventory: &mut Inventory| {
            inventory.on_pod(Change::Set(key("a"), pod("10.0.0.1", chat)));
            inventory.on_pod(Change::Set(key("b"), pod("10.0.0.2", &[("app", "other")])));
        };
        if pods_first {
            set_pods(&mut inventory);
        }
        inventory.on_pool(
            Edition::Current,
            Change::Set(key("chat"), pool(chat, &[8000])),
        );
        if !pods_first {
            set_pods(&mut inventory);
        }
        assert_eq!(touched(&mut inventory), [is("chat", &["10.0.0.1:8000"])]);
    }
}

#[test]
fn a_change_is_about_the_pools_that_it_concerns() {
    let mut inventory = inventory();
    for name in ["chat", "code"] {
        let selector = &[("app", name)];
        inventory.on_pool(
            Edition::Current,
            Change::Set(key(name), pool(selector, &[8000])),
        );
    }
    inventory.take_touched();
    inventory.on_pod(Change::Set(key("a"), pod("10.0.0.1", &[("app", "chat")])));
    assert_eq!(touched(&mut inventory), [is("chat", &["10.0.0.1:8000"])]);
    inventory.on_pod(Change::Set(key("a"), pod("10.0.0.1", &[("app", "chat")])));
    assert_eq!(touched(&mut inventory), [], "nothing is new");
    inventory.on_pod(Change::Set(key("a"), pod("10.0.0.1", &[("app", "code")])));
    let moved = [is("chat", &[]), is("code", &["10.0.0.1:8000"])];
    assert_eq!(touched(&mut inventory), moved);
    inventory.on_pod(Change::Gone(key("a")));
    assert_eq!(touched(&mut inventory), [is("code", &[])]);
}

#[test]
fn every_label_of_a_selector_counts_and_none_selects_none() {
    let mut inventory = inventory();
    let both = &[("app", "chat"), ("tier", "gpu")];
    inventory.on_pod(Change::Set(key("a"), pod("10.0.0.1", both)));
    inventory.on_pod(Change::Set(key("b"), pod("10.0.0.2", &both[..1])));
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("chat"), pool(both, &[8000])),
    );
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("none"), pool(&[], &[8000])),
    );
    let found = touched(&mut inventory);
    assert_eq!(found, [is("chat", &["10.0.0.1:8000"]), is("none", &[])]);
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("chat"), pool(&both[..1], &[8000])),
    );
    let found = touched(&mut inventory);
    assert_eq!(found, [is("chat", &["10.0.0.1:8000", "10.0.0.2:8000"])]);
    inventory.on_pod(Change::Set(key("c"), pod("10.0.0.3", &both[..1])));
    let all = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"];
    assert_eq!(touched(&mut inventory), [is("chat", &all)]);
}

#[test]
fn each_target_port_is_an_endpoint_unless_the_pod_says_it_is_not_active() {
    let mut inventory = inventory();
    let chat = &[("app", "chat")];
    inventory.on_pod(Change::Set(key("a"), pod("10.0.0.1", chat)));
    let partly = Pod {
        active_ports: Some(vec![8001, 9999]),
        ..pod("10.0.0.2", chat)
    };
    inventory.on_pod(Change::Set(key("b"), partly));
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("chat"), pool(chat, &[8000, 8001])),
    );
    let spec = inventory.take_touched().remove(0).1.expect("it is served");
    let found: Vec<(&str, &str, String)> = spec
        .endpoints
        .iter()
        .map(|one| (&*one.identity, &*one.name, one.address.to_string()))
        .collect();
    let expected = [
        ("uid-10.0.0.1/0", "ai/a-rank-0", "10.0.0.1:8000".to_owned()),
        ("uid-10.0.0.1/1", "ai/a-rank-1", "10.0.0.1:8001".to_owned()),
        ("uid-10.0.0.2/1", "ai/b-rank-1", "10.0.0.2:8001".to_owned()),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_new_list_removes_what_is_not_in_it_within_its_scope() {
    let mut inventory = inventory();
    let chat = &[("app", "chat")];
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("chat"), pool(chat, &[8000])),
    );
    for (name, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        inventory.on_pod(Change::Set(key(name), pod(ip, chat)));
    }
    inventory.take_touched();
    inventory.on_pod(Change::Only(Some("other".into()), HashSet::new()));
    assert_eq!(touched(&mut inventory), []);
    inventory.on_pod(Change::Only(Some("ai".into()), HashSet::from([key("b")])));
    assert_eq!(touched(&mut inventory), [is("chat", &["10.0.0.2:8000"])]);
    inventory.on_pool(Edition::Current, Change::Only(None, HashSet::new()));
    assert_eq!(touched(&mut inventory), [("chat".to_owned(), None)]);
}

#[test]
fn the_older_edition_counts_where_the_current_one_is_not() {
    let mut inventory = inventory();
    let chat = &[("app", "chat")];
    inventory.on_pod(Change::Set(key("a"), pod("10.0.0.1", chat)));
    inventory.on_pool(
        Edition::Older,
        Change::Set(key("chat"), pool(chat, &[7000])),
    );
    assert_eq!(touched(&mut inventory), [is("chat", &["10.0.0.1:7000"])]);
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("chat"), pool(chat, &[8000])),
    );
    assert_eq!(touched(&mut inventory), [is("chat", &["10.0.0.1:8000"])]);
    inventory.on_pool(Edition::Older, Change::Only(None, HashSet::new()));
    assert_eq!(touched(&mut inventory), [], "it did not count");
    inventory.on_pool(Edition::Current, Change::Gone(key("chat")));
    assert_eq!(touched(&mut inventory), [("chat".to_owned(), None)]);
}

#[test]
fn a_pool_is_served_if_its_picker_is_wanted() {
    let mut inventory = Inventory::new(Wanted {
        services: BTreeSet::from(["ours".to_owned()]),
        ..Wanted::default()
    });
    let with = |service: Option<&str>| Pool {
        service: service.map(|name| (name.into(), None)),
        ..pool(&[("app", "chat")], &[8000])
    };
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("mine"), with(Some("ours"))),
    );
    inventory.on_pool(Edition::Current, Change::Set(key("none"), with(None)));
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("theirs"), with(Some("other"))),
    );
    let found = touched(&mut inventory);
    let expected = [
        is("mine", &[]),
        ("none".into(), None),
        ("theirs".into(), None),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_pool_has_a_listener_of_its_own_if_its_service_leads_to_another_port() {
    let mut inventory = inventory();
    let port = |inventory: &mut Inventory| {
        let spec = inventory.take_touched().pop().expect("a touched pool").1;
        spec.expect("it is served").port
    };
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("chat"), pool(&[], &[8000])),
    );
    assert_eq!(port(&mut inventory), None, "the Service is not known");
    for (target, expected) in [(9002, None), (9012, Some(9012))] {
        let targets = BTreeMap::from([(9002, target)]);
        inventory.on_service(Change::Set(key("epp"), Service { targets }));
        assert_eq!(
            inventory
                .take_touched()
                .pop()
                .and_then(|(_, spec)| spec)
                .and_then(|spec| spec.port),
            expected
        );
    }
}

/// An object of the core's types in namespace `ai`.
fn object<T: serde::de::DeserializeOwned>(name: &str, spec: &serde_json::Value) -> T {
    let object = json!({"metadata": {"name": name, "namespace": "ai"}, "spec": spec});
    serde_json::from_value(object).expect("an object")
}

#[test]
fn an_objective_is_of_the_pool_that_it_names() {
    let mut inventory = inventory();
    inventory.on_pool(
        Edition::Current,
        Change::Set(key("chat"), pool(&[], &[8000])),
    );
    inventory.take_touched();
    let objective = |priority| -> Objective {
        let spec = json!({"poolRef": {"name": "chat"}, "priority": priority});
        object("batch", &spec)
    };
    let priority = |inventory: &mut Inventory| {
        let spec = inventory.take_touched().pop().expect("a touched pool").1;
        let objectives = spec.expect("it is served").objectives;
        objectives.first().and_then(|one| one.spec.priority)
    };
    inventory.on_objective(Edition::Older, Change::Set(key("batch"), objective(-1)));
    assert_eq!(priority(&mut inventory), Some(-1));
    inventory.on_objective(Edition::Current, Change::Set(key("batch"), objective(5)));
    assert_eq!(priority(&mut inventory), Some(5));
    inventory.on_objective(Edition::Current, Change::Gone(key("batch")));
    assert_eq!(priority(&mut inventory), Some(-1));
}

#[test]
fn a_rewrite_that_moves_to_another_pool_is_news_for_both() {
    let mut inventory = inventory();
    for name in ["chat", "code"] {
        inventory.on_pool(Edition::Current, Change::Set(key(name), pool(&[], &[8000])));
    }
    inventory.take_touched();
    let rewrite = |pool| -> Rewrite {
        let rules = json!([{"targets": [{"modelRewrite": "b"}]}]);
        object(
            "canary",
            &json!({"poolRef": {"name": pool}, "rules": rules}),
        )
    };
    let rewrites = |inventory: &mut Inventory| -> Vec<(String, usize)> {
        let touched = inventory.take_touched().into_iter();
        let count = |spec: Option<PoolSpec>| spec.expect("it is served").rewrites.len();
        touched
            .map(|(pool, spec)| (pool.name.to_string(), count(spec)))
            .collect()
    };
    inventory.on_rewrite(
        Edition::Current,
        Change::Set(key("canary"), rewrite("chat")),
    );
    assert_eq!(rewrites(&mut inventory), [("chat".to_owned(), 1)]);
    inventory.on_rewrite(
        Edition::Current,
        Change::Set(key("canary"), rewrite("code")),
    );
    let both = [("chat".to_owned(), 0), ("code".to_owned(), 1)];
    assert_eq!(rewrites(&mut inventory), both);
    inventory.on_rewrite(
        Edition::Current,
        Change::Set(key("canary"), rewrite("code")),
    );
    assert_eq!(rewrites(&mut inventory), [], "nothing has changed");
    let none = Change::Only(Some("ai".into()), HashSet::new());
    inventory.on_rewrite(Edition::Current, none);
    assert_eq!(rewrites(&mut inventory), [("code".to_owned(), 0)]);
}

/// What an engine says of itself that shows everything.
fn reading() -> Reading {
    let engine = EngineReading {
        engine: "0".to_owned(),
        running: Some(0),
        waiting: Some(0),
        waiting_capacity: Some(0),
        waiting_deferred: Some(0),
        kv_usage: Some(0.0),
        block_size: Some(16),
        kv_blocks: Some(27_000),
        prompt_tokens: Some(1 << 40),
        generation_tokens: Some(1 << 40),
        steps: Some(1 << 40),
        step_tokens: Some(1 << 40),
        prefix_queries: Some(1 << 40),
        prefix_hits: Some(1 << 40),
        preemptions: Some(0),
        finished: Some(1 << 20),
    };
    Reading {
        engines: vec![engine],
        adapters: Some(AdapterReading {
            slots: Some(8),
            running: Vec::new(),
        }),
        process_start_s: Some(1.8e9),
    }
}

/// Makes pools with ten pods each, all of them read, with three models each, and their metrics looked at once.
fn make_pools(inventory: &mut Inventory, pools: &Pools, numbers: Range<u8>) {
    for number in numbers {
        let name = format!("llama-3-1-8b-instruct-{number:03}");
        let selector = [("app.kubernetes.io/name", "vllm"), ("model", &name)];
        let pool = pool(&selector, &[8000]);
        inventory.on_pool(Edition::Current, Change::Set(key(&name), pool));
        for pod_number in 0..10 {
            let labels = [
                ("app.kubernetes.io/name", "vllm"),
                ("app.kubernetes.io/managed-by", "Helm"),
                ("model", &name),
                ("pod-template-hash", "7d4b9c6f5d"),
                ("llm-d.ai/engine-type", "vllm"),
            ];
            let pod = pod(&format!("10.1.{number}.{pod_number}"), &labels);
            let pod_name = format!("{name}-7d4b9c6f5d-abc{pod_number:02}");
            inventory.on_pod(Change::Set(key(&pod_name), pod));
        }
    }
    for (pool, spec) in inventory.take_touched() {
        pools.change(vec![(pool.clone(), spec)]);
        let handle = pools.get(&pool).expect("it is served");
        for endpoint in handle.endpoints() {
            handle.tell(Event::Read(endpoint.endpoint, reading()));
            let models = [&*pool.name, "adapter-a", "adapter-b"].map(|name| Model {
                name: name.into(),
                adapter: name.starts_with("adapter"),
            });
            handle.tell(Event::Models(endpoint.endpoint, models.to_vec()));
        }
    }
    let all = pools.all();
    let states = all
        .iter()
        .map(|one| (one.label(), one.in_flight(), one.endpoints()));
    pools.metrics().observe(&states.collect::<Vec<_>>());
}

#[test]
fn an_idle_pool_of_ten_pods_costs_at_most_100_kb() {
    let settings = picker_core::Settings {
        seed: 0,
        reading_interval_min: std::time::Duration::from_millis(50),
    };
    let metrics = DriverMetrics::register(&mut Registry::default());
    let (pools, _errands) = Pools::new(settings, 1 << 20, metrics);
    let mut inventory = inventory();
    make_pools(&mut inventory, &pools, 0..1);
    let cost = allocation_counter::measure(|| make_pools(&mut inventory, &pools, 1..101));
    let bytes = cost.bytes_current / 100;
    assert!(bytes <= 100_000, "{bytes} bytes a pool");
    assert!(bytes > 1_000, "{bytes} bytes a pool: nothing was measured");
}
