//! The ledger under any order of calls: never negative, never leaking, always the sum over its open entries.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

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
    ]
}

fn entries() -> impl Strategy<Value = Entry> {
    let prefill = prop_oneof![
        Just(Prefill::Seen),
        (0..80_u64).prop_map(|ms| Prefill::Unseen(Duration::from_millis(ms)))
    ];
    let following = prop_oneof![
        Just((Following::Full, 0)),
        (0..20_u64).prop_map(|ends| (Following::Released, ends))
    ];
    (0..4_u32, 0..50_000_u64, 0..300_u64, prefill, following).prop_map(
        |(endpoint, prompt, output, prefill, (following, ends))| Entry {
            prefill,
            following,
            expected_end: Instant::from_millis(ends),
            ..entry(endpoint, Instant::ZERO, prompt, output)
        },
    )
}

fn entry(endpoint: u32, opened: Instant, prompt_tokens: u64, output_tokens: u64) -> Entry {
    Entry {
        request_id: "".into(),
        endpoint: EndpointKey(endpoint),
        served: None,
        model: None,
        max_tokens: None,
        opened,
        following: Following::Full,
        expected_end: opened,
        expected_ttft_ms: 0.0,
        prompt_bytes: 4 * prompt_tokens,
        prompt_tokens,
        sequences: 1 + prompt_tokens % 3,
        output_tokens,
        generated: 0,
        prefill: Prefill::Seen,
        first_token: None,
    }
}

fn elsewhere() -> SocketAddr {
    ([10, 0, 0, 9], 8000).into()
}

fn apply(ledger: &mut Ledger, now: Instant, call: &Call) {
    match *call {
        Call::Open(request, ref entry) => ledger.open(now, RequestKey(request), entry.clone()),
        Call::FirstToken(request) => ledger.first_token(now, RequestKey(request)),
        Call::Progress(request, generated) => ledger.progress(RequestKey(request), generated),
        Call::ServeElsewhere(request, endpoint) => {
            ledger.serve_elsewhere(
                RequestKey(request),
                elsewhere(),
                Some(EndpointKey(endpoint)),
            );
        }
        Call::Close(request) => {
            let open = ledger.entry(RequestKey(request)).cloned();
            assert_eq!(ledger.close(RequestKey(request)), open);
        }
    }
}

/// The loads as anyone would add them up from the open entries.
fn summed(ledger: &Ledger) -> BTreeMap<EndpointKey, Load> {
    let mut loads = BTreeMap::<EndpointKey, Load>::new();
    for entry in (0..6).filter_map(|request| ledger.entry(RequestKey(request))) {
        let load = loads.entry(entry.endpoint).or_default();
        load.requests += 1;
        load.sequences += entry.sequences;
        if entry.prefill == Prefill::Seen {
            load.prefilling += 1;
            load.prefill_tokens += entry.prompt_tokens;
        }
        load.decode_tokens += entry.output_tokens.saturating_sub(entry.generated);
        load.output_tokens += entry.output_tokens;
        load.context_tokens += entry.prompt_tokens + entry.output_tokens;
    }
    loads
}

/// The released entry, of those at `endpoint` if one is given, that is expected to end first.
fn first_release(ledger: &Ledger, endpoint: Option<EndpointKey>) -> Option<(Instant, RequestKey)> {
    let open = (0..6)
        .map(RequestKey)
        .filter_map(|request| Some((request, ledger.entry(request)?)));
    open.filter(|(_, entry)| entry.following == Following::Released)
        .filter(|(_, entry)| endpoint.is_none_or(|endpoint| entry.endpoint == endpoint))
        .map(|(request, entry)| (entry.expected_end, request))
        .min()
}

