//! The driver: pools, the handle of each, and the one clock.
//!
//! Everything outside meets here. A [`Handle`] hides the [`Picker`] of one pool behind a lock that is held for one
//! event and never across an await; what the picker asks for goes out as an [`Errand`].

mod clock;
mod flight;
mod metrics;
mod receipts;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use picker_core::action::{Action, Refusal};
use picker_core::endpoint::{Endpoint, EndpointKey, Subset};
use picker_core::event::{Arrival, Following};
use picker_core::member::ReadFailure;
use picker_core::picker::EndpointState;
use picker_core::receipt::Receipt;
use picker_core::request::{Request, RequestKey};
use picker_core::route::{PoolKey, PoolRoute, Routes};
use picker_core::time::Instant;
use picker_core::{Event, Picker, Settings};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

pub use self::clock::Clock;
pub use self::flight::Flight;
pub use self::metrics::DriverMetrics;
pub use self::receipts::{Receipts, Stored};

/// Errands that wait for the scraper; an endpoint has at most two.
const ERRANDS_MAX: usize = 16_384;

/// Every pool that this process serves.
#[derive(Debug)]
pub struct Pools {
    handles: DashMap<PoolKey, Handle>,
    routes: ArcSwap<Routes>,
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
    /// Wakes the timer, since some pool is due earlier than it knows.
    alarm: Notify,
    /// The nanosecond at which the timer wakes by itself.
    timer_wakes: AtomicU64,
    requests: AtomicU64,
}

/// One pool, as the rest of the process sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PoolKey,
    /// A std mutex: it is held for one event, and never across an await.
    picker: Mutex<Picker>,
    shared: Arc<Shared>,
}

/// Something that a pool's picker wants from outside.
#[derive(Debug)]
pub struct Errand {
    /// Who wants to know.
    pub pool: Handle,
    /// The endpoint it is about.
    pub endpoint: EndpointKey,
    /// Where that is.
    pub address: SocketAddr,
    /// What is wanted.
    pub kind: ErrandKind,
}

/// The kinds of [`Errand`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrandKind {
    /// Its metrics page.
    Read,
    /// Its models.
    ListModels,
}

/// A request that asks where to go.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its `x-request-id`.
    pub request_id: Arc<str>,
    /// What is known of it.
    pub request: Request,
    /// The endpoints to which the gateway limits the choice.
    pub subset: Option<Subset>,
    /// How it will be followed to its end.
    pub following: Following,
    /// How many further endpoints are wanted.
    pub fallbacks: usize,
}

/// A request that goes nowhere.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The endpoints of the pool.
    pub endpoints: usize,
}

/// How one pool is configured from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSpec {
    /// The Service that the pool's `endpointPickerRef` names.
    pub service: Option<Arc<str>>,
    /// A listener that is this pool's alone.
    pub port: Option<u16>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

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
            alarm: Notify::new(),
            timer_wakes: AtomicU64::new(u64::MAX),
            requests: AtomicU64::new(0),
        };
        let pools = Self {
            handles: DashMap::new(),
            routes: ArcSwap::default(),
            shared: Arc::new(shared),
        };
        (Arc::new(pools), receiver)
    }

    /// Makes the pools be exactly `specs`; a pool that stays keeps all that is known of it.
    pub fn replace(&self, specs: Vec<(PoolKey, PoolSpec)>) {
        let wanted: BTreeSet<&PoolKey> = specs.iter().map(|(pool, _)| pool).collect();
        self.handles.retain(|pool, _| wanted.contains(pool));
        let routes = specs.iter().map(|(pool, spec)| PoolRoute {
            pool: pool.clone(),
            service: spec.service.clone(),
            port: spec.port,
            addresses: spec
                .endpoints
                .iter()
                .map(|endpoint| endpoint.address)
                .collect(),
        });
        let routes = Arc::new(Routes::new(routes.collect()));
        for (pool, spec) in specs {
            let handle = self.handles.entry(pool.clone());
            let handle = handle
                .or_insert_with(|| Handle::new(pool, &self.shared))
                .clone();
            handle.tell(Event::Endpoints(spec.endpoints));
        }
        self.routes.store(routes);
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

    /// Every pool, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Handle> {
        let mut all: Vec<Handle> = self.handles.iter().map(|entry| entry.clone()).collect();
        all.sort_by(|one, other| one.inner.pool.cmp(&other.inner.pool));
        all
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
        loop {
            // What becomes due while the pools are asked leaves a permit in the alarm.
            self.shared.timer_wakes.store(u64::MAX, Ordering::SeqCst);
            let now = self.shared.clock.now();
            let mut next: Option<Instant> = None;
            for handle in self.all() {
                next = next.into_iter().chain(handle.on_timer(now)).min();
            }
            let wakes = next.map_or(u64::MAX, Instant::as_nanos);
            self.shared.timer_wakes.store(wakes, Ordering::SeqCst);
            match next {
                Some(next) => {
                    let wait = next.saturating_since(now);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.shared.alarm.notified() => {}
                    }
                }
                None => self.shared.alarm.notified().await,
            }
        }
    }
}

// === impl Handle ===

