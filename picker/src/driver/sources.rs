//! Where pools and endpoints come from, as far as others need to know: whether each source has answered, and how.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Every source of this process, by name.
#[derive(Debug, Default)]
pub struct Sources {
    sources: Mutex<BTreeMap<String, Source>>,
    states: Family<OfSource, Gauge>,
    failures: Family<OfFailure, Counter>,
    unreadable: Family<OfKind, Counter>,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    /// What readiness asks of it.
    need: Need,
    /// How it is at the moment.
    state: SourceState,
    /// Whether it ever answered, if only that there is nothing for us.
    has_answered: bool,
    /// Whether it ever said all that it has.
    has_synced: bool,
}

/// What readiness asks of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It has to have said all that it has.
    Synced,
    /// One of the sources of this name has to; each has to have answered.
    OneOf(&'static str),
    /// It has to have answered, if only that there is nothing for us.
    Answered,
}

/// How a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// It has not answered yet.
    Starting,
    /// It says all that it has, and tells of changes.
    Synced,
    /// There is no such thing, as when a CRD is not installed. It is asked again.
    Absent(String),
    /// We may not know. It is asked again.
    Forbidden(String),
    /// It does not answer, or not as it should. It is asked again.
    Failing(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSource {
    source: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    source: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

impl Sources {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "pointsman_sources",
            "Watches of the API server, by how they are",
            self.states.clone(),
        );
        registry.register(
            "pointsman_source_failures",
            "Watches that were refused or broke",
            self.failures.clone(),
        );
        registry.register(
            "pointsman_unreadable_objects",
            "Objects of the API server that could not be read",
            self.unreadable.clone(),
        );
    }

    /// Adds a source that has not answered yet.
    pub fn begin(&self, name: &str, need: Need) {
        let source = Source {
            need,
            state: SourceState::Starting,
            has_answered: false,
            has_synced: false,
        };
        self.show(name, None, &source.state);
        self.lock().insert(name.to_owned(), source);
    }

    /// Notes how a source is; whether that is news.
    pub fn set(&self, name: &str, state: SourceState) -> bool {
        let mut sources = self.lock();
        let Some(source) = sources.get_mut(name) else {
            return false;
        };
        let (before, after) = (source.state.label(), state.label());
        if !matches!(state, SourceState::Starting | SourceState::Synced) {
            let of = OfFailure {
                source: name.to_owned(),
                reason: after,
            };
            self.failures.get_or_create(&of).inc();
        }
        self.show(name, Some(before), &state);
        source.has_answered |= state.is_answer();
        source.has_synced |= state == SourceState::Synced;
        source.state = state;
        before != after
    }

    /// Notes an object that could not be read.
    pub fn note_unreadable(&self, kind: &'static str) {
        self.unreadable.get_or_create(&OfKind { kind }).inc();
    }

    /// Every source with what is still missing of it before this process is ready; `None` if nothing is.
    #[must_use]
    pub fn guards(&self) -> Vec<(String, Option<String>)> {
        let sources = self.lock();
        let one_has_synced = |group| {
            let mut of_group = sources
                .values()
                .filter(|one| one.need == Need::OneOf(group));
            of_group.any(|one| one.has_synced)
        };
        let guard = |(name, source): (&String, &Source)| {
            let enough = match source.need {
                _ if source.has_synced => true,
                Need::Synced => false,
                Need::OneOf(group) => source.has_answered && one_has_synced(group),
                Need::Answered => source.has_answered,
            };
            let missing = (!enough).then(|| source.state.to_string());
            let note = match &source.state {
                SourceState::Synced => String::new(),
                other if enough => format!(" ({other})"),
                _ => String::new(),
            };
            (format!("{name}{note}"), missing)
        };
        sources.iter().map(guard).collect()
    }

    fn show(&self, name: &str, before: Option<&'static str>, state: &SourceState) {
        let of = |state| OfSource {
            source: name.to_owned(),
            state,
        };
        if let Some(before) = before {
            self.states.remove(&of(before));
        }
        self.states.get_or_create(&of(state.label())).set(1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceState {
    /// The state in one word.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Synced => "synced",
            Self::Absent(_) => "absent",
            Self::Forbidden(_) => "forbidden",
            Self::Failing(_) => "failing",
        }
    }

    fn is_answer(&self) -> bool {
        matches!(self, Self::Synced | Self::Absent(_) | Self::Forbidden(_))
    }
}

impl std::fmt::Display for SourceState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting | Self::Synced => formatter.write_str(self.label()),
            Self::Absent(why) | Self::Forbidden(why) | Self::Failing(why) => {
                write!(formatter, "{}: {why}", self.label())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(sources: &Sources) -> Vec<String> {
        let guards = sources.guards().into_iter();
        guards
            .filter(|(_, missing)| missing.is_some())
            .map(|(name, _)| name)
            .collect()
    }

    fn three() -> Sources {
        let sources = Sources::default();
        sources.begin("pods", Need::Synced);
        sources.begin("pools v1", Need::OneOf("pools"));
        sources.begin("pools v1alpha2", Need::OneOf("pools"));
        sources.begin("objectives", Need::Answered);
        sources
    }

    #[test]
    fn what_is_optional_may_be_absent_or_forbidden_but_not_unheard() {
        let sources = three();
        assert_eq!(missing(&sources).len(), 4);
        sources.set("pods", SourceState::Synced);
        sources.set("pools v1", SourceState::Synced);
        sources.set("pools v1alpha2", SourceState::Absent("no CRD".to_owned()));
        assert_eq!(missing(&sources), ["objectives"]);
        sources.set("objectives", SourceState::Failing("reset".to_owned()));
        assert_eq!(missing(&sources), ["objectives"]);
        sources.set("objectives", SourceState::Forbidden("no".to_owned()));
        assert_eq!(missing(&sources), Vec::<String>::new());
    }

    #[test]
    fn without_any_version_of_the_pools_it_is_not_ready() {
        let sources = three();
        for name in ["pods", "objectives"] {
            sources.set(name, SourceState::Synced);
        }
        for name in ["pools v1", "pools v1alpha2"] {
            sources.set(name, SourceState::Absent("no CRD".to_owned()));
        }
        assert_eq!(missing(&sources), ["pools v1", "pools v1alpha2"]);
    }

    #[test]
    fn a_source_that_was_synced_once_may_fail() {
        let sources = three();
        sources.set("pods", SourceState::Synced);
        assert!(sources.set("pods", SourceState::Failing("reset".to_owned())));
        assert!(!sources.set("pods", SourceState::Failing("again".to_owned())));
        assert!(!missing(&sources).contains(&"pods".to_owned()));
    }

    #[test]
    fn once_every_source_has_answered_none_can_make_it_unready() {
        let sources = three();
        let all = ["pods", "pools v1", "pools v1alpha2", "objectives"];
        for name in &all[..2] {
            sources.set(name, SourceState::Synced);
        }
        for name in &all[2..] {
            sources.set(name, SourceState::Absent("no CRD".to_owned()));
        }
        assert_eq!(missing(&sources), Vec::<String>::new());
        for name in all {
            sources.set(name, SourceState::Failing("refused".to_owned()));
        }
        assert_eq!(missing(&sources), Vec::<String>::new());
    }
}
