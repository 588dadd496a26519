//! Whom a picker suspects, and what that means.

use picker_core::Event;
use picker_core::endpoint::EndpointKey;
use picker_core::event::Ending;
use picker_core::member::{ReadFailure, Suspect};
use picker_core::receipt::End;
use picker_core::schedule::Exclusion;

use crate::pool::{Answer, Pool, address, completion, reading};

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
