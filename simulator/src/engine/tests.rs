//! Step traces worked out by hand.

use std::time::Duration;

use super::*;

mod conditions;
mod prefix;

/// Steps of 10 ms + 0.1 ms a prompt token + 1 ms a decoding sequence; 50 ms an adapter load; 9 blocks of 16 tokens.
fn profile() -> Profile {
    Profile {
        name: "test",
        max_num_seqs: 4,
        token_budget: 100,
        max_model_len: 144,
        calibrated: None,
        base_ms: 10.0,
        per_prefill_token_ms: 0.1,
        per_seq_ms: 1.0,
        max_loras: 2,
        adapter_load_ms: 50.0,
        max_cpu_loras: 0,
        adapter_disk_ms: 0.0,
        prefix_caching: true,
        block_size: 16,
        num_gpu_blocks: 10,
        speed: 1.0,
    }
}

/// An engine with plenty of blocks, for traces that are about something else.
fn roomy() -> Engine {
    Engine::new(Profile {
        num_gpu_blocks: 1001,
        max_model_len: 10_000,
        ..profile()
    })
}

fn at_us(micros: u64) -> Instant {
    Instant::ZERO + Duration::from_micros(micros)
}

fn base(id: u64, prompt_tokens: u32, output_tokens: u32) -> Request {
    Request::new(RequestId(id), None, prompt_tokens, output_tokens)
}

fn on(adapter: u32, id: u64) -> Request {
    Request::new(RequestId(id), Some(AdapterId(adapter)), 10, 2)
}

/// Submits all `requests` at time zero, in order.
fn submit_all(engine: &mut Engine, requests: impl IntoIterator<Item = Request>) {
    for request in requests {
        engine
            .submit(Instant::ZERO, request)
            .expect("the request fits the profile");
    }
}

/// Ends the step under way: its end in microseconds, and the tokens it gave as (request, token).
fn step(engine: &mut Engine) -> (u64, Vec<(u64, u32)>) {
    let end = engine.next_step_end().expect("a step is under way");
    let mut outputs = Vec::new();
    engine.advance(end, &mut outputs);
    assert!(outputs.iter().all(|output| output.at == end));
    let tokens = outputs
        .iter()
        .map(|output| (output.request.0, output.token))
        .collect();
    (end.as_nanos() / 1000, tokens)
}

/// Running, waiting for capacity, deferred, as the last step's end showed them.
fn shown(engine: &Engine) -> (usize, usize, usize) {
    let gauges = engine.statistics().gauges;
    (
        gauges.running,
        gauges.waiting_capacity,
        gauges.waiting_deferred,
    )
}

fn adapters_shown(engine: &Engine) -> Vec<u32> {
    let adapters = engine.statistics().adapters().expect("a step has ended");
    adapters.iter().map(|adapter| adapter.0).collect()
}

#[test]
fn one_request_takes_a_prefill_step_and_a_decode_step_a_token() {
    let mut engine = roomy();
    assert_eq!(engine.next_step_end(), None);
    submit_all(&mut engine, [base(1, 50, 3)]);
    assert_eq!(
        step(&mut engine),
        (15_000, vec![(1, 1)]),
        "10 + 50 x 0.1 ms"
    );
    assert_eq!(step(&mut engine), (26_000, vec![(1, 2)]), "10 + 1 ms");

    let mut outputs = Vec::new();
    engine.advance(at_us(37_000), &mut outputs);
    let last = Output {
        request: RequestId(1),
        at: at_us(37_000),
        token: 3,
        finished: Some(FinishReason::Length),
    };
    assert_eq!(outputs, [last]);
    assert_eq!((engine.next_step_end(), engine.unfinished()), (None, 0));
    assert_eq!(shown(&engine), (0, 0, 0));
}

#[test]
fn a_late_advance_ends_each_step_at_its_own_time() {
    let mut engine = roomy();
    submit_all(&mut engine, [base(1, 50, 3)]);
    let mut outputs = Vec::new();
    engine.advance(at_us(1_000_000), &mut outputs);
    let ends: Vec<_> = outputs.iter().map(|output| output.at).collect();
    assert_eq!(ends, [at_us(15_000), at_us(26_000), at_us(37_000)]);
}

#[test]
fn what_arrives_during_a_step_waits_unseen_for_its_end() {
    // As recorded: of 20 requests sent at once, the first step's end shows one running and none waiting.
    let mut engine = roomy();
    submit_all(
        &mut engine,
        [base(1, 50, 9), base(2, 20, 9), base(3, 20, 9)],
    );
    assert_eq!(step(&mut engine), (15_000, vec![(1, 1)]));
    assert_eq!(shown(&engine), (1, 0, 0));
    assert_eq!(
        step(&mut engine),
        (30_000, vec![(1, 2), (2, 1), (3, 1)]),
        "10 + 1 + 40 x 0.1 ms"
    );
    assert_eq!(shown(&engine), (3, 0, 0));
}

