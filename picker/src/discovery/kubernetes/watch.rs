//! One watch of the API server: what it tells, for ever, whatever comes between.

use std::collections::HashSet;
use std::fmt::Debug;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use kube::runtime::watcher::{self, Error, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::inventory::Change;
use super::object::{Made, ObjectKey};
use crate::driver::{Pools, SourceState};

/// The wait after the first failure; each further one doubles it.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// The longest wait: what was missing is noticed within this time of its coming.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// What is watched.
pub(super) struct Watch<K> {
    /// What it is called in readiness, metrics and the log.
    pub(super) name: String,
    pub(super) api: Api<K>,
    /// The only namespace that is watched.
    pub(super) namespace: Option<Arc<str>>,
    pub(super) config: watcher::Config,
    /// The kind, for those objects that cannot be read.
    pub(super) kind: &'static str,
    /// What to do when it is refused.
    pub(super) remedy: String,
}

struct Under<K, T> {
    watch: Watch<K>,
    make: fn(&K) -> Made<T>,
    pools: Arc<Pools>,
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    /// What was listed so far, while a list is under way.
    listed: HashSet<ObjectKey>,
    failures: u32,
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// What is told, as changes; how it goes is noted in the sources of `pools`.
    pub(super) fn changes<T: Send + 'static>(
        self,
        make: fn(&K) -> Made<T>,
        pools: Arc<Pools>,
    ) -> impl Stream<Item = Change<T>> + Send + 'static {
        let events = watcher::watcher(self.api.clone(), self.config.clone()).boxed();
        let under = Under {
            watch: self,
            make,
            pools,
            events,
            listed: HashSet::new(),
            failures: 0,
        };
        stream::unfold(under, async |mut under| {
            let change = under.next().await;
            Some((change, under))
        })
        .boxed()
    }
}

impl<K, T> Under<K, T>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    async fn next(&mut self) -> Change<T> {
        loop {
            let change = match self.events.next().await {
                Some(Ok(event)) => self.on_event(event),
                Some(Err(error)) => {
                    self.on_error(&error).await;
                    None
                }
                None => {
                    self.begin_anew();
                    None
                }
            };
            if let Some(change) = change {
                return change;
            }
        }
    }

    fn on_event(&mut self, event: Event<K>) -> Option<Change<T>> {
        match event {
            Event::Init => {
                self.listed.clear();
                None
            }
            Event::InitApply(object) => {
                let key = ObjectKey::of(object.meta());
                let change = self.change(key.clone(), &object);
                if !matches!(change, Some(Change::Gone(_))) {
                    self.listed.insert(key);
                }
                change
            }
            Event::InitDone => {
                self.on_answer();
                let scope = self.watch.namespace.clone();
                Some(Change::Only(scope, mem::take(&mut self.listed)))
            }
            Event::Apply(object) => {
                self.on_answer();
                self.change(ObjectKey::of(object.meta()), &object)
            }
            Event::Delete(object) => {
                self.on_answer();
                Some(Change::Gone(ObjectKey::of(object.meta())))
            }
        }
    }

    fn change(&self, key: ObjectKey, object: &K) -> Option<Change<T>> {
        match (self.make)(object) {
            Made::Kept(made) => Some(Change::Set(key, made)),
            Made::Ignored => Some(Change::Gone(key)),
            Made::Unreadable(why) => {
                let (namespace, name) = (&key.namespace, &key.name);
                warn!(kind = self.watch.kind, %namespace, %name, why, "an object that cannot be read stays as it was");
                self.pools.sources().note_unreadable(self.watch.kind);
                None
            }
        }
    }

    fn on_answer(&mut self) {
        if mem::take(&mut self.failures) > 0 {
            info!(source = self.watch.name, "watched again");
        }
        self.pools
            .sources()
            .set(&self.watch.name, SourceState::Synced);
    }

    /// Notes a failure and waits. What was known stays: the API server's silence changes no pod.
    async fn on_error(&mut self, error: &Error) {
        let status = match error {
            Error::InitialListFailed(kube::Error::Api(status))
            | Error::WatchStartFailed(kube::Error::Api(status))
            | Error::WatchFailed(kube::Error::Api(status)) => Some(&**status),
            Error::WatchError(status) => Some(&**status),
            _ => None,
        };
        let code = status.map(|status| status.code);
        // An expired version is no failure: the list is read again at once.
        if code == Some(410) {
            return self.begin_anew();
        }
        let state = match code {
            Some(404) => SourceState::Absent("the API server does not know it".to_owned()),
            Some(401 | 403) => SourceState::Forbidden(self.watch.remedy.clone()),
            _ => SourceState::Failing(error.to_string()),
        };
        // A watch that is cut once, as by a load balancer, is resumed before anybody need know.
        let is_told = self.failures > 0 || code.is_some();
        if is_told {
            let words = state.to_string();
            if self.pools.sources().set(&self.watch.name, state) {
                warn!(source = self.watch.name, state = words, %error, "asked again until it answers");
            }
        }
        let wait = WAIT_MIN.saturating_mul(1 << self.failures.min(8));
        self.failures += 1;
        tokio::time::sleep(wait.min(WAIT_MAX)).await;
        // A list answers, where a resumed watch would be silent until the next change.
        if is_told {
            self.begin_anew();
        }
    }

    fn begin_anew(&mut self) {
        self.listed.clear();
        let watch = watcher::watcher(self.watch.api.clone(), self.watch.config.clone());
        self.events = watch.boxed();
    }
}
