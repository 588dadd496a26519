//! The driver: pools, the handle of each, and the one clock.
//!
//! Everything outside meets here. A [`Handle`] hides the [`Picker`] of one pool behind a lock that is held for one
//! event and never across an await; what the picker asks for goes out as an [`Errand`].

mod agenda;
mod ask;
mod cards;
mod clock;
mod errand;
mod flight;
mod metrics;
mod receipts;
mod refused;
mod sources;
mod spec;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use picker_core::action::{Action, Refusal};
use picker_core::adapter::Model;
use picker_core::catalogue::{self, Card};
use picker_core::endpoint::EndpointKey;
use picker_core::event::Arrival;
use picker_core::member::ReadFailure;
use picker_core::picker::EndpointState;
use picker_core::receipt::Receipt;
use picker_core::request::RequestKey;
use picker_core::route::head::Sight;
use picker_core::route::table::RouteTable;
use picker_core::route::{PoolKey, PoolRoute, Routes, Told};
use picker_core::seed::Random;
use picker_core::time::Instant;
use picker_core::view::rewrite::Target;
use picker_core::view::{Asked, PoolView};
use picker_core::{Event, Picker, Settings};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, warn};

use self::agenda::{Agenda, Booked};
pub use self::ask::Ask;
use self::cards::Cards;
pub use self::clock::Clock;
pub use self::errand::{Errand, ErrandKind};
pub use self::flight::Flight;
pub use self::metrics::DriverMetrics;
pub use self::receipts::{Filter, Receipts, Stored};
pub use self::refused::Refused;
pub use self::sources::{Need, SourceState, Sources};
pub use self::spec::PoolSpec;
use self::turn::Turn;

/// Errands that wait for the scraper; an endpoint has at most two.
const ERRANDS_MAX: usize = 16_384;

/// Every pool that this process serves.
#[derive(Debug)]
pub struct Pools {
    handles: DashMap<PoolKey, Handle>,
    routes: ArcSwap<Routes>,
    /// The pools of `routes`; whoever changes pools or the route table holds it meanwhile.
    parts: Mutex<BTreeMap<PoolKey, PoolRoute>>,
    ports: watch::Sender<BTreeSet<u16>>,
    sources: Sources,
    shared: Arc<Shared>,
}

/// What all pools share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    clock: Clock,
    receipts: Receipts,
    metrics: DriverMetrics,
    errands: mpsc::Sender<Errand>,
    /// Whether endpoints are read at all.
    reads: AtomicBool,
    agenda: Agenda,
    requests: AtomicU64,
    draws: AtomicU64,
}

/// One pool, as the rest of the process sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PoolKey,
    /// The pool's name in metrics.
    label: Arc<str>,
    /// Whether the pool was removed; its requests in flight are still its own.
    gone: AtomicBool,
    /// Held for one event, and never across an await; one whose wait can be bounded.
    picker: parking_lot::Mutex<Picker>,
    /// Where requests go while the lock is not to be had.
    turn: Turn,
    view: ArcSwap<PoolView>,
    cards: Cards,
    booked: Booked,
    held: Arc<AtomicI64>,
    shared: Arc<Shared>,
}

/// A pool's picker, for one event.
type Locked<'a> = parking_lot::MutexGuard<'a, Picker>;

/// What becomes of pools: each is as said from here on, or is gone.
pub type Changes = Vec<(PoolKey, Option<PoolSpec>)>;

// === impl Pools ===

impl Pools {
    /// No pools yet. Errands are to be fetched from the receiver, all of them.
    #[must_use]
    pub fn new(
        settings: Settings,
        receipts_max_bytes: usize,
        metrics: DriverMetrics,
    ) -> (Arc<Self>, mpsc::Receiver<Errand>) {
        let (errands, receiver) = mpsc::channel(ERRANDS_MAX);
        let shared = Shared {
            settings,
            clock: Clock::start(),
            receipts: Receipts::new(receipts_max_bytes),
            metrics,
            errands,
            reads: AtomicBool::new(true),
            agenda: Agenda::default(),
            requests: AtomicU64::new(0),
            draws: AtomicU64::new(0),
        };
        let pools = Self {
            handles: DashMap::new(),
            routes: ArcSwap::default(),
            parts: Mutex::default(),
            ports: watch::Sender::default(),
            sources: Sources::default(),
            shared: Arc::new(shared),
        };
        (Arc::new(pools), receiver)
    }

    /// From here on no endpoint is read, and picks go by our own load alone.
    pub fn stop_reading(&self) {
        self.shared.reads.store(false, Ordering::Relaxed);
    }

