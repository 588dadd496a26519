//! What the driver promises of pools that share a process.

use std::time::Duration;

use picker_core::endpoint::Endpoint;
use picker_core::engine::Engine;
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
