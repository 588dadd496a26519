//! When endpoints are read.

use std::time::Duration;

use picker_core::Event;
use picker_core::member::ReadFailure;

use crate::pool::{Answer, Pool, completion, endpoint, reading};

/// Every wait between two readings of server 0 lies in `least..=most` milliseconds.
fn check_beat(pool: &mut Pool, span_ms: f64, least: f64, most: f64) {
    pool.readings.clear();
    pool.after(span_ms);
    let at = pool.readings_of(0);
    assert!(at.len() as f64 >= span_ms / most - 2.0, "{at:?}");
    for pair in at.windows(2) {
        let wait = pair[1] - pair[0];
        assert!(
            (least - 1e-6..=most + 1e-6).contains(&wait),
            "{wait} ms: {at:?}"
        );
    }
}

#[test]
fn an_idle_endpoint_is_read_every_five_seconds() {
    check_beat(&mut Pool::of(8), 60_000.0, 4_500.0, 5_000.0);
}

#[test]
fn an_endpoint_with_only_our_requests_is_read_every_second() {
    let mut pool = Pool::of(1);
    pool.answer(0, Answer::Page(reading(1, 0)));
    let pick = pool.pick(completion("m"));
    pool.tell(Event::FirstToken(pick.request));
    check_beat(&mut pool, 20_000.0, 900.0, 1_000.0);
}

#[test]
fn an_endpoint_where_requests_wait_is_read_every_200_ms() {
    let mut pool = Pool::of(1);
    pool.answer(0, Answer::Page(reading(1, 1)));
    for _ in 0..2 {
        let pick = pool.pick(completion("m"));
        pool.tell(Event::FirstToken(pick.request));
    }
    pool.after(1_000.0);
    check_beat(&mut pool, 5_000.0, 180.0, 200.0);
}

#[test]
fn an_endpoint_to_which_others_send_is_read_every_200_ms() {
    let mut pool = Pool::of(1);
    pool.answer(0, Answer::Page(reading(5, 0)));
    pool.after(5_000.0);
    check_beat(&mut pool, 5_000.0, 180.0, 200.0);
    pool.answer(0, Answer::Page(reading(0, 0)));
    pool.after(10_000.0);
    check_beat(&mut pool, 60_000.0, 4_500.0, 5_000.0);
}

#[test]
fn the_first_request_to_an_idle_endpoint_brings_its_reading_forward() {
    let mut pool = Pool::of(1);
    pool.until(pool.now_ms() + 4_000.0);
    pool.readings.clear();
    pool.pick(completion("m"));
    pool.after(1_000.0);
    assert_eq!(
        pool.readings_of(0).len(),
        1,
        "within a second, not within five"
    );
}

#[test]
fn the_least_interval_holds_for_every_beat() {
    let mut pool = Pool::unread(1, 3, Duration::from_secs(3));
    pool.answer(0, Answer::Page(reading(5, 5)));
    pool.after(5_000.0);
    check_beat(&mut pool, 60_000.0, 3_000.0, 3_000.0);
    pool.answer(0, Answer::Page(reading(0, 0)));
    pool.after(60_000.0);
    for _ in 0..20 {
        pool.pick(completion("m"));
        pool.after(500.0);
    }
    check_beat(&mut pool, 12_000.0, 3_000.0, 3_000.0);
}

/// The most readings that fall into any 10 ms of those logged.
fn most_at_once(pool: &Pool) -> usize {
    let at: Vec<f64> = pool.readings.iter().map(|(at, _)| *at).collect();
    let within = |from: f64| {
        at.iter()
            .filter(|&&at| (from..from + 10.0).contains(&at))
            .count()
    };
    at.iter().map(|&from| within(from)).max().unwrap_or(0)
}

#[test]
fn the_first_readings_of_a_pool_are_spread_over_time() {
    let mut pool = Pool::unread(200, 5, Duration::from_millis(50));
    pool.until(1_000.0);
    let mut read: Vec<u32> = pool.readings.iter().map(|(_, key)| *key).collect();
    read.sort_unstable();
    assert_eq!(read, (0..200).collect::<Vec<_>>(), "each is read once");
    assert!(most_at_once(&pool) <= 12, "{}", most_at_once(&pool));
}

#[test]
fn a_burst_over_idle_endpoints_does_not_bring_their_readings_into_step() {
    let mut pool = Pool::of(200);
    pool.until(12_000.0);
    pool.readings.clear();
    for _ in 0..1_000 {
        pool.pick(completion("m"));
    }
    pool.after(1_000.0);
    assert!(pool.readings.len() >= 200, "{}", pool.readings.len());
    assert!(most_at_once(&pool) <= 60, "{}", most_at_once(&pool));
}

#[test]
fn failed_readings_back_off_up_to_the_idle_beat() {
    let mut pool = Pool::of(2);
    pool.answer(0, Answer::Failure(ReadFailure::Refused));
    pool.after(60_000.0);
    let at = pool.readings_of(0);
    let waits: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, expected) in waits.iter().zip([
        100.0, 200.0, 400.0, 800.0, 1_600.0, 3_200.0, 5_000.0, 5_000.0,
    ]) {
        assert!((0.9 * expected..=expected).contains(wait), "{waits:?}");
    }
    assert!(waits.len() > 8, "it never gives up: {waits:?}");
}

#[test]
fn a_reading_that_is_under_way_is_not_asked_for_again() {
    let mut pool = Pool::of(1);
    pool.answer(0, Answer::Never);
    pool.pick(completion("m"));
    pool.after(60_000.0);
    assert_eq!(pool.readings_of(0).len(), 1);
}

#[test]
fn models_are_listed_at_first_every_minute_and_after_a_restart() {
    let mut pool = Pool::unread(1, 1, Duration::from_millis(50));
    let started = |process_start_s| {
        let mut page = reading(0, 0);
        page.process_start_s = Some(process_start_s);
        Answer::Page(page)
    };
    pool.answer(0, started(1_000.0));
    pool.until(50_000.0);
    assert_eq!(pool.listings.len(), 1, "{:?}", pool.listings);
    pool.until(70_000.0);
    assert_eq!(pool.listings.len(), 2, "{:?}", pool.listings);
    pool.answer(0, started(1_070.0));
    pool.after(10_000.0);
    assert_eq!(pool.listings.len(), 3, "{:?}", pool.listings);
}

#[test]
fn an_endpoint_that_comes_again_is_a_new_endpoint() {
    let mut pool = Pool::of(2);
    pool.answer(1, Answer::Page(reading(9, 3)));
    pool.after(6_000.0);
    assert!(pool.state(1).foreign > 0.0);
    let held = pool.pick(completion("m"));
    pool.tell(Event::Endpoints(vec![endpoint(0)]));
    pool.tell(Event::Endpoints(vec![endpoint(0), endpoint(1)]));
    let again = pool.state(2);
    assert_eq!(again.address, endpoint(1).address);
    assert_eq!(
        (again.foreign, again.slots, again.own.requests),
        (0.0, None, 0)
    );
    assert!(again.reading.is_none());
    assert!(
        pool.state(0).reading.is_some(),
        "the one that stayed is still known"
    );
    pool.end(held.request, 200);
    assert_eq!((pool.picker.in_flight(), pool.settled.len()), (0, 1));
}

#[test]
fn another_identity_at_the_same_address_is_another_endpoint() {
    let mut pool = Pool::of(1);
    let mut successor = endpoint(0);
    successor.identity = "uid-of-the-next-pod".into();
    pool.tell(Event::Endpoints(vec![successor]));
    assert!(pool.state(1).reading.is_none());
}
