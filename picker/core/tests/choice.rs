//! Properties of the choice: one answer for every arrival, one end for every pick, the same again from the same seed,
//! and equal requests spread.

use std::collections::BTreeMap;
use std::time::Duration;

use picker_core::action::Action;
use picker_core::adapter::Model;
use picker_core::endpoint::{
    AdapterReading, Endpoint, EndpointKey, EngineReading, Reading, Subset,
};
use picker_core::engine::Engine;
use picker_core::event::{Arrival, Ending, Event, Following};
use picker_core::member::ReadFailure;
use picker_core::request::{Request, RequestKey};
use picker_core::time::Instant;
use picker_core::{Picker, Settings};
use proptest::prelude::*;

fn picker(seed: u64) -> Picker {
    Picker::new(Settings {
        seed,
        reading_interval_min: Duration::from_millis(50),
    })
}

fn endpoint(number: u8) -> Endpoint {
    Endpoint {
        identity: format!("uid-{number}").into(),
        name: format!("ns/pod-{number}").into(),
        address: ([10, 0, 0, number], 8000).into(),
        engine: Engine::vllm(),
    }
}

fn arrival(key: u64, request: Request) -> Event {
    Event::Arrived(Arrival {
        key: RequestKey(key),
        request_id: "id".into(),
        request,
        standing: None,
        rewrite: None,
        subset: None,
        following: Following::Full,
        fallbacks: 0,
    })
}

fn actions(picker: &mut Picker) -> Vec<Action> {
    std::iter::from_fn(|| picker.poll_action()).collect()
}

/// Everything that can happen, over so few requests and endpoints that late, double and unknown ones are common.
/// Keys of arrivals are filled in later: they are promised to be new.
fn event() -> impl Strategy<Value = Event> {
    let request = (0..8_u64).prop_map(RequestKey);
    let key = (0..6_u32).prop_map(EndpointKey);
    let model = prop_oneof![
        Just(None),
        Just(Some("base")),
        Just(Some("lora-a")),
        Just(Some("lora-b"))
    ];
    prop_oneof![
        1 => prop::collection::btree_set(0..5_u8, 0..5)
            .prop_map(|numbers| Event::Endpoints(numbers.into_iter().map(endpoint).collect())),
        6 => (model, 0..50_000_u64, any::<bool>(), prop::option::of(0..5_u8)).prop_map(arrived),
        1 => (request.clone(), 0..6_u8)
            .prop_map(|(request, number)| Event::ServedElsewhere(request, endpoint(number).address)),
        2 => request.clone().prop_map(Event::FirstToken),
        2 => (request.clone(), any::<u64>()).prop_map(|(request, tokens)| Event::Progressed(request, tokens)),
        4 => (request, ending()).prop_map(|(request, ending)| Event::Ended(request, ending)),
        4 => (key.clone(), reading()).prop_map(|(key, reading)| Event::Read(key, reading)),
        1 => (key.clone(), failure()).prop_map(|(key, failure)| Event::ReadFailed(key, failure)),
        1 => (key.clone(), prop::sample::subsequence(vec!["base", "lora-a", "lora-b"], 0..=3))
            .prop_map(|(key, names)| Event::Models(key, names.into_iter().map(model_of).collect())),
        1 => key.prop_map(Event::ModelsFailed),
    ]
}

fn arrived(
    (model, prompt_bytes, streamed, inside): (Option<&str>, u64, bool, Option<u8>),
) -> Event {
    let mut request = Request::of_headers("/v1/completions");
    request.model = model.map(Into::into);
    request.prompt_bytes = prompt_bytes;
    request.streamed = streamed;
    Event::Arrived(Arrival {
        key: RequestKey(0),
        request_id: "id".into(),
        request,
        standing: None,
        rewrite: None,
        subset: inside.map(|number| Subset::parse([format!("10.0.0.{number}").as_str()])),
        following: Following::Full,
        fallbacks: 0,
    })
}

fn model_of(name: &str) -> Model {
    Model {
        name: name.into(),
        adapter: name.starts_with("lora"),
    }
}

