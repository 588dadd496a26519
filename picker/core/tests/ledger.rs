//! The ledger under any order of calls: never negative, never leaking, always the sum over its open entries.

use std::collections::BTreeMap;

use picker_core::endpoint::EndpointKey;
use picker_core::ledger::{Entry, Following, Ledger, Load, Prefill};
use picker_core::request::RequestKey;
use picker_core::time::Instant;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Call {
    Open(u64, Entry),
    FirstToken(u64),
    Progress(u64, u64),
    ServeElsewhere(u64, u32),
    Close(u64),
    Pass,
}

/// Calls over few requests and endpoints, so that keys meet again: open twice, closed twice, never opened.
fn call() -> impl Strategy<Value = Call> {
    let request = 0..6_u64;
    let endpoint = 0..4_u32;
    prop_oneof![
        3 => (request.clone(), entries()).prop_map(|(request, entry)| Call::Open(request, entry)),
        1 => request.clone().prop_map(Call::FirstToken),
        2 => (request.clone(), prop_oneof![0..600_u64, Just(u64::MAX)])
            .prop_map(|(request, generated)| Call::Progress(request, generated)),
        1 => (request.clone(), endpoint).prop_map(|(request, endpoint)| Call::ServeElsewhere(request, endpoint)),
        2 => request.prop_map(Call::Close),
        1 => Just(Call::Pass),
    ]
}

fn entries() -> impl Strategy<Value = Entry> {
    let prefill = prop_oneof![
        Just(Prefill::Watched),
        (0..80_u64).prop_map(|ms| Prefill::Until(Instant::from_millis(ms)))
    ];
    (0..4_u32, 0..50_000_u64, 0..300_u64, prefill).prop_map(
        |(endpoint, prompt, output, prefill)| Entry {
            prefill,
            ..entry(endpoint, Instant::ZERO, prompt, output)
        },
    )
}

fn entry(endpoint: u32, opened: Instant, prompt_tokens: u64, output_tokens: u64) -> Entry {
    Entry {
        request_id: "".into(),
        endpoint: EndpointKey(endpoint),
        opened,
        following: Following::Full,
        expected_end: opened,
        prompt_tokens,
        output_tokens,
        generated: 0,
        prefill: Prefill::Watched,
        first_token: None,
    }
}

fn apply(ledger: &mut Ledger, now: Instant, call: &Call) {
    match *call {
        Call::Open(request, ref entry) => ledger.open(RequestKey(request), entry.clone()),
        Call::FirstToken(request) => ledger.first_token(now, RequestKey(request)),
        Call::Progress(request, generated) => ledger.progress(RequestKey(request), generated),
        Call::ServeElsewhere(request, endpoint) => {
            ledger.serve_elsewhere(RequestKey(request), EndpointKey(endpoint));
        }
        Call::Close(request) => {
            let open = ledger.entry(RequestKey(request)).cloned();
            assert_eq!(ledger.close(RequestKey(request)), open);
        }
        Call::Pass => {
            ledger.pass(now);
            let open = (0..6).filter_map(|request| ledger.entry(RequestKey(request)));
            for entry in open {
                let overdue = matches!(entry.prefill, Prefill::Until(until) if until <= now);
                assert!(!overdue, "{entry:?} at {now:?}");
            }
        }
    }
}

/// The loads as anyone would add them up from the open entries.
fn summed(ledger: &Ledger) -> BTreeMap<EndpointKey, Load> {
    let mut loads = BTreeMap::<EndpointKey, Load>::new();
    for entry in (0..6).filter_map(|request| ledger.entry(RequestKey(request))) {
        let load = loads.entry(entry.endpoint).or_default();
        load.requests += 1;
        if entry.prefill != Prefill::Over {
            load.prefilling += 1;
            load.prefill_tokens += entry.prompt_tokens;
        }
        load.decode_tokens += entry.output_tokens.saturating_sub(entry.generated);
    }
    loads
}

proptest! {
    #[test]
    fn loads_are_the_sum_over_open_entries_for_any_order_of_calls(calls in prop::collection::vec(call(), 0..80)) {
        let mut ledger = Ledger::default();
        for (step, call) in calls.iter().enumerate() {
            apply(&mut ledger, Instant::from_millis(step as u64), call);
            let loads = summed(&ledger);
            prop_assert_eq!(ledger.loads().collect::<BTreeMap<_, _>>(), loads.clone());
            let requests: u64 = loads.values().map(|load| load.requests).sum();
            prop_assert_eq!(ledger.len() as u64, requests);
            prop_assert_eq!(ledger.is_empty(), requests == 0);
        }
        for request in 0..6 {
            ledger.close(RequestKey(request));
        }
        prop_assert!(ledger.is_empty());
        prop_assert_eq!(ledger.loads().count(), 0, "no debit outlives its entry");
    }
}

#[test]
fn a_first_token_ends_the_debit_of_the_prompt_and_progress_that_of_the_tokens() {
    let mut ledger = Ledger::default();
    let request = RequestKey(7);
    ledger.open(request, entry(1, Instant::ZERO, 500, 100));
    let load = |ledger: &Ledger| ledger.load(EndpointKey(1));
    let waiting = Load {
        requests: 1,
        prefilling: 1,
        prefill_tokens: 500,
        decode_tokens: 100,
    };
    assert_eq!(load(&ledger), waiting);
    ledger.first_token(Instant::from_millis(5), request);
    ledger.first_token(Instant::from_millis(9), request);
    ledger.progress(request, 30);
    ledger.progress(request, 20);
    let decoding = Load {
        requests: 1,
        prefilling: 0,
        prefill_tokens: 0,
        decode_tokens: 70,
    };
    assert_eq!(load(&ledger), decoding);
    let first_token = ledger.entry(request).and_then(|entry| entry.first_token);
    assert_eq!(
        first_token,
        Some(Instant::from_millis(5)),
        "the first one counts"
    );
}

#[test]
fn a_prompt_that_shows_no_first_token_is_taken_as_computed_at_its_time() {
    let mut ledger = Ledger::default();
    let unseen = Entry {
        prefill: Prefill::Until(Instant::from_millis(60)),
        ..entry(1, Instant::ZERO, 500, 100)
    };
    ledger.open(RequestKey(7), unseen);
    let prefill_tokens = |ledger: &Ledger| ledger.load(EndpointKey(1)).prefill_tokens;
    ledger.pass(Instant::from_millis(59));
    assert_eq!(prefill_tokens(&ledger), 500);
    ledger.pass(Instant::from_millis(60));
    assert_eq!(prefill_tokens(&ledger), 0);
    let first_token = ledger
        .entry(RequestKey(7))
        .and_then(|entry| entry.first_token);
    assert_eq!(first_token, None, "nobody saw it");
}
