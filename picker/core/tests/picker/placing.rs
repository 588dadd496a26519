//! Where a picker places requests, and what its receipts say of it.

use picker_core::Event;
use picker_core::action::Refusal;
use picker_core::adapter::Need;
use picker_core::cost::{FAILURE_MS, SEQUENCES_MAX};
use picker_core::endpoint::{Endpoint, Subset};
use picker_core::engine::Engine;
use picker_core::event::{Ending, Following};
use picker_core::receipt::End;
use picker_core::request::{Body, Request};
use picker_core::schedule::{Exclusion, TIE_MS, TIE_SHARE};

use crate::pool::{Answer, Pool, adapters, address, completion, reading, sized};

#[test]
fn a_subset_limits_the_choice_and_the_receipt_names_who_is_outside() {
    let mut pool = Pool::of(3);
    for _ in 0..5 {
        let subset = Subset::parse(["10.0.0.1:8000"]);
        let pick = pool
            .place(completion("m"), Some(subset))
            .expect("one is inside");
        assert_eq!(pick.address, address(1));
        let outside: Vec<_> = pick
            .receipt
            .exclusions
            .iter()
            .map(|one| (one.address, one.reason))
            .collect();
        assert_eq!(
            outside,
            [
                (address(0), Exclusion::OutsideSubset),
                (address(2), Exclusion::OutsideSubset)
            ]
        );
        assert_eq!(pick.receipt.margin_ms, None, "there is no runner-up");
    }
}

#[test]
fn a_subset_without_any_endpoint_of_the_pool_is_refused() {
    let mut pool = Pool::of(2);
    let subset = Some(Subset::parse(["192.0.2.1"]));
    let (refusal, receipt) = pool
        .place(completion("m"), subset)
        .expect_err("nobody is inside");
    assert_eq!(refusal, Refusal::EmptySubset);
    assert_eq!((receipt.exclusion_count, receipt.candidate_count), (2, 0));
    assert_eq!(receipt.following, None);
    assert_eq!(pool.picker.in_flight(), 0, "nothing is booked");
}

#[test]
fn a_pool_without_endpoints_refuses_and_says_so() {
    let mut pool = Pool::of(0);
    let (refusal, receipt) = pool
        .place(completion("m"), None)
        .expect_err("there is none");
    assert_eq!(refusal, Refusal::NoEndpoints);
    assert_eq!((receipt.endpoints, receipt.ties), (0, 0));
}

#[test]
fn a_model_that_some_list_is_sent_to_those_alone() {
    let mut pool = Pool::with_models(3, &["base"]);
    pool.list(1, &["base", "lora-a"]);
    assert_eq!(pool.picks(20, "lora-a"), [1; 20]);
    let receipt = pool.pick(completion("lora-a")).receipt;
    let reasons: Vec<_> = receipt.exclusions.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, [Exclusion::ModelNotServed; 2]);
}

#[test]
fn a_model_that_nobody_lists_excludes_nobody() {
    let mut pool = Pool::with_models(3, &["base"]);
    let mut picks = pool.picks(30, "unheard of");
    picks.dedup();
    assert_eq!(picks, [0, 1, 2]);
}

#[test]
fn an_endpoint_whose_models_are_unknown_may_serve_any() {
    let mut pool = Pool::unread(2, 1, std::time::Duration::from_millis(50));
    pool.list(1, &["lora-a"]);
    let receipt = pool.pick(completion("lora-a")).receipt;
    assert_eq!(receipt.candidate_count, 2);
}

