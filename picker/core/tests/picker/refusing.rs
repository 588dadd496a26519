//! Which requests are refused for the sake of others, and when they may come back.

use picker_core::action::Refusal;
use picker_core::endpoint::{EndpointKey, EngineReading, Reading};
use picker_core::event::Event;

use super::pool::{Answer, Pool, completion, reading};

/// A page with a KV cache of which `usage` is used.
fn kv(usage: f64) -> Answer {
    Answer::Page(Reading {
        engines: vec![EngineReading {
            running: Some(1),
            waiting: Some(0),
            kv_usage: Some(usage),
            ..EngineReading::default()
        }],
        ..Reading::default()
    })
}

fn waiting(count: u64) -> Answer {
    Answer::Page(reading(8, count))
}

/// Whether a request of `priority` is refused by servers that answer so.
fn is_refused(priority: i32, answers: &[Answer]) -> bool {
    let mut pool = Pool::of(u32::try_from(answers.len()).expect("a small pool"));
    for (key, answer) in answers.iter().enumerate() {
        pool.answer(u32::try_from(key).expect("a small pool"), answer.clone());
    }
    pool.after(6_000.0);
    match pool.place_of(priority, completion("base")) {
        Ok(_) => false,
        Err((Refusal::Overloaded { .. }, receipt)) => {
            assert!(receipt.overloaded && receipt.following.is_none());
            assert_eq!(receipt.candidate_count, answers.len());
            assert_eq!(pool.picker.in_flight(), 0, "nothing is booked");
            true
        }
        Err((other, _)) => panic!("refused for another reason: {other:?}"),
    }
}

#[test]
fn only_what_may_be_refused_is_and_only_when_every_server_is_saturated() {
    for (priority, answers, expected) in [
        (-1, vec![waiting(5)], true),
        (-1, vec![waiting(4)], false),
        (0, vec![waiting(500)], false),
        (7, vec![waiting(500)], false),
        (-1, vec![waiting(5), waiting(5)], true),
        (-1, vec![waiting(500), waiting(4)], false),
        (-1, vec![kv(0.8), waiting(5)], true),
        (-1, vec![kv(0.79)], false),
        (-1, vec![Answer::Page(Reading::default())], false),
    ] {
        assert_eq!(
            is_refused(priority, &answers),
            expected,
            "{priority}: {answers:?}"
        );
    }
}

#[test]
fn a_reading_that_is_old_refuses_nobody() {
    let mut pool = Pool::of(2);
    pool.answer(0, waiting(9));
    pool.answer(1, waiting(9));
    pool.after(6_000.0);
    pool.answer(0, Answer::Never);
    pool.answer(1, Answer::Never);
    pool.after(9_000.0);
    assert!(
        pool.place_of(-1, completion("base")).is_err(),
        "it is fresh still"
    );
    pool.after(2_000.0);
    assert!(pool.place_of(-1, completion("base")).is_ok());
}

/// What is told after how many seconds to come back, of servers at which so many wait, and so many have left in the last two seconds.
fn retry_after(servers: &[(u64, u64)]) -> Option<u32> {
    let mut pool = Pool::of(u32::try_from(servers.len()).expect("a small pool"));
    for key in 0..servers.len() {
        pool.answer(u32::try_from(key).expect("a small pool"), Answer::Never);
    }
    pool.after(6_000.0);
    for left in [false, true] {
        for (key, &(waiting, finished)) in servers.iter().enumerate() {
            let engine = EngineReading {
                running: Some(8),
                waiting: Some(waiting),
                finished: Some(if left { 100 + finished } else { 100 }),
                generation_tokens: Some(1_000),
                ..EngineReading::default()
            };
            let page = Reading {
                engines: vec![engine],
                ..Reading::default()
            };
            let key = EndpointKey(u32::try_from(key).expect("a small pool"));
            pool.tell(Event::Read(key, page));
        }
        if !left {
            pool.after(2_000.0);
        }
    }
    match pool.place_of(-1, completion("base")) {
        Err((Refusal::Overloaded { retry_after_s }, _)) => retry_after_s,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_time_to_come_back_is_when_the_first_server_is_relieved() {
    // Nine wait, four may, two a second leave: five have to, in 2.5 s.
    assert_eq!(retry_after(&[(9, 4)]), Some(3));
    // The other needs (30 - 4) / 10 = 2.6 s, and 5 / 0.5 = 10 s.
    assert_eq!(retry_after(&[(30, 20), (9, 1)]), Some(3));
    assert_eq!(retry_after(&[(104, 20)]), Some(10));
    // Nobody was seen to leave: not known.
    assert_eq!(retry_after(&[(9, 0)]), None);
    assert_eq!(retry_after(&[(9, 0), (104, 20)]), Some(10));
}