    /// Makes the pools be exactly `specs`; a pool that stays keeps all that is known of it.
    pub fn replace(&self, specs: Vec<(PoolKey, PoolSpec)>) {
        let wanted: BTreeSet<&PoolKey> = specs.iter().map(|(pool, _)| pool).collect();
        let gone = self.all().into_iter().map(|handle| handle.pool().clone());
        let gone = gone.filter(|pool| !wanted.contains(pool));
        let mut changes: Changes = gone.map(|pool| (pool, None)).collect();
        changes.extend(specs.into_iter().map(|(pool, spec)| (pool, Some(spec))));
        self.change(changes);
    }

    /// Makes, changes and removes pools. The others are not touched, and a pool that stays keeps all that is known of it.
    pub fn change(&self, changes: Changes) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for (pool, spec) in changes {
            let Some(spec) = spec else {
                parts.remove(&pool);
                if let Some((_, handle)) = self.handles.remove(&pool) {
                    handle.inner.gone.store(true, Ordering::Relaxed);
                    self.shared.metrics.forget(&handle.inner.label);
                }
                continue;
            };
            parts.insert(pool.clone(), spec.route(&pool));
            let handle = self.handles.entry(pool.clone());
            let handle = handle
                .or_insert_with(|| Handle::new(pool, &self.shared))
                .clone();
            let view = PoolView::new(handle.pool(), &spec.objectives, &spec.rewrites);
            handle.inner.view.store(Arc::new(view));
            let addresses = spec.endpoints.iter().map(|one| one.address);
            handle.inner.cards.retain(&addresses.clone().collect());
            handle.inner.turn.set(addresses.collect());
            handle.tell(Event::Endpoints(spec.endpoints));
        }
        let routes = self.routes.load();
        let routes = routes.with_pools(parts.values().cloned().collect());
        self.routes.store(Arc::new(routes));
        let ports: BTreeSet<u16> = parts.values().filter_map(|route| route.port).collect();
        self.ports.send_if_modified(|before| {
            let changed = *before != ports;
            *before = ports;
            changed
        });
    }

    /// From here on calls that do not name their pool go by this table too; the picker is called at `sight`.
    pub fn set_table(&self, table: RouteTable, sight: Sight) {
        let _pools = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.metrics.on_routes(table.len());
        let routes = self.routes.load().with_table(table, sight);
        self.routes.store(Arc::new(routes));
    }

    /// The ports of listeners that are one pool's alone, as they change.
    #[must_use]
    pub fn ports(&self) -> watch::Receiver<BTreeSet<u16>> {
        self.ports.subscribe()
    }

    /// Where pools and endpoints come from.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Who is asked for which pool.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// The pool of that name.
    #[must_use]
    pub fn get(&self, pool: &PoolKey) -> Option<Handle> {
        self.handles.get(pool).map(|handle| handle.clone())
    }

    /// How many pools there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Every pool, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Handle> {
        let mut all: Vec<Handle> = self.handles.iter().map(|entry| entry.clone()).collect();
        all.sort_by(|one, other| one.inner.pool.cmp(&other.inner.pool));
        all
    }

    /// The time by the clock of receipts.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    /// The receipts of late decisions.
    #[must_use]
    pub fn receipts(&self) -> &Receipts {
        &self.shared.receipts
    }

    /// The clock that every pool goes by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &DriverMetrics {
        &self.shared.metrics
    }

    /// Calls each pool when it is due, for ever.
    pub async fn run_timer(&self) {
        let agenda = &self.shared.agenda;
        loop {
            let now = self.shared.clock.now();
            while let Some(handle) = agenda.take_due(now) {
                handle.on_timer(now);
            }
            // What is booked meanwhile, earlier than all else, leaves a permit in the alarm.
            match agenda.next() {
                Some(next) => {
                    let wait = next.saturating_since(now);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = agenda.alarm.notified() => {}
                    }
                }
                None => agenda.alarm.notified().await,
            }
        }
    }
}

// === impl Handle ===

