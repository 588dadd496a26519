//! Adapters from disk, and servers that hang, crash or become slow.

use super::*;

fn from_disk() -> Engine {
    Engine::new(Profile {
        num_gpu_blocks: 1001,
        adapter_disk_ms: 100.0,
        ..profile()
    })
}

#[test]
fn an_adapter_from_disk_keeps_its_own_request_waiting_and_no_other() {
    let mut engine = from_disk();
    submit_all(&mut engine, [base(1, 10, 12), on(7, 2)]);
    assert_eq!(step(&mut engine), (11_000, vec![(1, 1)]));
    assert_eq!(step(&mut engine), (22_000, vec![(1, 2)]), "10 + 1 ms");
    assert_eq!(shown(&engine), (1, 0, 1), "deferred");
    for _ in 3..=11 {
        step(&mut engine);
    }
    // Taken in at 11 ms, in memory at 111 ms: the step from 121 ms on computes it, and waits for the copy to the card.
    let last = step(&mut engine);
    assert_eq!(last, (183_000, vec![(1, 12), (2, 1)]), "10 + 1 + 1 + 50 ms");
}

#[test]
fn an_idle_server_wakes_when_an_adapter_has_come_from_disk() {
    let mut engine = from_disk();
    submit_all(&mut engine, [on(7, 1)]);
    assert_eq!(
        step(&mut engine),
        (100_000, vec![]),
        "nothing but the arrival"
    );
    assert_eq!(step(&mut engine), (161_000, vec![(1, 1)]), "10 + 1 + 50 ms");
    assert_eq!(step(&mut engine).1, [(1, 2)]);
    assert_eq!(engine.next_step_end(), None);
    engine.submit(at_us(200_000), on(7, 2)).expect("fits");
    assert_eq!(step(&mut engine), (211_000, vec![(2, 1)]), "in its slot");
}

#[test]
fn a_hung_engine_takes_requests_gives_nothing_and_goes_on_where_it_stopped() {
    let mut engine = roomy();
    submit_all(&mut engine, [base(1, 10, 3)]);
    step(&mut engine);
    engine.hang(at_us(15_000));
    engine.submit(at_us(16_000), base(2, 10, 1)).expect("fits");
    let mut outputs = Vec::new();
    engine.advance(at_us(5_000_000), &mut outputs);
    assert_eq!((engine.next_step_end(), outputs.len()), (None, 0));
    assert_eq!((shown(&engine), engine.unfinished()), ((1, 0, 0), 2));
    engine.resume(at_us(5_000_000));
    assert_eq!(
        step(&mut engine),
        (5_007_000, vec![(1, 2)]),
        "7 ms of its step were left"
    );
    assert_eq!(step(&mut engine).1, [(1, 3), (2, 1)]);
}

#[test]
fn an_engine_that_hung_idle_begins_when_it_goes_on() {
    let mut engine = roomy();
    engine.hang(at_us(0));
    submit_all(&mut engine, [base(1, 10, 1)]);
    assert_eq!(engine.next_step_end(), None);
    engine.resume(at_us(40_000));
    assert_eq!(step(&mut engine), (51_000, vec![(1, 1)]));
}

#[test]
fn a_crash_loses_every_request_and_a_restart_begins_anew() {
    let mut engine = roomy();
    submit_all(&mut engine, [on(0, 1), on(1, 2), on(2, 3), base(4, 10, 9)]);
    step(&mut engine);
    engine.submit(at_us(1_000), base(5, 10, 1)).expect("fits");
    let mut lost = engine.crash();
    lost.sort_unstable();
    assert_eq!(lost, [1, 2, 3, 4, 5].map(RequestId));
    assert!(engine.has_crashed() && engine.next_step_end().is_none());
    let refused = engine.submit(at_us(2_000), base(6, 10, 1));
    assert_eq!(refused, Err(SubmitError::Crashed));
    engine.resume(at_us(3_000));
    assert!(engine.has_crashed(), "a crash is not a hang");

    engine.restart();
    assert_eq!((engine.statistics().steps, engine.unfinished()), (0, 0));
    assert_eq!(engine.resident_adapters(), []);
    engine.submit(at_us(9_000), base(6, 10, 1)).expect("fits");
    assert_eq!(step(&mut engine), (20_000, vec![(6, 1)]));
}

#[test]
fn a_slow_engine_takes_as_many_times_as_long_from_its_next_step_on() {
    let mut engine = roomy();
    submit_all(&mut engine, [base(1, 10, 4)]);
    engine.slow_down(3.0);
    assert_eq!(step(&mut engine).0, 11_000, "under way already");
    assert_eq!(step(&mut engine).0, 11_000 + 33_000);
    engine.slow_down(1.0);
    step(&mut engine);
    assert_eq!(step(&mut engine).0, 11_000 + 66_000 + 11_000);
}
