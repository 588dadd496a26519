//! Whom a picker suspects, and what that means.

use picker_core::Event;
use picker_core::endpoint::{EndpointKey, Subset};
use picker_core::event::{Ending, Following};
use picker_core::member::ReadFailure;
use picker_core::member::health::Suspect;
use picker_core::receipt::End;
use picker_core::schedule::Exclusion;

use crate::pool::{Answer, Pool, address, completion, reading, sized};

fn reason(pool: &Pool, key: u32) -> Option<Suspect> {
    pool.state(key).suspicion.map(|suspicion| suspicion.reason)
}

#[test]
fn a_refused_reading_keeps_picks_away_until_a_later_one_succeeds() {
    let mut pool = Pool::of(3);
    pool.answer(0, Answer::Failure(ReadFailure::Refused));
    pool.until(10_000.0);
    assert_eq!(reason(&pool, 0), Some(Suspect::Refused));
    assert!(!pool.picks(30, "m").contains(&0));
    pool.answer(0, Answer::Page(reading(0, 0)));
    pool.after(5_500.0);
    assert_eq!(reason(&pool, 0), None);
    assert!(pool.picks(30, "m").contains(&0));
}

#[test]
fn a_reading_that_was_begun_before_the_suspicion_does_not_end_it() {
    let mut pool = Pool::of(3);
    pool.answer(0, Answer::Never);
    pool.answer(1, Answer::Never);
    pool.answer(2, Answer::Never);
    let pick = pool.pick(completion("m"));
    pool.after(6_000.0);
    pool.readings.clear();
    let key = pick.endpoint.0;
    pool.end(pick.request, 503);
    assert_eq!(reason(&pool, key), Some(Suspect::Unreachable));
    pool.tell(Event::Read(EndpointKey(key), reading(0, 0)));
    assert_eq!(
        reason(&pool, key),
        Some(Suspect::Unreachable),
        "the server may have died since"
    );
    pool.answer(key, Answer::Page(reading(0, 0)));
    pool.after(60.0);
    assert_eq!(
        pool.readings_of(key).len(),
        1,
        "and it is asked again at once"
    );
    assert_eq!(reason(&pool, key), None);
}

#[test]
fn a_503_without_a_first_token_makes_suspect_and_is_checked_at_once() {
    let mut pool = Pool::of(3);
    pool.after(1_000.0);
    let pick = pool.pick(completion("m"));
    let key = pick.endpoint.0;
    pool.answer(key, Answer::Never);
    pool.readings.clear();
    let at = pool.now_ms();
    pool.end(pick.request, 503);
    assert_eq!(reason(&pool, key), Some(Suspect::Unreachable));
    assert_eq!(pool.readings_of(key), [at]);
    assert!(!pool.picks(10, "m").contains(&key));
    assert_eq!(pool.settled[0].1.end, End::Failed);
}

#[test]
fn answers_of_a_server_that_is_there_make_nobody_suspect() {
    let mut pool = Pool::of(2);
    // So that no reading ends a suspicion before it is seen.
    pool.answer(0, Answer::Never);
    pool.answer(1, Answer::Never);
    for status in [200, 400, 404, 429, 500] {
        let pick = pool.pick(completion("m"));
        pool.end(pick.request, status);
        assert_eq!(reason(&pool, pick.endpoint.0), None, "{status}");
    }
    let pick = pool.pick(completion("m"));
    pool.tell(Event::FirstToken(pick.request));
    pool.end(pick.request, 503);
    assert_eq!(reason(&pool, pick.endpoint.0), None, "its first token came");
    let pick = pool.pick(completion("m"));
    pool.tell(Event::Ended(pick.request, Ending::default()));
    assert_eq!(reason(&pool, pick.endpoint.0), None, "its client went away");
    assert_eq!(
        pool.settled.last().map(|(_, outcome)| outcome.end),
        Some(End::Abandoned)
    );
}

#[test]
fn three_readings_without_answer_make_suspect_and_one_does_not() {
    let mut pool = Pool::of(3);
    pool.answer(0, Answer::Failure(ReadFailure::TimedOut));
    pool.until(7_000.0);
    let readings = pool.readings_of(0).len();
    assert!(readings >= 3, "{readings}");
    assert_eq!(reason(&pool, 0), Some(Suspect::Silent));
    pool.answer(1, Answer::Failure(ReadFailure::TimedOut));
    pool.readings.clear();
    while pool.readings_of(1).is_empty() {
        pool.after(1.0);
    }
    assert_eq!(reason(&pool, 1), None);
}