#[test]
fn a_long_prompt_is_cut_to_the_budget_behind_the_decodes() {
    let mut engine = roomy();
    submit_all(
        &mut engine,
        [base(1, 10, 5), base(2, 150, 2), base(3, 10, 2)],
    );
    assert_eq!(step(&mut engine), (11_000, vec![(1, 1)]));
    // Budget 100: one decode, 99 tokens of request 2, none left for 3.
    assert_eq!(step(&mut engine), (31_900, vec![(1, 2)]), "10 + 1 + 9.9 ms");
    assert_eq!(shown(&engine), (2, 1, 0));
    // One decode, the other 51 tokens of 2, and 10 of 3.
    assert_eq!(
        step(&mut engine),
        (49_000, vec![(1, 3), (2, 1), (3, 1)]),
        "10 + 1 + 6.1 ms"
    );
    // Prompt tokens count with the first token, so the steps were worth 10 + 1, 1 and 1 + 150 + 1 + 10 + 1.
    let iterations = &engine.statistics().iteration_tokens;
    assert_eq!((iterations.count(), iterations.sum()), (3, 175.0));
}

#[test]
fn more_requests_than_sequences_wait_in_order_of_arrival() {
    let mut engine = Engine::new(Profile {
        max_num_seqs: 2,
        num_gpu_blocks: 1001,
        ..profile()
    });
    submit_all(
        &mut engine,
        [
            base(1, 10, 1),
            base(2, 10, 2),
            base(3, 10, 1),
            base(4, 10, 1),
        ],
    );
    assert_eq!(step(&mut engine).1, [(1, 1)]);
    assert_eq!(step(&mut engine).1, [(2, 1), (3, 1)]);
    assert_eq!(shown(&engine), (1, 1, 0), "3 has gone, 4 waits");
    assert_eq!(step(&mut engine).1, [(2, 2), (4, 1)]);
}

#[test]
fn the_whole_batch_waits_for_an_adapter_load_and_a_resident_one_costs_nothing() {
    let mut engine = roomy();
    submit_all(&mut engine, [base(1, 10, 3), on(7, 2)]);
    assert_eq!(step(&mut engine), (11_000, vec![(1, 1)]));
    assert_eq!(
        step(&mut engine),
        (73_000, vec![(1, 2), (2, 1)]),
        "10 + 1 + 1 + 50 ms"
    );
    assert_eq!(engine.statistics().adapter_loads, 1);
    assert_eq!(step(&mut engine), (85_000, vec![(1, 3), (2, 2)]));
    assert_eq!(engine.resident_adapters(), [AdapterId(7)]);

    engine.submit(at_us(100_000), on(7, 3)).expect("fits");
    assert_eq!(
        step(&mut engine),
        (111_000, vec![(3, 1)]),
        "resident though idle"
    );
    assert_eq!(engine.statistics().adapter_loads, 1);
}

/// Twelve requests on adapters a, b, c in turn and eight sequences, as in a recording of vLLM 0.32.0.
#[test]
fn three_adapters_on_two_slots_show_the_recorded_states() {
    let mut engine = Engine::new(Profile {
        max_num_seqs: 8,
        token_budget: 2048,
        num_gpu_blocks: 1001,
        ..profile()
    });
    let requests = (0..12_u32).map(|place| {
        Request::new(
            RequestId(u64::from(place)),
            Some(AdapterId(place % 3)),
            10,
            3,
        )
    });
    submit_all(&mut engine, requests);
    let mut states = Vec::new();
    while engine.next_step_end().is_some() {
        step(&mut engine);
        states.push((shown(&engine), adapters_shown(&engine)));
    }
    states.dedup();
    let recorded = [
        ((1, 0, 0), vec![0]),
        ((8, 1, 3), vec![0, 1]),
        ((7, 1, 3), vec![0, 1]),
        ((0, 0, 4), vec![]),
        ((4, 0, 0), vec![2]),
        ((0, 0, 0), vec![]),
    ];
    assert_eq!(states, recorded);
    assert_eq!(engine.statistics().adapter_loads, 3);
}

#[test]
fn a_request_without_a_slot_is_passed_and_runs_when_the_last_of_an_adapter_ends() {
    let mut engine = roomy();
    submit_all(&mut engine, [on(0, 1), on(1, 2), on(2, 3), base(4, 10, 1)]);
    assert_eq!(step(&mut engine).1, [(1, 1)]);
    assert_eq!(
        step(&mut engine).1,
        [(1, 2), (2, 1), (4, 1)],
        "the base model passes adapter 2"
    );
    assert_eq!(shown(&engine), (1, 0, 1));
    assert_eq!(
        step(&mut engine).1,
        [(2, 2), (3, 1)],
        "request 1 has left its slot"
    );
    assert_eq!(engine.resident_adapters(), [AdapterId(1), AdapterId(2)]);
}

#[test]
fn a_request_that_finds_no_blocks_waits_and_holds_up_those_behind_it() {
    let mut engine = Engine::new(Profile {
        token_budget: 1000,
        ..profile()
    });
    // Nine blocks: 80 tokens take five, then 70 take five of the four left; 10 would fit but waits its turn.
    submit_all(
        &mut engine,
        [base(1, 80, 2), base(2, 70, 1), base(3, 10, 1)],
    );
    assert_eq!(step(&mut engine).1, [(1, 1)]);
    assert!((engine.statistics().gauges.kv_usage - 5.0 / 9.0).abs() < 1e-12);
    assert_eq!(step(&mut engine).1, [(1, 2)]);
    assert_eq!(shown(&engine), (0, 2, 0));
    assert_eq!(engine.statistics().gauges.kv_usage, 0.0);
    assert_eq!(step(&mut engine).1, [(2, 1), (3, 1)]);
}