#[test]
fn requests_for_an_adapter_go_where_it_is_resident() {
    let mut pool = Pool::with_models(4, &["base", "lora-a", "lora-b"]);
    for key in 0..4 {
        pool.answer(key, Answer::Page(adapters(2, &[])));
    }
    pool.answer(2, Answer::Page(adapters(2, &["lora-b"])));
    pool.after(6_000.0);
    let first = pool.pick(completion("lora-a"));
    assert_eq!(first.receipt.candidates[0].adapter, Need::Load);
    pool.end(first.request, 200);
    for _ in 0..20 {
        let next = pool.pick(completion("lora-a"));
        assert_eq!(next.endpoint, first.endpoint, "{:#?}", next.receipt);
        assert_eq!(next.receipt.candidates[0].adapter, Need::Resident);
        let runner_up = &next.receipt.candidates[1];
        assert!(matches!(runner_up.adapter, Need::Load), "{runner_up:?}");
        assert_eq!(runner_up.cost.adapter_ms, 300.0);
        pool.end(next.request, 200);
    }
    assert_eq!(
        pool.pick(completion("lora-b")).address,
        address(2),
        "a running adapter is resident"
    );
}

#[test]
fn a_server_that_queues_for_its_adapter_is_left_when_a_load_is_cheaper() {
    let mut pool = Pool::with_models(2, &["base", "lora-a"]);
    for key in 0..2 {
        pool.answer(key, Answer::Page(adapters(2, &[])));
    }
    pool.after(6_000.0);
    let home = pool.pick(completion("lora-a")).endpoint.0;
    let away = pool
        .picks(40, "lora-a")
        .into_iter()
        .filter(|&key| key != home)
        .count();
    assert!((10..30).contains(&away), "{away} of 40 go to the other");
}

#[test]
fn an_endpoint_that_got_more_than_its_share_is_dearer_while_more_adapters_are_wanted_than_there_are_slots()
 {
    let mut pool = Pool::with_models(2, &["base", "lora-a", "lora-b", "lora-c"]);
    for key in 0..2 {
        pool.answer(key, Answer::Page(adapters(1, &[])));
    }
    pool.after(6_000.0);
    let home = pool.pick(completion("lora-a"));
    pool.end(home.request, 200);
    for _ in 0..40 {
        let next = pool.pick(completion("lora-a"));
        assert_eq!(next.endpoint, home.endpoint);
        assert_eq!(
            next.receipt.candidates[0].cost.share_ms, 0.0,
            "no adapter waits"
        );
        pool.end(next.request, 200);
    }
    let other = pool.pick(completion("lora-b"));
    assert_ne!(other.endpoint, home.endpoint, "there a slot is free");
    let two = pool.pick(completion("lora-a"));
    assert_eq!(two.endpoint, home.endpoint, "a slot for each of the two");
    pool.pick(completion("lora-c"));
    let pick = pool.pick(completion("lora-a"));
    assert_eq!(pick.endpoint, other.endpoint, "{:#?}", pick.receipt);
    let shares = pick.receipt.candidates.iter().map(|one| one.cost.share_ms);
    assert_eq!(shares.collect::<Vec<_>>(), [0.0, FAILURE_MS]);
}

#[test]
fn load_of_others_repels() {
    let mut pool = Pool::of(2);
    pool.answer(0, Answer::Page(reading(20, 0)));
    pool.until(10_000.0);
    let pick = pool.pick(completion("m"));
    assert_eq!(pick.address, address(1));
    let other = &pick.receipt.candidates[1];
    assert!(other.foreign > 15.0, "{}", other.foreign);
    assert!(pool.picks(5, "m").iter().all(|&key| key == 1));
}

#[test]
fn what_runs_there_for_us_is_not_taken_for_load_of_others() {
    let mut pool = Pool::of(1);
    let picks: Vec<_> = (0..10).map(|_| pool.pick(completion("m"))).collect();
    pool.answer(0, Answer::Page(reading(8, 2)));
    pool.after(1_000.0);
    assert_eq!(pool.state(0).foreign, 0.0);
    // The gauges lag: they still show what has just ended.
    for pick in &picks {
        pool.end(pick.request, 200);
    }
    read_once(&mut pool);
    assert_eq!(pool.state(0).foreign, 0.0);
}