fn ending() -> impl Strategy<Value = Ending> {
    let status = prop::option::of(prop_oneof![Just(200), Just(404), Just(500), Just(503)]);
    (status, any::<bool>(), any::<bool>()).prop_map(|(status, complete, error_inside)| Ending {
        status,
        complete,
        error_inside,
        ..Ending::default()
    })
}

fn failure() -> impl Strategy<Value = ReadFailure> {
    prop_oneof![
        Just(ReadFailure::Refused),
        Just(ReadFailure::TimedOut),
        Just(ReadFailure::Unreadable)
    ]
}

fn reading() -> impl Strategy<Value = Reading> {
    let gauge = || prop::option::of(prop_oneof![0..20_u64, Just(u64::MAX)]);
    let adapters = prop::option::of((
        prop::option::of(0..4_u32),
        prop::collection::vec("lora-[abc]", 0..3),
    ));
    (
        gauge(),
        gauge(),
        gauge(),
        adapters,
        prop::option::of(0..2_u32),
    )
        .prop_map(
            |(running, waiting, waiting_capacity, adapters, started)| Reading {
                engines: vec![EngineReading {
                    running,
                    waiting,
                    waiting_capacity,
                    ..EngineReading::default()
                }],
                adapters: adapters.map(|(slots, running)| AdapterReading { slots, running }),
                process_start_s: started.map(f64::from),
            },
        )
}

/// Events with the milliseconds that pass before each.
fn history() -> impl Strategy<Value = Vec<(u64, Event)>> {
    prop::collection::vec((prop_oneof![Just(0), 0..3_000_u64], event()), 0..60).prop_map(
        |mut history| {
            let mut next = 0;
            for (_, event) in &mut history {
                if let Event::Arrived(arrival) = event {
                    arrival.key = RequestKey(next);
                    next += 1;
                }
            }
            history
        },
    )
}

/// What was answered to each request.
#[derive(Debug, Default)]
struct Tally {
    picked: usize,
    refused: usize,
    settled: usize,
}

/// Runs a history, then ends every request. Returns all actions.
fn run(seed: u64, history: &[(u64, Event)]) -> (Picker, Vec<Action>) {
    let mut picker = picker(seed);
    let mut now = Instant::ZERO;
    let mut all = Vec::new();
    for (wait_ms, event) in history {
        now += Duration::from_millis(*wait_ms);
        picker.handle_timeout(now);
        picker.handle_event(now, event.clone());
        all.extend(actions(&mut picker));
        assert_loads_are_whole(&picker, now);
    }
    for request in 0..history.len() as u64 {
        picker.handle_event(now, Event::Ended(RequestKey(request), Ending::default()));
        all.extend(actions(&mut picker));
    }
    (picker, all)
}

/// What endpoints have in flight is at most what the picker has: the rest is with endpoints that are gone.
fn assert_loads_are_whole(picker: &Picker, now: Instant) {
    let states = picker.endpoints(now);
    let booked: u64 = states.iter().map(|state| state.own.requests).sum();
    assert!(booked <= picker.in_flight() as u64);
    for state in states {
        assert!(state.own.prefilling <= state.own.requests);
        assert!(state.foreign >= 0.0);
    }
}