impl Handle {
    fn new(pool: PoolKey, shared: &Arc<Shared>) -> Self {
        let inner = Inner {
            pool,
            picker: Mutex::new(Picker::new(shared.settings)),
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

    /// Decides where a request goes, and books its load there until the [`Flight`] is dropped.
    ///
    /// # Errors
    /// [`Refused`] when the pool, or the subset of it, has no endpoint.
    pub fn pick(&self, ask: Ask) -> Result<Flight, Refused> {
        let shared = &self.inner.shared;
        let key = RequestKey(shared.requests.fetch_add(1, Ordering::Relaxed));
        let request_id = ask.request_id.clone();
        let arrival = Arrival {
            key,
            request_id: ask.request_id,
            request: ask.request,
            subset: ask.subset,
            following: ask.following,
            fallbacks: ask.fallbacks,
        };
        let mut answer = Err(Refused {
            refusal: Refusal::NoEndpoints,
            endpoints: 0,
        });
        let began = std::time::Instant::now();
        for action in self.actions_of(Event::Arrived(arrival)) {
            match action {
                Action::Picked(pick) if pick.request == key => {
                    self.keep(*pick.receipt);
                    let id = request_id.clone();
                    let mut endpoints = pick.fallbacks;
                    endpoints.insert(0, pick.address);
                    answer = Ok(Flight::new(self.clone(), key, id, endpoints));
                }
                Action::Refused(request, refusal, receipt) if request == key => {
                    let endpoints = receipt.endpoints;
                    self.keep(*receipt);
                    answer = Err(Refused { refusal, endpoints });
                }
                other => self.perform(other),
            }
        }
        shared
            .metrics
            .on_pick(&self.inner.pool, began.elapsed(), answer.as_ref().err());
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

    /// Endpoints of which nothing was heard so far, neither a reading nor a failure.
    #[must_use]
    pub fn unheard(&self) -> usize {
        self.lock().unheard()
    }

    /// Does what is due; returns when to be called next.
    fn on_timer(&self, now: Instant) -> Option<Instant> {
        let mut picker = self.lock();
        picker.handle_timeout(now);
        let actions: Vec<Action> = std::iter::from_fn(|| picker.poll_action()).collect();
        drop(picker);
        for action in actions {
            self.perform(action);
        }
        self.lock().poll_timeout()
    }

    /// Gives one event to the picker and takes its answer out of the lock.
    fn actions_of(&self, event: Event) -> Vec<Action> {
        let shared = &self.inner.shared;
        let mut picker = self.lock();
        picker.handle_event(shared.clock.now(), event);
        let actions = std::iter::from_fn(|| picker.poll_action()).collect();
        let due = picker.poll_timeout();
        drop(picker);
        if due.is_some_and(|due| due.as_nanos() < shared.timer_wakes.load(Ordering::SeqCst)) {
            shared.alarm.notify_one();
        }
        actions
    }

    /// Sends out what the picker asks for.
    fn perform(&self, action: Action) {
        match action {
            Action::Read(endpoint, address) => self.send(endpoint, address, ErrandKind::Read),
            Action::ListModels(endpoint, address) => {
                self.send(endpoint, address, ErrandKind::ListModels);
            }
            Action::Settled(key, request_id, outcome) => {
                let shared = &self.inner.shared;
                shared.receipts.settle(&request_id, key, outcome);
                shared.metrics.on_settled(&self.inner.pool, &outcome);
            }
            Action::Picked(_) | Action::Refused(..) => {
                debug!(pool = %self.inner.pool, ?action, "an action that nobody waits for");
            }
        }
    }

    fn send(&self, endpoint: EndpointKey, address: SocketAddr, kind: ErrandKind) {
        let errand = Errand {
            pool: self.clone(),
            endpoint,
            address,
            kind,
        };
        if self.inner.shared.errands.try_send(errand).is_err() {
            warn!(pool = %self.inner.pool, %address, "too many readings wait; this one is put off");
            self.tell(match kind {
                ErrandKind::Read => Event::ReadFailed(endpoint, ReadFailure::Unreadable),
                ErrandKind::ListModels => Event::ModelsFailed(endpoint),
            });
        }
    }

    fn keep(&self, receipt: Receipt) {
        self.inner
            .shared
            .receipts
            .keep(self.inner.pool.clone(), receipt);
    }

    /// A thread that panicked while it held the lock costs its own request; what it left is still the best there is.
    fn lock(&self) -> MutexGuard<'_, Picker> {
        self.inner
            .picker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, by the clock of every pool.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.inner.shared.clock.now()
    }
}

/// How often a stream tells of its progress, at most.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(250);

// === impl Refused ===

impl Refused {
    /// A refusal since the pool is not there (any more).
    #[must_use]
    pub fn without_endpoints() -> Self {
        Self {
            refusal: Refusal::NoEndpoints,
            endpoints: 0,
        }
    }

    /// The refusal in words, with what can be done about it.
    #[must_use]
    pub fn explain(&self, pool: &PoolKey) -> String {
        match self.refusal {
            Refusal::NoEndpoints => format!(
                "InferencePool {pool} has no endpoints: no model server is known that could serve this request; \
                 check the pool's endpoints file or selector"
            ),
            Refusal::EmptySubset => format!(
                "the gateway's subset hint leaves out all {} endpoints of InferencePool {pool}; \
                 check x-gateway-destination-endpoint-subset",
                self.endpoints
            ),
        }
    }
}