proptest! {
    #[test]
    fn loads_are_the_sum_over_open_entries_for_any_order_of_calls(calls in prop::collection::vec(call(), 0..80)) {
        let mut ledger = Ledger::default();
        for (step, call) in calls.iter().enumerate() {
            apply(&mut ledger, Instant::from_millis(step as u64), call);
            let loads = summed(&ledger);
            let busy = ledger.loads().filter(|(_, load)| load.requests > 0);
            let busy = busy.map(|(key, load)| (key, Load { unseen_until: Instant::ZERO, ..*load }));
            prop_assert_eq!(busy.collect::<BTreeMap<_, _>>(), loads.clone());
            let requests: u64 = loads.values().map(|load| load.requests).sum();
            prop_assert_eq!(ledger.len() as u64, requests);
            prop_assert_eq!(ledger.next_release(), first_release(&ledger, None));
            for endpoint in (0..4).map(EndpointKey) {
                let first = first_release(&ledger, Some(endpoint)).map(|(_, request)| request);
                prop_assert_eq!(ledger.next_release_at(endpoint, Instant::from_millis(1)), first);
            }
            prop_assert_eq!(ledger.is_empty(), requests == 0);
        }
        for request in 0..6 {
            ledger.close(RequestKey(request));
        }
        prop_assert!(ledger.is_empty());
        prop_assert!(ledger.loads().all(|(_, load)| *load == Load::default()), "no debit outlives its entry");
        ledger.retain(|_| false);
        prop_assert_eq!(ledger.loads().count(), 0, "nor an endpoint that is gone");
    }
}

#[test]
fn a_first_token_ends_the_debit_of_the_prompt_and_progress_that_of_the_tokens() {
    let mut ledger = Ledger::default();
    let request = RequestKey(7);
    ledger.open(Instant::ZERO, request, entry(1, Instant::ZERO, 500, 100));
    let load = |ledger: &Ledger| ledger.load(EndpointKey(1));
    let waiting = Load {
        requests: 1,
        sequences: 3,
        prefilling: 1,
        prefill_tokens: 500,
        decode_tokens: 100,
        output_tokens: 100,
        context_tokens: 600,
        unseen_until: Instant::ZERO,
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
        ..waiting
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
fn prompts_that_nothing_will_show_are_computed_one_after_the_other() {
    let mut ledger = Ledger::default();
    let unseen = |ms| Entry {
        prefill: Prefill::Unseen(Duration::from_millis(ms)),
        ..entry(1, Instant::ZERO, 500, 100)
    };
    ledger.open(Instant::ZERO, RequestKey(7), unseen(60));
    ledger.open(Instant::from_millis(20), RequestKey(8), unseen(100));
    let left = |ledger: &Ledger, ms| {
        let load = ledger.load(EndpointKey(1));
        load.prefill_ms(Instant::from_millis(ms), 0.5)
    };
    assert_eq!(left(&ledger, 20), 140.0);
    assert_eq!(left(&ledger, 100), 60.0);
    assert_eq!(left(&ledger, 200), 0.0);
    // After a pause the next one begins at once; one that will be seen adds its tokens.
    ledger.open(Instant::from_millis(300), RequestKey(9), unseen(50));
    ledger.open(
        Instant::from_millis(300),
        RequestKey(10),
        entry(1, Instant::ZERO, 500, 100),
    );
    assert_eq!(left(&ledger, 310), 40.0 + 250.0);
    for request in 7..11 {
        ledger.close(RequestKey(request));
    }
    assert_eq!(left(&ledger, 310), 0.0, "nothing is there any more");
}

#[test]
fn released_entries_are_found_by_their_end_and_by_their_endpoint() {
    let mut ledger = Ledger::default();
    for (request, endpoint, ends) in [(1, 1, 900), (2, 2, 500), (3, 1, 700)] {
        let released = Entry {
            following: Following::Released,
            expected_end: Instant::from_millis(ends),
            ..entry(endpoint, Instant::from_millis(request), 10, 10)
        };
        ledger.open(Instant::ZERO, RequestKey(request), released);
    }
    assert_eq!(
        ledger.next_release(),
        Some((Instant::from_millis(500), RequestKey(2)))
    );
    let at = |opened| ledger.next_release_at(EndpointKey(1), Instant::from_millis(opened));
    assert_eq!(at(10), Some(RequestKey(3)));
    assert_eq!(at(3), Some(RequestKey(1)), "the other was opened later");
    assert_eq!(at(1), None);
    ledger.close(RequestKey(2));
    assert_eq!(
        ledger.next_release(),
        Some((Instant::from_millis(700), RequestKey(3)))
    );
}