#[test]
fn a_page_that_cannot_be_read_makes_nobody_suspect() {
    let mut pool = Pool::of(2);
    pool.answer(0, Answer::Failure(ReadFailure::Unreadable));
    pool.until(60_000.0);
    assert_eq!(reason(&pool, 0), None);
    assert!(pool.picks(20, "m").contains(&0));
}

#[test]
fn at_most_half_of_a_pool_is_left_out_and_those_longest_suspected() {
    let mut pool = Pool::of(5);
    for key in 0..4 {
        pool.answer(key, Answer::Failure(ReadFailure::Refused));
    }
    pool.until(30_000.0);
    // Answers stop, so that the order of suspicions stands.
    for key in 0..4 {
        pool.answer(key, Answer::Never);
    }
    pool.after(6_000.0);
    let mut since: Vec<_> = (0..4)
        .map(|key| {
            (
                pool.state(key).suspicion.map(|suspicion| suspicion.since),
                key,
            )
        })
        .collect();
    since.sort_unstable();
    let pick = pool.pick(completion("m"));
    assert_eq!(
        pick.endpoint,
        EndpointKey(4),
        "who is not suspect is cheapest by far"
    );
    let mut left_out: Vec<_> = pick
        .receipt
        .exclusions
        .iter()
        .map(|one| one.address)
        .collect();
    left_out.sort_unstable();
    let mut longest: Vec<_> = since[..2].iter().map(|(_, key)| address(*key)).collect();
    longest.sort_unstable();
    assert_eq!(left_out, longest);
    let reasons = pick.receipt.exclusions.iter().map(|one| one.reason);
    assert!(
        reasons
            .into_iter()
            .all(|reason| reason == Exclusion::Suspect(Suspect::Refused))
    );
    assert_eq!(pick.receipt.candidate_count, 3);
}

#[test]
fn a_pool_of_suspects_still_picks() {
    let mut pool = Pool::of(2);
    for key in 0..2 {
        pool.answer(key, Answer::Failure(ReadFailure::Refused));
    }
    pool.until(10_000.0);
    assert_eq!(pool.picks(10, "m").len(), 10);
}

#[test]
fn a_request_that_is_served_elsewhere_moves_its_debit_and_makes_the_picked_one_suspect() {
    let mut pool = Pool::of(3);
    let pick = pool.pick(completion("m"));
    let picked = pick.endpoint.0;
    let server = (picked + 1) % 3;
    pool.answer(picked, Answer::Never);
    pool.tell(Event::ServedElsewhere(pick.request, address(server)));
    assert_eq!(pool.state(picked).own.requests, 0);
    assert_eq!(pool.state(server).own.requests, 1);
    assert_eq!(reason(&pool, picked), Some(Suspect::Unreachable));
    assert_eq!(reason(&pool, server), None);
    pool.end(pick.request, 200);
    assert_eq!(pool.state(server).own.requests, 0);
    assert_eq!(pool.settled[0].1.served, Some(address(server)));
}

#[test]
fn a_request_that_is_served_outside_of_the_pool_stays_booked_until_it_ends() {
    let mut pool = Pool::of(3);
    let pick = pool.pick(completion("m"));
    pool.tell(Event::ServedElsewhere(pick.request, address(200)));
    assert_eq!(pool.picker.in_flight(), 1);
    pool.end(pick.request, 200);
    assert_eq!(pool.picker.in_flight(), 0);
    assert_eq!(pool.settled[0].1.served, Some(address(200)));
}

#[test]
fn a_request_that_the_picked_endpoint_serves_changes_nothing() {
    let mut pool = Pool::of(3);
    let pick = pool.pick(completion("m"));
    pool.tell(Event::ServedElsewhere(pick.request, pick.address));
    assert_eq!(reason(&pool, pick.endpoint.0), None);
    pool.end(pick.request, 200);
    assert_eq!(pool.settled[0].1.served, None);
}

/// A page of an engine that has made so many steps.
fn stepped(running: u64, steps: u64) -> Answer {
    let mut page = reading(running, 0);
    page.engines[0].steps = Some(steps);
    Answer::Page(page)
}

#[test]
fn an_engine_whose_counters_stand_still_over_work_for_three_seconds_hangs() {
    let mut pool = Pool::of(2);
    pool.answer(0, stepped(1, 500));
    pool.answer(1, stepped(1, 500));
    for _ in 0..8 {
        let _open = pool.place_as(Following::Watched, 0, completion("m"), None);
    }
    for second in 1..=8 {
        pool.answer(1, stepped(1, 500 + second * 50));
        pool.after(1_000.0);
        assert_eq!(reason(&pool, 1), None, "it works");
        if second <= 2 {
            assert_eq!(reason(&pool, 0), None, "not yet");
        }
    }
    assert_eq!(reason(&pool, 0), Some(Suspect::Hung));
    assert_eq!(pool.picks(10, "m"), [1; 10]);
    // It answers readings all the time; only work that is done disproves it.
    pool.answer(0, stepped(1, 501));
    pool.after(400.0);
    assert_eq!(reason(&pool, 0), None);
}

