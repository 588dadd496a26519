//! What the adapters of one endpoint ask of its slots, pick by pick.

use super::*;

/// An endpoint with two slots that lists a base model and four adapters.
struct Two {
    adapters: Adapters,
    names: Names,
}

impl Two {
    fn new() -> Self {
        let (mut adapters, mut names) = (Adapters::default(), Names::default());
        adapters.on_models(&listing(&["base", "a", "b", "c", "d"]), &mut names);
        adapters.on_reading(&reading(&[]), &names);
        Self { adapters, names }
    }

    fn id(&self, name: &str) -> ModelId {
        self.names.get(name).expect("a listed name")
    }

    /// A request that is expected to end at `ends_ms`.
    fn pick(&mut self, name: &str, ends_ms: u64) -> bool {
        self.adapters
            .on_pick(self.id(name), Instant::from_millis(ends_ms))
    }

    fn end(&mut self, name: &str) {
        self.adapters.on_end(Instant::ZERO, self.id(name));
    }

    fn read(&mut self, running: &[&str]) {
        self.adapters.on_reading(&reading(running), &self.names);
    }

    /// What a request of 100 ms asks of the slots at the beginning of time.
    fn claim(&self, name: &str) -> Claim {
        self.adapters.claim(Instant::ZERO, self.id(name), 100.0)
    }

    fn check(&self, resident: &[&str]) {
        let got = self
            .adapters
            .resident()
            .filter_map(|id| self.names.name(id));
        let got: Vec<&str> = got.map(AsRef::as_ref).collect();
        assert_eq!(got, resident);
    }
}

fn listing(names: &[&str]) -> Vec<Model> {
    let model = |name: &&str| Model {
        name: (*name).into(),
        adapter: *name != "base",
    };
    names.iter().map(model).collect()
}