proptest! {
    #[test]
    fn every_arrival_is_answered_once_and_every_pick_is_settled_once_in_any_order(
        seed in any::<u64>(),
        history in history(),
    ) {
        let (picker, actions) = run(seed, &history);
        let mut tallies = BTreeMap::<RequestKey, Tally>::new();
        for action in actions {
            match action {
                Action::Picked(pick) => tallies.entry(pick.request).or_default().picked += 1,
                Action::Refused(request, ..) => tallies.entry(request).or_default().refused += 1,
                Action::Settled(request, ..) => tallies.entry(request).or_default().settled += 1,
                Action::Read(..) | Action::ListModels(..) => {}
            }
        }
        let arrived = history.iter().filter(|(_, event)| matches!(event, Event::Arrived(_))).count();
        prop_assert_eq!(tallies.len(), arrived);
        for tally in tallies.values() {
            prop_assert_eq!(tally.picked + tally.refused, 1, "{:?}", tally);
            prop_assert_eq!(tally.settled, tally.picked, "{:?}", tally);
        }
        prop_assert_eq!(picker.in_flight(), 0);
        let booked = picker.endpoints(Instant::ZERO).iter().map(|state| state.own.requests).sum::<u64>();
        prop_assert_eq!(booked, 0);
    }

    #[test]
    fn the_same_seed_and_events_give_the_same_actions(seed in any::<u64>(), history in history()) {
        let first = format!("{:?}", run(seed, &history).1);
        prop_assert_eq!(first, format!("{:?}", run(seed, &history).1));
    }

    #[test]
    fn any_bytes_as_a_body_are_picked(
        path in prop_oneof![Just("/v1/chat/completions".to_owned()), Just("/v1/completions".to_owned()), ".{0,20}"],
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            r#"\{("model":("a"|1|null|\[\]),?|"prompt":("x"|\{\}|7),?|"max_tokens":(-1|1e99|"3"|4),?|"stream":true,?){0,5}\}?"#
                .prop_map(String::into_bytes),
        ],
    ) {
        let mut picker = picker(1);
        picker.handle_event(Instant::ZERO, Event::Endpoints((0..3).map(endpoint).collect()));
        actions(&mut picker);
        picker.handle_event(Instant::ZERO, arrival(1, Request::scan(&path, &body)));
        let answers = actions(&mut picker);
        let picks = answers.iter().filter(|action| matches!(action, Action::Picked(_))).count();
        prop_assert_eq!((picks, picker.in_flight()), (1, 1), "{:?}", answers);
    }
}

#[test]
fn another_seed_gives_other_ties() {
    let first = |seed| {
        let mut picker = picker(seed);
        picker.handle_event(
            Instant::ZERO,
            Event::Endpoints((0..8).map(endpoint).collect()),
        );
        picker.handle_event(Instant::ZERO, arrival(1, Request::of_headers("/")));
        let picked = actions(&mut picker)
            .into_iter()
            .find_map(|action| match action {
                Action::Picked(pick) => Some(pick.endpoint),
                _ => None,
            });
        picked.expect("it picks")
    };
    let firsts: std::collections::BTreeSet<_> = (0..64).map(first).collect();
    assert_eq!(
        firsts.len(),
        8,
        "every endpoint is the first one for some seed"
    );
}

/// How many of 500 equal requests, all at one instant, each of 8 idle endpoints gets.
fn spread(seed: u64, prompt_bytes: u64, streamed: bool, read: bool) -> Vec<u64> {
    let mut picker = picker(seed);
    picker.handle_event(
        Instant::ZERO,
        Event::Endpoints((0..8).map(endpoint).collect()),
    );
    let now = Instant::from_millis(5_000);
    for key in (0..8).filter(|_| read) {
        let idle = EngineReading {
            running: Some(0),
            waiting: Some(0),
            ..EngineReading::default()
        };
        let reading = Reading {
            engines: vec![idle],
            ..Reading::default()
        };
        picker.handle_event(now, Event::Read(EndpointKey(key), reading));
    }
    for key in 0..500 {
        let mut request = Request::of_headers("/v1/completions");
        request.prompt_bytes = prompt_bytes;
        request.streamed = streamed;
        picker.handle_event(now, arrival(key, request));
    }
    picker
        .endpoints(now)
        .iter()
        .map(|state| state.own.requests)
        .collect()
}

#[test]
fn equal_requests_at_one_instant_spread_over_idle_endpoints() {
    for seed in 0..100 {
        for prompt_bytes in [0, 2_048, 100_000] {
            for (streamed, read) in [(true, true), (false, true), (true, false)] {
                let loads = spread(seed, prompt_bytes, streamed, read);
                assert_eq!(loads.iter().sum::<u64>(), 500);
                let most = loads.iter().copied().max().unwrap_or(0) as f64;
                assert!(
                    most / 62.5 <= 1.15,
                    "seed {seed}, {prompt_bytes} bytes: {loads:?}"
                );
            }
        }
    }
}
