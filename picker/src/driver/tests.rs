//! What the driver promises of pools that share a process.

use std::time::Duration;

use picker_core::endpoint::{Endpoint, Subset};
use picker_core::engine::Engine;
use picker_core::event::Following;
use picker_core::request::Request;
use prometheus_client::registry::Registry;

use super::*;

fn pools() -> Arc<Pools> {
    let settings = Settings {
        seed: 0,
        reading_interval_min: Duration::from_millis(50),
    };
    let metrics = DriverMetrics::register(&mut Registry::default());
    Pools::new(settings, 1 << 20, metrics).0
}

fn spec(address: &str) -> PoolSpec {
    PoolSpec {
        endpoints: vec![Endpoint {
            identity: address.into(),
            name: address.into(),
            address: address.parse().expect("an address"),
            engine: Engine::vllm(),
        }],
        ..PoolSpec::default()
    }
}

fn served(pools: &Pools, pool: &PoolKey) -> Vec<SocketAddr> {
    let handle = pools.get(pool).expect("the pool is there");
    let endpoints = handle.endpoints();
    endpoints.iter().map(|one| one.address).collect()
}

#[test]
fn a_pool_that_stays_is_not_touched_by_changes_of_others() {
    let pools = pools();
    let (chat, code) = (PoolKey::new("ai", "chat"), PoolKey::new("ai", "code"));
    pools.change(vec![
        (chat.clone(), Some(spec("10.0.0.1:8000"))),
        (code.clone(), Some(spec("10.0.0.2:8000"))),
    ]);
    let key = |pool| pools.get(pool).expect("it is there").endpoints()[0].endpoint;
    let before = key(&chat);
    pools.change(vec![(code.clone(), None)]);
    assert!(pools.get(&code).is_none());
    assert_eq!(key(&chat), before);
    pools.change(vec![(code.clone(), Some(spec("10.0.0.3:8000")))]);
    assert_eq!(
        served(&pools, &code),
        ["10.0.0.3:8000".parse().expect("an address")]
    );
    assert_eq!(key(&chat), before);
}

#[test]
fn a_panic_in_one_pool_touches_no_other_and_not_even_its_own_endpoints() {
    let pools = pools();
    let (chat, code) = (PoolKey::new("ai", "chat"), PoolKey::new("ai", "code"));
    pools.change(vec![
        (chat.clone(), Some(spec("10.0.0.1:8000"))),
        (code.clone(), Some(spec("10.0.0.2:8000"))),
    ]);
    let handle = pools.get(&chat).expect("it is there");
    let mut panics = 1;
    let actions = handle.act(|picker, now| {
        if panics > 0 {
            panics -= 1;
            panic!("this is what the test is about");
        }
        picker.handle_timeout(now);
    });
    drop(actions);
    assert_eq!(
        served(&pools, &chat),
        ["10.0.0.1:8000".parse().expect("an address")]
    );
    assert_eq!(
        served(&pools, &code),
        ["10.0.0.2:8000".parse().expect("an address")]
    );
}

#[test]
fn a_pool_that_is_gone_leaves_no_series_behind() {
    let pools = pools();
    let chat = PoolKey::new("ai", "chat");
    pools.change(vec![(chat.clone(), Some(spec("10.0.0.1:8000")))]);
    let handle = pools.get(&chat).expect("it is there");
    assert_eq!(&*handle.label(), "ai/chat");
    pools.change(vec![(chat, None)]);
    assert_eq!(
        &*handle.label(),
        "other",
        "requests still in flight count there"
    );
}

/// A request that waits no moment for the pool's lock.
fn impatient(subset: Option<&str>) -> Ask {
    Ask {
        request_id: "r1".into(),
        request: Request::of_headers("/v1/completions"),
        standing: PoolView::default().standing(&Asked::default()),
        rewrite: None,
        subset: subset.map(|list| Subset::parse([list])),
        following: Following::Full,
        fallbacks: 1,
        within: Duration::ZERO,
        told: Told::OnlyPool,
        or: Arc::default(),
    }
}

#[test]
fn while_the_pool_is_busy_for_too_long_its_endpoints_take_turns() {
    let pools = pools();
    let chat = PoolKey::new("ai", "chat");
    let mut three = spec("10.0.0.1:8000");
    three.endpoints.extend(spec("10.0.0.2:8000").endpoints);
    three.endpoints.extend(spec("10.0.0.3:8000").endpoints);
    pools.change(vec![(chat.clone(), Some(three))]);
    let handle = pools.get(&chat).expect("it is there");
    let busy = handle.lock();
    let picks = |subset| handle.pick(impatient(subset));
    let flights: Vec<Flight> = (0..3)
        .map(|_| picks(None).expect("there are endpoints"))
        .collect();
    let mut firsts: Vec<SocketAddr> = flights.iter().map(|one| one.endpoints()[0]).collect();
    firsts.sort();
    let at = |host| SocketAddr::from(([10, 0, 0, host], 8000));
    assert_eq!(firsts, [at(1), at(2), at(3)]);
    assert_eq!(flights[0].endpoints().len(), 2, "and one to try next");
    let inside = picks(Some("10.0.0.2")).expect("one is inside");
    assert_eq!(inside.endpoints(), [at(2)]);
    let outside = picks(Some("6.6.6.6")).expect_err("nobody is inside");
    assert_eq!(outside.refusal, Refusal::EmptySubset);
    drop(busy);
    drop((flights, inside));
    assert_eq!(handle.in_flight(), 0);
    let flight = handle.pick(impatient(None)).expect("there are endpoints");
    assert_eq!(handle.in_flight(), 1, "once it is free, loads are booked");
    drop(flight);
}