#[test]
fn what_came_and_went_between_two_readings_is_not_taken_for_load_of_others() {
    let mut pool = Pool::of(1);
    for pick in (0..10)
        .map(|_| pool.pick(completion("m")))
        .collect::<Vec<_>>()
    {
        pool.end(pick.request, 200);
    }
    pool.pick(completion("m"));
    pool.answer(0, Answer::Page(reading(8, 2)));
    read_once(&mut pool);
    assert_eq!(pool.state(0).foreign, 0.0);
    read_once(&mut pool);
    assert!(
        pool.state(0).foreign > 0.0,
        "the next reading shows ours no more"
    );
}

/// Lets time pass until server 0 is read.
fn read_once(pool: &mut Pool) {
    pool.readings.clear();
    while pool.readings_of(0).is_empty() {
        pool.after(1.0);
    }
}

#[test]
fn an_old_reading_of_others_load_loses_weight() {
    let mut pool = Pool::of(2);
    pool.answer(0, Answer::Page(reading(20, 0)));
    pool.until(10_000.0);
    let foreign = |pool: &mut Pool| {
        let pick = pool.pick(completion("m"));
        pool.end(pick.request, 200);
        let of_0 = pick
            .receipt
            .candidates
            .iter()
            .find(|one| one.address == address(0));
        of_0.map(|one| one.foreign).expect("both are candidates")
    };
    let fresh = foreign(&mut pool);
    pool.answer(0, Answer::Never);
    pool.after(300.0);
    let before = foreign(&mut pool);
    pool.after(10_000.0);
    let later = foreign(&mut pool);
    assert!(
        (later / before - 0.5).abs() < 1e-6,
        "{fresh} {before} {later}"
    );
}

#[test]
fn a_full_batch_is_avoided_once_it_was_seen() {
    let mut pool = Pool::of(2);
    let mut page = reading(4, 3);
    page.engines[0].waiting_capacity = Some(3);
    pool.answer(0, Answer::Page(page));
    pool.until(6_000.0);
    assert_eq!(pool.state(0).slots, Some(4));
    assert_eq!(pool.pick(completion("m")).address, address(1));
}

#[test]
fn the_slots_of_a_batch_are_the_most_seen_running_while_others_wait() {
    let mut pool = Pool::of(1);
    for (running, waiting, slots) in [
        (9, 0, None),
        (4, 3, Some(4)),
        (6, 1, Some(6)),
        (2, 1, Some(6)),
    ] {
        pool.answer(0, Answer::Page(reading(running, waiting)));
        pool.pick(completion("m"));
        read_once(&mut pool);
        assert_eq!(pool.state(0).slots, slots, "{running} {waiting}");
    }
}

#[test]
fn a_server_that_started_anew_has_no_adapter_resident() {
    let mut pool = Pool::with_models(1, &["base", "lora-a"]);
    let started = |process_start_s| {
        let mut page = adapters(2, &[]);
        page.process_start_s = Some(process_start_s);
        Answer::Page(page)
    };
    pool.answer(0, started(1_000.0));
    read_once(&mut pool);
    pool.pick(completion("lora-a"));
    read_once(&mut pool);
    assert_eq!(pool.state(0).resident, ["lora-a".into()]);
    pool.answer(0, started(1_010.0));
    read_once(&mut pool);
    assert!(pool.state(0).resident.is_empty());
}

#[test]
fn a_tie_is_decided_by_chance_and_the_receipt_counts_it() {
    let mut pool = Pool::of(4);
    let receipt = pool.pick(completion("m")).receipt;
    assert_eq!((receipt.ties, receipt.candidate_count), (4, 4));
    assert_eq!(receipt.margin_ms, Some(0.0));
    assert_eq!((receipt.prompt_tokens, receipt.output_tokens), (513, 256));
    assert_eq!(receipt.following, Some(Following::Full));
    assert_eq!(receipt.exclusion_count, 0);
    // Prompt 513 x 0.05 + fixed 20 + a step of 15.
    let ttft_ms = receipt.expected_ttft_ms.expect("it was picked");
    assert!((ttft_ms - 60.65).abs() < 1e-9, "{ttft_ms}");
}