fn reading(running: &[&str]) -> AdapterReading {
    AdapterReading {
        slots: Some(2),
        running: running.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn picks_fill_the_slots_and_push_out_the_least_recently_used_that_is_idle() {
    let mut two = Two::new();
    assert_eq!(two.claim("a").need, Need::Load);
    assert!(two.pick("a", 100) && two.pick("b", 100));
    assert!(!two.pick("a", 100), "it is there already");
    for name in ["a", "a", "b"] {
        two.end(name);
    }
    assert_eq!(two.claim("c").need, Need::Evict);
    assert!(two.pick("c", 100));
    two.check(&["a", "c"]);
    assert_eq!(
        two.claim("a"),
        Claim {
            need: Need::Resident,
            ..Claim::NONE
        }
    );
}

#[test]
fn what_is_in_flight_holds_its_slot_and_another_adapter_waits_for_the_first_to_drain() {
    let mut two = Two::new();
    two.pick("a", 400);
    two.pick("b", 250);
    two.pick("b", 300);
    assert_eq!(
        two.claim("c"),
        Claim {
            need: Need::Wait,
            wait_ms: 300.0,
            delays_ms: 0.0
        },
        "b drains when its last request ends"
    );
    assert!(two.pick("c", 500));
    // One waits already, and is served before: half of a request's time on each of two slots.
    assert_eq!(two.claim("d").wait_ms, 350.0);
    assert_eq!(
        two.claim("c").need,
        Need::Wait,
        "its own request waits, too"
    );
    two.check(&["a", "b"]);
    two.end("b");
    two.check(&["a", "b"]);
    two.end("b");
    two.check(&["a", "c"]);
    assert_eq!(two.claim("b").need, Need::Wait);
}

#[test]
fn adapters_that_wait_are_given_slots_in_the_order_in_which_they_came() {
    let mut two = Two::new();
    two.pick("a", 300);
    two.pick("b", 400);
    two.pick("c", 500);
    two.pick("d", 600);
    two.pick("c", 700);
    // One more request joins those that wait: it is served with them, and waits for none that came later.
    assert_eq!(two.claim("c").wait_ms, 300.0);
    assert_eq!(two.claim("d").wait_ms, 350.0);
    two.end("a");
    two.check(&["b", "c"]);
    assert_eq!(two.claim("d").wait_ms, 400.0, "c has its slot");
    two.end("b");
    two.check(&["c", "d"]);
}

#[test]
fn a_request_that_keeps_a_slot_running_delays_those_that_wait_for_one() {
    let mut two = Two::new();
    two.pick("a", 60);
    two.pick("b", 80);
    assert_eq!(two.claim("a").delays_ms, 0.0, "nobody waits");
    two.pick("c", 200);
    two.pick("c", 200);
    // a would drain at 60 and with 100 ms more after b, at 80: two requests wait 20 longer. b drains after a anyway.
    assert_eq!(two.claim("a").delays_ms, 40.0);
    assert_eq!(two.claim("b").delays_ms, 0.0);
}

#[test]
fn an_end_that_is_overdue_is_no_end() {
    let mut two = Two::new();
    two.pick("a", 10);
    two.pick("b", 10);
    let late = Instant::from_millis(5_000);
    let claim = two.adapters.claim(late, two.id("c"), 100.0);
    assert_eq!(claim.wait_ms, 10.0, "a tenth of a request's time");
}

#[test]
fn running_adapters_that_metrics_show_correct_the_model() {
    let mut two = Two::new();
    two.pick("a", 100);
    two.end("a");
    two.read(&["c", "b"]);
    two.check(&["c", "b"]);
    assert_eq!(two.claim("a").need, Need::Wait, "others run them");
    two.adapters.forget_shown();
    assert_eq!(two.claim("a").need, Need::Evict, "nothing is known to run");
    // A pick that went to a slot which others turn out to hold waits for one.
    two.pick("d", 100);
    two.check(&["b", "d"]);
    two.read(&["b", "c"]);
    two.check(&["b", "c"]);
    assert_eq!(two.claim("d").need, Need::Wait);
    two.read(&["d", "c"]);
    assert_eq!(two.claim("d").need, Need::Resident, "its turn has come");
}

#[test]
fn a_base_model_asks_for_no_slot() {
    let mut two = Two::new();
    assert!(!two.pick("base", 100));
    assert_eq!(two.claim("base"), Claim::NONE);
    two.check(&[]);
    assert_eq!(two.adapters.serves(two.id("base")), Some(true));
    assert_eq!(Adapters::default().serves(two.id("base")), None);
}

#[test]
fn a_restart_empties_the_slots_and_an_adapter_that_is_not_listed_any_more_leaves_them() {
    let mut two = Two::new();
    two.pick("a", 100);
    two.end("a");
    two.pick("b", 100);
    two.adapters
        .on_models(&listing(&["base", "c"]), &mut two.names);
    two.check(&["b"]);
    assert_eq!(two.adapters.serves(two.id("a")), Some(false));
    two.adapters.on_restart();
    two.check(&[]);
    two.end("b");
    two.check(&[]);
}

#[test]
fn a_server_that_comes_to_list_more_adapters_loads_them_at_run_time() {
    let mut two = Two::new();
    assert!(!two.adapters.loads_at_run_time());
    two.adapters
        .on_models(&listing(&["base", "a"]), &mut two.names);
    assert!(!two.adapters.loads_at_run_time(), "fewer");
    two.adapters
        .on_models(&listing(&["base", "a", "new"]), &mut two.names);
    assert!(two.adapters.loads_at_run_time());
    two.adapters.on_restart();
    assert!(
        !two.adapters.loads_at_run_time(),
        "another process, perhaps set otherwise"
    );
}

#[test]
fn an_adapter_that_others_made_the_engine_load_is_a_load_as_well() {
    let mut two = Two::new();
    assert_eq!(two.adapters.take_loads(), 0, "nothing ran yet");
    two.pick("a", 100);
    assert_eq!(two.adapters.take_loads(), 1, "our pick loads it");
    two.read(&["a", "b"]);
    assert_eq!(two.adapters.take_loads(), 1, "b came by others");
    two.read(&["b"]);
    assert_eq!(two.adapters.take_loads(), 0, "it is there already");
}