impl Handle {
    fn new(pool: PoolKey, shared: &Arc<Shared>) -> Self {
        let inner = Inner {
            label: shared.metrics.label(&pool),
            gone: AtomicBool::new(false),
            pool,
            picker: parking_lot::Mutex::new(Picker::new(shared.settings)),
            turn: Turn::default(),
            view: ArcSwap::default(),
            cards: Cards::default(),
            booked: Booked::default(),
            held: Arc::default(),
            shared: shared.clone(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The pool's name.
    #[must_use]
    pub fn pool(&self) -> &PoolKey {
        &self.inner.pool
    }

    /// The bytes that bodies of requests for this pool hold, kept by those who hold them.
    #[must_use]
    pub fn held(&self) -> Arc<AtomicI64> {
        self.inner.held.clone()
    }

    /// Decides where a request goes, and books its load there until the [`Flight`] is dropped. If the pool's lock is not to be
    /// had in the time that the request allows, endpoints take turns instead, and nothing is booked.
    ///
    /// # Errors
    /// [`Refused`] when the pool, or the subset of it, has no endpoint.
    pub fn pick(&self, ask: Ask) -> Result<Flight, Refused> {
        let shared = &self.inner.shared;
        let key = RequestKey(shared.requests.fetch_add(1, Ordering::Relaxed));
        let request_id = ask.request_id.clone();
        let told = (ask.told, ask.or);
        let label = self.label();
        shared.metrics.on_told(&label, told.0, &told.1);
        let arrival = Arrival {
            key,
            request_id: ask.request_id,
            request: ask.request,
            standing: Some(ask.standing),
            rewrite: ask.rewrite,
            subset: ask.subset,
            following: ask.following,
            fallbacks: ask.fallbacks,
        };
        let mut answer = Err(Refused {
            refusal: Refusal::NoEndpoints,
            endpoints: 0,
        });
        let began = std::time::Instant::now();
        let Some(actions) = self.actions_within(ask.within, arrival.clone()) else {
            let endpoints = self.inner.turn.next(&arrival);
            shared.metrics.on_turn(&label);
            shared
                .metrics
                .on_pick(&label, began.elapsed(), endpoints.as_ref().err());
            return endpoints.map(|all| Flight::new(self.clone(), key, request_id, all));
        };
        for action in actions {
            match action {
                Action::Picked(pick) if pick.request == key => {
                    shared.metrics.on_receipt(&label, &pick.receipt);
                    self.keep(told.clone(), pick.receipt);
                    let id = request_id.clone();
                    let mut endpoints = pick.fallbacks;
                    endpoints.insert(0, pick.address);
                    answer = Ok(Flight::new(self.clone(), key, id, endpoints));
                }
                Action::Refused(request, refusal, receipt) if request == key => {
                    let endpoints = receipt.endpoints;
                    self.keep(told.clone(), receipt);
                    answer = Err(Refused { refusal, endpoints });
                }
                other => self.perform(other),
            }
        }
        shared
            .metrics
            .on_pick(&label, began.elapsed(), answer.as_ref().err());
        answer
    }

    /// Tells the picker what happened, and does what it asks for.
    pub fn tell(&self, event: Event) {
        for action in self.actions_of(event) {
            self.perform(action);
        }
    }

    /// Every endpoint as the picker knows it.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointState> {
        self.lock().endpoints(self.inner.shared.clock.now())
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight()
    }

    /// Endpoints of which nothing was heard so far, neither a reading nor a failure; none where nothing is read.
    #[must_use]
    pub fn unheard(&self) -> usize {
        if self.inner.shared.reads.load(Ordering::Relaxed) {
            self.lock().unheard()
        } else {
            0
        }
    }

    /// The pool's name in metrics: its own, or one for all that are too many.
    #[must_use]
    pub fn label(&self) -> Arc<str> {
        if self.inner.gone.load(Ordering::Relaxed) {
            return metrics::OTHER.into();
        }
        self.inner.label.clone()
    }

    /// What is known of the pool without its lock.
    #[must_use]
    pub fn view(&self) -> Arc<PoolView> {
        self.inner.view.load_full()
    }

    /// The model that a request gets, if one is chosen for it.
    #[must_use]
    pub fn target(&self, asked: &Asked<'_>) -> Option<Target> {
        let shared = &self.inner.shared;
        let number = shared.draws.fetch_add(1, Ordering::Relaxed);
        let draw = Random::new(shared.settings.seed.wrapping_add(number)).next_u64();
        self.view().target(asked, draw)
    }

    /// An endpoint has listed its models.
    pub fn tell_models(&self, endpoint: EndpointKey, address: SocketAddr, cards: Vec<Card>) {
        let model = |card: &Card| Model {
            name: card.id.clone(),
            adapter: card.parent.is_some(),
        };
        let models = cards.iter().map(model).collect();
        self.inner.cards.set(address, cards);
        self.tell(Event::Models(endpoint, models));
    }

    /// What the pool's servers list together, as the body of `GET /v1/models`; `None` as long as none has listed anything.
    #[must_use]
    pub fn catalogue(&self) -> Option<String> {
        let cards = self.inner.cards.merged(&self.view());
        (!cards.is_empty()).then(|| catalogue::body(cards))
    }

    /// Does what is due.
    fn on_timer(&self, now: Instant) {
        for action in self.act(|picker, _| picker.handle_timeout(now)) {
            self.perform(action);
        }
    }

    /// Gives an arrival to the picker and takes its answer out of the lock; `None` if that is not to be had so soon.
    fn actions_within(&self, wait: Duration, arrival: Arrival) -> Option<Vec<Action>> {
        let picker = self.inner.picker.try_lock_for(wait)?;
        // After a panic the picker is a new one, which has to answer all the same.
        let arrive = |picker: &mut Picker, now| {
            picker.handle_event(now, Event::Arrived(arrival.clone()));
        };
        Some(self.act_on(picker, arrive))
    }

    /// Gives one event to the picker and takes its answer out of the lock.
    fn actions_of(&self, event: Event) -> Vec<Action> {
        let mut event = Some(event);
        self.act(|picker, now| {
            if let Some(event) = event.take() {
                picker.handle_event(now, event);
            }
        })
    }

    fn act(&self, act: impl FnMut(&mut Picker, Instant)) -> Vec<Action> {
        self.act_on(self.lock(), act)
    }

    /// Acts on the picker in its lock and takes what it asks for out of it. A panic costs the pool what was learnt, and
    /// nobody else anything: the picker is made anew with the same endpoints, and acted on once more.
    fn act_on(
        &self,
        mut picker: Locked<'_>,
        mut act: impl FnMut(&mut Picker, Instant),
    ) -> Vec<Action> {
        let shared = &self.inner.shared;
        let now = shared.clock.now();
        let mut run = |picker: &mut Picker| {
            act(picker, now);
            std::iter::from_fn(|| picker.poll_action()).collect()
        };
        let done = catch_unwind(AssertUnwindSafe(|| run(&mut picker)));
        let actions = done.unwrap_or_else(|_| {
            error!(pool = %self.inner.pool, "a defect: the pool begins anew, please report what stands above");
            shared.metrics.on_panic(&self.label());
            let endpoints = picker.known().cloned().collect();
            *picker = Picker::new(shared.settings);
            let again = catch_unwind(AssertUnwindSafe(|| {
                picker.handle_event(now, Event::Endpoints(endpoints));
                run(&mut picker)
            }));
            again.unwrap_or_default()
        });
        let due = picker.poll_timeout();
        drop(picker);
        if shared.reads.load(Ordering::Relaxed) {
            shared.agenda.book(self, due);
        }
        actions
    }

    /// Sends out what the picker asks for.
    fn perform(&self, action: Action) {
        match action {
            Action::Read(endpoint, address, engine) => {
                self.send(endpoint, address, ErrandKind::Read(engine));
            }
            Action::ListModels(endpoint, address) => {
                self.send(endpoint, address, ErrandKind::ListModels);
            }
            Action::Settled(key, request_id, outcome) => {
                let shared = &self.inner.shared;
                shared.receipts.settle(&request_id, key, outcome);
                shared.metrics.on_settled(&self.label(), &outcome);
            }
            Action::Picked(_) | Action::Refused(..) => {
                debug!(pool = %self.inner.pool, ?action, "an action that nobody waits for");
            }
        }
    }

    fn send(&self, endpoint: EndpointKey, address: SocketAddr, kind: ErrandKind) {
        if !self.inner.shared.reads.load(Ordering::Relaxed) {
            return;
        }
        let errand = Errand {
            pool: self.clone(),
            endpoint,
            address,
            kind,
        };
        if let Err(refused) = self.inner.shared.errands.try_send(errand) {
            warn!(pool = %self.inner.pool, %address, "too many readings wait; this one is put off");
            self.tell(match refused.into_inner().kind {
                ErrandKind::Read(_) => Event::ReadFailed(endpoint, ReadFailure::Unreadable),
                ErrandKind::ListModels => Event::ModelsFailed(endpoint),
            });
        }
    }

    fn keep(&self, (told, or): (Told, Arc<[PoolKey]>), receipt: Receipt) {
        self.inner.shared.receipts.keep(Stored {
            pool: self.inner.pool.clone(),
            told,
            or,
            receipt,
        });
    }

    /// A thread that panicked while it held the lock costs its own request; what it left is still the best there is.
    fn lock(&self) -> Locked<'_> {
        self.inner.picker.lock()
    }

    /// The time, by the clock of every pool.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.inner.shared.clock.now()
    }
}

/// How often a stream tells of its progress, at most.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