#[test]
fn one_prompt_ahead_is_no_near_tie_however_much_the_request_itself_costs() {
    let mut pool = Pool::of(2);
    let busy = pool.pick(completion("m")).endpoint;
    // Its 256 tokens cost 3.9 s anywhere; 513 tokens ahead cost 26 ms.
    let pick = pool.pick(completion("m"));
    assert_ne!(pick.endpoint, busy);
    assert_eq!(pick.receipt.ties, 1);
}

#[test]
fn a_receipt_orders_candidates_by_cost_behind_the_taken_one() {
    let mut pool = Pool::of(20);
    for _ in 0..200 {
        let pick = pool.pick(sized("m", 30_000, true));
        let receipt = pick.receipt;
        assert_eq!((receipt.candidates.len(), receipt.candidate_count), (8, 20));
        let taken = &receipt.candidates[0];
        assert_eq!(taken.endpoint, pick.endpoint);
        let costs: Vec<f64> = receipt.candidates.iter().map(|one| one.cost_ms).collect();
        assert!(costs[1..].is_sorted(), "{costs:?}");
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        // Alone there: prompt 7,501 x 0.05 + fixed 20 + 256 steps of 15.05.
        let idle_ms = 375.05 + 20.0 + 3_852.8;
        let band = f64::max(TIE_MS, TIE_SHARE * (least - idle_ms));
        assert!(costs[0] <= least + band + 1e-9, "{costs:?}");
        let margin = receipt.margin_ms.expect("there is a runner-up");
        assert!((margin - (costs[1] - costs[0])).abs() < 1e-9);
        for one in &receipt.candidates {
            assert!((one.cost_ms - one.cost.total_ms()).abs() < 1e-9);
        }
    }
}