#[test]
fn the_newest_is_preempted_when_decodes_outgrow_the_blocks_and_finds_its_own_in_the_cache() {
    let mut engine = Engine::new(Profile {
        token_budget: 1000,
        ..profile()
    });
    // 64 and 64 tokens take four blocks each of nine. Both need a fifth for the 65th token; the newer finds none.
    submit_all(&mut engine, [base(1, 64, 3), base(2, 64, 3)]);
    assert_eq!(step(&mut engine).1, [(1, 1)]);
    assert_eq!(
        step(&mut engine).1,
        [(1, 2), (2, 1)],
        "1 takes the ninth block"
    );
    assert_eq!(
        step(&mut engine).1,
        [(1, 3)],
        "2 is preempted, and nobody admitted in that step"
    );
    assert_eq!(
        (shown(&engine), engine.statistics().preemptions),
        ((0, 1, 0), 0)
    );
    let (start, end) = (at_us(16_400 + 17_400 + 11_000), step(&mut engine));
    assert_eq!(end.1, [(2, 2)]);
    assert_eq!(
        end.0 * 1000 - start.as_nanos(),
        11_000_000,
        "its four full blocks are still cached: the 65th token alone is computed again"
    );
    assert_eq!(
        engine.statistics().preemptions,
        1,
        "seen when the request gives output again"
    );
    assert_eq!(step(&mut engine).1, [(2, 3)]);
    assert_eq!(engine.unfinished(), 0);
}

#[test]
fn an_aborted_request_gives_nothing_more_and_leaves_with_the_step() {
    let mut engine = roomy();
    submit_all(&mut engine, [on(0, 1), base(2, 10, 5)]);
    step(&mut engine);
    engine.abort(at_us(61_500), RequestId(1));
    assert_eq!(step(&mut engine).1, [(2, 1)]);
    assert_eq!(
        (shown(&engine), adapters_shown(&engine)),
        ((2, 0, 0), vec![0]),
        "not gone yet"
    );
    assert_eq!(step(&mut engine).1, [(2, 2)]);
    assert_eq!(
        (shown(&engine), adapters_shown(&engine)),
        ((1, 0, 0), vec![])
    );

    engine.abort(at_us(90_000), RequestId(2));
    engine.abort(at_us(90_000), RequestId(99));
    assert_eq!(step(&mut engine).1, []);
    assert_eq!(
        (engine.next_step_end(), shown(&engine)),
        (None, (0, 0, 0)),
        "an empty step clears"
    );
    let statistics = engine.statistics();
    assert_eq!((statistics.success_length, statistics.success_stop), (0, 0));
    assert_eq!(statistics.gauges.kv_usage, 0.0);
}

#[test]
fn a_request_that_could_never_end_is_refused() {
    let mut engine = Engine::new(Profile {
        max_loras: 0,
        ..profile()
    });
    let too_long = engine
        .submit(Instant::ZERO, base(1, 140, 5))
        .expect_err("145 tokens in 144");
    assert_eq!(
        too_long,
        SubmitError::TooLong {
            tokens: 145,
            max_model_len: 144
        }
    );
    let no_slots = engine
        .submit(Instant::ZERO, on(0, 2))
        .expect_err("LoRA is off");
    assert_eq!(no_slots, SubmitError::NoSlots);
    assert_eq!((engine.unfinished(), engine.next_step_end()), (0, None));
}

#[test]
fn every_request_ends_and_gives_back_its_blocks_whatever_the_mix() {
    let mut random = picker_core::seed::Random::new(11);
    let mut engine = Engine::new(Profile {
        max_num_seqs: 8,
        ..profile()
    });
    let mut outputs = Vec::new();
    let (mut now, mut expected) = (Instant::ZERO, 0);
    for id in 0..2000 {
        now += Duration::from_micros(random.below(20_000) as u64);
        engine.advance(now, &mut outputs);
        let adapter = (random.below(2) == 0).then(|| AdapterId(random.below(5) as u32));
        let (prompt, output) = (1 + random.below(100) as u32, 1 + random.below(44) as u32);
        expected += output as usize;
        engine
            .submit(now, Request::new(RequestId(id), adapter, prompt, output))
            .expect("at most 144 tokens");
    }
    while let Some(end) = engine.next_step_end() {
        engine.advance(end, &mut outputs);
    }
    assert_eq!(engine.unfinished(), 0);
    assert_eq!(outputs.len(), expected);
    assert_eq!(engine.statistics().success_length, 2000);
    assert_eq!(engine.statistics().gauges.kv_usage, 0.0);
    assert!(
        engine.statistics().preemptions > 0,
        "the mix is meant to outgrow nine blocks"
    );
}