#[test]
fn a_page_that_stands_still_makes_nobody_suspect_where_requests_end() {
    let mut pool = Pool::of(1);
    pool.answer(0, stepped(1, 500));
    let mut next = None;
    for _ in 0..20 {
        let placed = pool.place_as(Following::Watched, 0, completion("m"), None);
        let pick = placed.expect("a pool with endpoints picks");
        pool.after(1_000.0);
        if let Some(earlier) = next.replace(pick.request) {
            pool.end(earlier, 200);
        }
        assert_eq!(reason(&pool, 0), None);
    }
}

#[test]
fn an_engine_that_is_idle_or_in_a_long_prompt_does_not_hang() {
    let mut pool = Pool::of(1);
    pool.answer(0, stepped(0, 500));
    pool.after(20_000.0);
    assert_eq!(reason(&pool, 0), None, "it has nothing to do");
    // 40,000 tokens at 0.05 ms are 2 s, and five times as long is no wonder.
    let _open = pool.place_as(Following::Watched, 0, sized("m", 160_000, true), None);
    pool.answer(0, stepped(1, 500));
    pool.after(4_000.0);
    assert_eq!(reason(&pool, 0), None, "it may be computing still");
    pool.after(8_000.0);
    assert_eq!(reason(&pool, 0), Some(Suspect::Hung));
}

/// Sends requests to server 0 alone, which fails each, until it is suspect; says how many.
fn fail(pool: &mut Pool) -> u32 {
    for failed in 1..=10 {
        let only = Subset::parse(["10.0.0.0:8000"]);
        let pick = pool.place(completion("m"), Some(only));
        pool.end(pick.expect("it is inside").request, 500);
        if reason(pool, 0).is_some() {
            return failed;
        }
    }
    panic!("ten requests in a row have failed");
}

#[test]
fn a_server_that_failed_a_request_is_dearer_for_a_while() {
    let mut pool = Pool::of(2);
    let only = Subset::parse(["10.0.0.0:8000"]);
    let pick = pool
        .place(completion("m"), Some(only))
        .expect("it is inside");
    pool.end(pick.request, 500);
    let risk_ms = |pool: &mut Pool| {
        let receipt = pool.pick(completion("m")).receipt;
        let of_0 = receipt.candidates.iter().find(|one| one.endpoint.0 == 0);
        of_0.map(|one| one.cost.risk_ms)
    };
    // One of ten smoothed, at ten seconds a failure; halved in ten seconds.
    assert_eq!(risk_ms(&mut pool), Some(1_000.0));
    pool.after(10_000.0);
    assert_eq!(risk_ms(&mut pool), Some(500.0));
}

#[test]
fn a_server_at_which_three_requests_in_a_row_fail_gets_none_but_one_now_and_then() {
    let mut pool = Pool::of(2);
    assert_eq!(fail(&mut pool), 3);
    assert_eq!(reason(&pool, 0), Some(Suspect::Failing));
    assert_eq!(pool.picks(5, "m"), [1; 5]);
    // After five seconds one request is sent to see, and after that one ten seconds later.
    let probes = |pool: &mut Pool, seconds: u32| {
        let mut probes = 0;
        for _ in 0..10 * seconds {
            pool.after(100.0);
            let pick = pool.pick(completion("m"));
            probes += u32::from(pick.receipt.probe);
            assert_eq!(pick.receipt.probe, pick.endpoint == EndpointKey(0));
            let status = if pick.receipt.probe { 500 } else { 200 };
            pool.end(pick.request, status);
        }
        probes
    };
    assert_eq!(probes(&mut pool, 4), 0);
    assert_eq!(probes(&mut pool, 2), 1);
    assert_eq!(probes(&mut pool, 8), 0);
    assert_eq!(probes(&mut pool, 3), 1);
    assert_eq!(reason(&pool, 0), Some(Suspect::Failing));
}

#[test]
fn a_probe_that_is_answered_ends_the_suspicion() {
    let mut pool = Pool::of(2);
    fail(&mut pool);
    pool.after(5_100.0);
    let pick = pool.pick(completion("m"));
    assert!(pick.receipt.probe);
    assert_eq!(
        pool.pick(completion("m")).endpoint,
        EndpointKey(1),
        "one at a time"
    );
    pool.end(pick.request, 200);
    assert_eq!(reason(&pool, 0), None);
}