#[test]
fn a_token_limit_above_the_prior_expects_the_prior_and_one_below_the_limit() {
    let mut pool = Pool::of(1);
    for (limit, expected) in [("16", 16), ("0", 1), ("9999", 256), ("null", 256)] {
        let body = format!(r#"{{"model":"m","prompt":"abcd","max_tokens":{limit}}}"#);
        let receipt = pool
            .pick(Request::scan("/v1/completions", body.as_bytes()))
            .receipt;
        assert_eq!(receipt.output_tokens, expected, "{limit}");
    }
}

#[test]
fn a_request_of_which_nothing_is_known_is_picked_by_load() {
    let mut pool = Pool::of(2);
    let busy = pool.pick(sized("m", 100_000, true)).endpoint;
    let pick = pool.pick(Request::of_headers("/anything"));
    assert_ne!(pick.endpoint, busy);
    assert_eq!(pick.receipt.request.body, Body::Absent);
}

#[test]
fn a_prompt_ahead_is_waited_for_until_its_first_token_or_its_time_if_none_will_be_seen() {
    // 513 x 0.05, and where no first token will be seen a step of 15.
    for (streamed, first_token, first_ms, expected_ms) in [
        (true, false, 25.65, 25.65),
        (true, true, 25.65, 0.0),
        (false, false, 40.65, 0.0),
    ] {
        let mut pool = Pool::of(1);
        let ahead = pool.pick(sized("m", 2_048, streamed));
        let queue_ms = |pool: &mut Pool| {
            let receipt = pool.pick(Request::of_headers("/")).receipt;
            receipt.candidates[0].cost.ttft_ms() - 20.0
        };
        assert!((queue_ms(&mut pool) - first_ms).abs() < 1e-9);
        pool.after(70.0);
        if first_token {
            pool.tell(Event::FirstToken(ahead.request));
        }
        let left_ms = queue_ms(&mut pool);
        assert!(
            (left_ms - expected_ms).abs() < 1e-9,
            "{streamed} {first_token}: {left_ms}"
        );
    }
}

#[test]
fn an_outcome_tells_how_long_it_took_and_what_came() {
    let mut pool = Pool::of(1);
    let pick = pool.pick(completion("m"));
    pool.after(80.0);
    pool.tell(Event::FirstToken(pick.request));
    pool.tell(Event::Progressed(pick.request, 17));
    pool.after(120.0);
    pool.end(pick.request, 200);
    pool.end(pick.request, 200);
    assert_eq!(pool.settled.len(), 1, "a second end changes nothing");
    let (request, outcome) = pool.settled[0];
    assert_eq!(request, pick.request);
    assert_eq!((outcome.ttft_ms, outcome.duration_ms), (Some(80.0), 200.0));
    assert_eq!((outcome.status, outcome.generated), (Some(200), Some(17)));
}

#[test]
fn fallbacks_are_the_next_cheapest_and_those_on_hosts_of_their_own_come_first() {
    let mut pool = Pool::of(0);
    let rank = |address: &str| Endpoint {
        identity: address.into(),
        name: address.into(),
        address: address.parse().expect("an address"),
        engine: Engine::vllm(),
    };
    let ranks = [
        "10.0.0.1:8000",
        "10.0.0.1:8001",
        "10.0.0.2:8000",
        "10.0.0.3:8000",
    ];
    pool.tell(Event::Endpoints(ranks.map(rank).into()));
    let mut place = |fallbacks| {
        let placed = pool.place_as(Following::Full, fallbacks, completion("m"), None);
        placed.expect("a pool with endpoints picks")
    };
    assert_eq!(place(0).fallbacks, []);
    for _ in 0..20 {
        let pick = place(3);
        let mut all: Vec<_> = pick.fallbacks.clone();
        let apart = [pick.address.ip(), all[0].ip(), all[1].ip()];
        assert!(
            apart[0] != apart[1] && apart[1] != apart[2] && apart[0] != apart[2],
            "{pick:?}"
        );
        all.push(pick.address);
        all.sort_unstable();
        assert_eq!(all, ranks.map(|rank| rank.parse().expect("an address")));
    }
}

/// A completion that asks for `n` choices.
fn choices(n: u32) -> Request {
    let body = format!(r#"{{"model":"m","n":{n},"stream":true,"prompt":"Hello"}}"#);
    Request::scan("/v1/completions", body.as_bytes())
}

#[test]
fn each_sequence_that_a_request_asks_for_is_booked_and_seen_as_our_own() {
    let mut pool = Pool::of(1);
    let pick = pool.place(choices(4), None).expect("one is there");
    // 256 tokens each, by the prior.
    assert_eq!(pick.receipt.output_tokens, 4 * 256);
    let own = pool.state(0).own;
    assert_eq!((own.requests, own.sequences), (1, 4));
    assert_eq!(own.decode_tokens, 4 * 256);
    // A step with four takes 15 + 4 x 0.05; the first token comes after one with nobody before it.
    let decode_ms = pick.receipt.candidates[0].cost.decode_ms;
    assert!((decode_ms - 256.0 * 15.2).abs() < 1e-9, "{decode_ms}");
    pool.answer(0, Answer::Page(reading(4, 0)));
    pool.after(3_000.0);
    assert_eq!(pool.state(0).foreign, 0.0, "none of the four is another's");
    let ending = Ending {
        status: Some(200),
        complete: true,
        generated: Some(400),
        ..Ending::default()
    };
    pool.tell(Event::Ended(pick.request, ending));
    assert_eq!(pool.state(0).own.sequences, 0);
    // 100 tokens a sequence: (100 + 10 x 256) / 11.
    let pick = pool.place(choices(4), None).expect("one is there");
    assert_eq!(pick.receipt.output_tokens, 4 * 242);
}

#[test]
fn a_request_for_more_sequences_than_any_engine_runs_counts_as_many_as_one_does() {
    let mut pool = Pool::of(2);
    for _ in 0..3 {
        let pick = pool
            .place(choices(1_000_000_000), None)
            .expect("two are there");
        assert_eq!(pick.receipt.request.sequences, 1_000_000_000);
        assert_eq!(pick.receipt.output_tokens, u64::from(SEQUENCES_MAX) * 256);
    }
    let booked = (0..2).map(|key| pool.state(key).own.sequences).sum::<u64>();
    assert_eq!(booked, 3 * u64::from(SEQUENCES_MAX));
}

#[test]
fn a_released_request_of_several_sequences_is_over_when_a_reading_has_room_for_none_of_them() {
    let mut pool = Pool::of(1);
    pool.answer(0, Answer::Page(reading(4, 0)));
    pool.place_as(Following::Released, 0, choices(4), None)
        .expect("one is there");
    pool.answer(0, Answer::Page(reading(1, 0)));
    pool.after(3_000.0);
    assert_eq!(pool.state(0).own.requests, 1, "one of its four still runs");
    pool.answer(0, Answer::Page(reading(0, 0)));
    pool.after(800.0);
    assert_eq!(pool.state(0).own.requests, 0);
}

#[test]
fn a_released_request_is_over_at_the_end_that_is_expected_and_no_sooner() {
    let mut pool = Pool::of(1);
    pool.answer(0, Answer::Page(reading(1, 0)));
    pool.place_as(Following::Released, 0, completion("m"), None)
        .expect("a pool with endpoints picks");
    let picked_ms = pool.now_ms();
    assert_eq!(pool.state(0).own.requests, 1);
    // First token 60.65 ms, then 256 steps of 15.05 ms.
    pool.until(picked_ms + 3_913.0);
    assert_eq!((pool.state(0).own.requests, pool.settled.len()), (1, 0));
    pool.until(picked_ms + 3_914.0);
    assert_eq!(pool.state(0).own.requests, 0);
    assert_eq!(pool.settled[0].1.end, End::Presumed);
    assert_eq!(pool.settled.len(), 1);
}

#[test]
fn released_requests_are_over_once_a_reading_that_is_late_enough_shows_fewer() {
    let mut pool = Pool::of(1);
    pool.answer(0, Answer::Page(reading(1, 0)));
    for _ in 0..3 {
        pool.place_as(Following::Released, 0, completion("m"), None)
            .expect("a pool with endpoints picks");
    }
    // Gauges lag: for two seconds they may not show what was sent.
    pool.after(1_900.0);
    assert_eq!(pool.state(0).own.requests, 3);
    pool.after(1_500.0);
    assert_eq!(pool.state(0).own.requests, 1);
    assert!(
        pool.settled
            .iter()
            .all(|(_, outcome)| outcome.end == End::Presumed)
    );
}

#[test]
fn of_watched_requests_nothing_is_awaited_but_the_end() {
    let mut pool = Pool::of(1);
    let pick = pool
        .place_as(Following::Watched, 0, sized("m", 40_000, true), None)
        .expect("a pool with endpoints picks");
    let ahead_ms = |pool: &mut Pool| {
        let receipt = pool.pick(Request::of_headers("/")).receipt;
        receipt.candidates[0].cost.ahead_ms
    };
    assert_eq!(pool.state(0).own.prefilling, 0);
    let first = ahead_ms(&mut pool);
    assert!(
        (first - 515.0).abs() < 10.0,
        "10,000 tokens at 0.05, and a step: {first}"
    );
    pool.after(100.0);
    let later = ahead_ms(&mut pool);
    assert!(
        (first + 15.0 - later - 100.0).abs() < 1.0,
        "it is computed as time passes, and so is a step of the request without a prompt: {later}"
    );
    pool.end(pick.request, 200);
    assert_eq!(pool.settled[0].1.end, End::Completed);
}
