//! The index of compiled matches: by hostname, then path, then one exact header or query parameter.
//!
//! Its maps share their structure between copies (`rpds`), so that a copy costs nothing and a change costs the few
//! nodes on its way.

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use super::entry::Entry;
use super::head::Parts;
use super::hostname::{self, Hostname};
use super::rule::{Conditions, PathCondition, Text};

type Map<V> = RedBlackTreeMapSync<Arc<str>, V>;
/// Matches in order of precedence.
type Ordered = Vec<Arc<Entry>>;

/// The longest path of a route, in bytes: deeper elements of a request's path are no prefix of any rule
/// (`HTTPPathMatch.value` has at most 1,024 characters).
const PREFIX_BYTES_MAX: usize = 1024;

/// Matches by hostname.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    hosts: Map<Paths>,
    /// Of hostnames that are wildcards or stand for every host: few, and asked for at every lookup.
    wide: Map<Paths>,
}

/// The matches of one hostname, by path.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: Map<Node>,
    /// By the prefix, without a slash at the end.
    prefixes: Map<Node>,
    /// Regular expressions and calls, by the first elements that all their paths have.
    patterns: Map<Node>,
}

/// The matches of one path.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Those that ask for no exact header and no exact parameter.
    plain: Ordered,
    /// The others, by one of those headers or parameters: name, then value.
    headers: Map<Map<Ordered>>,
    parameters: Map<Map<Ordered>>,
}

/// Whether a name and value are a header's or a query parameter's.
#[derive(Clone, Copy)]
enum Place {
    Header,
    Parameter,
}

impl Index {
    pub(super) fn insert(&mut self, host: &Hostname, entry: &Arc<Entry>) {
        let paths = entry_of(self.map_of(host), &host.index_key());
        let (map, key) = paths.place(&entry.conditions.path);
        entry_of(map, &key).insert(entry);
    }

    pub(super) fn remove(&mut self, host: &Hostname, entry: &Arc<Entry>) {
        let key = host.index_key();
        let hosts = self.map_of(host);
        let Some(paths) = hosts.get_mut(&key) else {
            return;
        };
        let (map, path) = paths.place(&entry.conditions.path);
        if let Some(node) = map.get_mut(&path) {
            node.remove(entry);
            if node.is_empty() {
                map.remove_mut(&path);
            }
        }
        if paths.exact.is_empty() && paths.prefixes.is_empty() && paths.patterns.is_empty() {
            hosts.remove_mut(&key);
        }
    }

    /// Calls `found` with each match whose conditions the request meets, in order of precedence, until it says stop.
    pub(super) fn each<'t>(&'t self, parts: &Parts<'_>, mut found: impl FnMut(&'t Entry) -> Next) {
        let mut lists: Vec<&[Arc<Entry>]> = Vec::new();
        for paths in self.of_host(&parts.host) {
            lists.clear();
            paths.collect(parts, &mut lists);
            while let Some(entry) = first_of(&mut lists) {
                if entry.conditions.met_by(parts) && matches!(found(entry), Next::Stop) {
                    return;
                }
            }
        }
    }

    /// The matches of the hostnames that stand for `host`, in no order.
    pub(super) fn entries(&self, host: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.of_host(host).flat_map(Paths::entries)
    }

    /// What there is for the hostnames that stand for `host`, the most specific first.
    fn of_host(&self, host: &str) -> impl Iterator<Item = &Paths> {
        let exact = self.hosts.get(host);
        let wide = hostname::wide_keys(host).filter_map(|key| self.wide.get(key));
        exact.into_iter().chain(wide)
    }

    fn map_of(&mut self, host: &Hostname) -> &mut Map<Paths> {
        match host {
            Hostname::Exact(_) => &mut self.hosts,
            Hostname::Suffix(_) | Hostname::Any => &mut self.wide,
        }
    }
}

/// Whether to go on.
pub(super) enum Next {
    /// Yes.
    More,
    /// No.
    Stop,
}

/// Takes the first by precedence of several ordered lists.
fn first_of<'t>(lists: &mut [&'t [Arc<Entry>]]) -> Option<&'t Arc<Entry>> {
    let heads = lists.iter_mut().filter(|list| !list.is_empty());
    let first = heads.min_by(|one, other| one[0].rank.cmp(&other[0].rank))?;
    let (entry, rest) = first.split_first()?;
    *first = rest;
    Some(entry)
}

fn entry_of<'m, V: Clone + Default>(map: &'m mut Map<V>, key: &Arc<str>) -> &'m mut V {
    if !map.contains_key(key) {
        map.insert_mut(key.clone(), V::default());
    }
    map.get_mut(key).expect("it was inserted if it was absent")
}

// === impl Paths ===

impl Paths {
    fn place(&mut self, path: &PathCondition) -> (&mut Map<Node>, Arc<str>) {
        match path {
            PathCondition::Exact(path) => (&mut self.exact, path.clone()),
            PathCondition::Prefix(prefix) => (&mut self.prefixes, prefix.clone()),
            PathCondition::Pattern(pattern) => (&mut self.patterns, pattern.first_elements()),
            PathCondition::Call {
                service: Some(Text::Exact(service)),
                method: Some(Text::Exact(method)),
            } => (&mut self.exact, format!("/{service}/{method}").into()),
            PathCondition::Call {
                service: Some(Text::Exact(service)),
                method: _,
            } => (&mut self.patterns, format!("/{service}").into()),
            PathCondition::Call { .. } => (&mut self.patterns, "".into()),
        }
    }

    fn collect<'t>(&'t self, parts: &Parts<'_>, lists: &mut Vec<&'t [Arc<Entry>]>) {
        let mut take = |node: Option<&'t Node>| {
            if let Some(node) = node {
                node.collect(parts, lists);
            }
        };
        take(self.exact.get(parts.path));
        let slashes = parts.path.match_indices('/').map(|(at, _)| at);
        let ends = slashes.take_while(|&at| at <= PREFIX_BYTES_MAX);
        for end in ends.chain([parts.path.len()]) {
            take(self.prefixes.get(&parts.path[..end]));
            if !self.patterns.is_empty() {
                take(self.patterns.get(&parts.path[..end]));
            }
        }
        if !parts.path.starts_with('/') && !parts.path.is_empty() {
            take(self.prefixes.get(""));
            take(self.patterns.get(""));
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let maps = [&self.exact, &self.prefixes, &self.patterns];
        maps.into_iter()
            .flat_map(|map| map.values())
            .flat_map(Node::entries)
    }
}

// === impl Node ===

impl Node {
    fn insert(&mut self, entry: &Arc<Entry>) {
        let list = match self.shortest(&entry.conditions) {
            None => &mut self.plain,
            Some((place, name, value)) => {
                let values = entry_of(self.names(place), &name);
                entry_of(values, &value)
            }
        };
        let at = list.partition_point(|other| other.rank < entry.rank);
        list.insert(at, entry.clone());
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        let keys: Vec<_> = keys(&entry.conditions)
            .map(|(place, name, value)| (place, name.clone(), value.clone()))
            .collect();
        self.plain.retain(|other| !Arc::ptr_eq(other, entry));
        for (place, name, value) in keys {
            let names = self.names(place);
            let Some(values) = names.get_mut(&name) else {
                continue;
            };
            if let Some(list) = values.get_mut(&value) {
                list.retain(|other| !Arc::ptr_eq(other, entry));
                if list.is_empty() {
                    values.remove_mut(&value);
                }
            }
            if values.is_empty() {
                names.remove_mut(&name);
            }
        }
    }

    /// Of the exact headers and parameters that a match asks for, the one that fewest matches here ask for.
    ///
    /// A lookup finds the match under any of them; this keeps the lists short.
    fn shortest(&self, conditions: &Conditions) -> Option<(Place, Arc<str>, Arc<str>)> {
        let length = |place, name: &Arc<str>, value: &Arc<str>| {
            let names = match place {
                Place::Header => &self.headers,
                Place::Parameter => &self.parameters,
            };
            let list = names.get(name).and_then(|values| values.get(value));
            list.map_or(0, Vec::len)
        };
        let shortest =
            keys(conditions).min_by_key(|(place, name, value)| length(*place, name, value));
        shortest.map(|(place, name, value)| (place, name.clone(), value.clone()))
    }

    fn names(&mut self, place: Place) -> &mut Map<Map<Ordered>> {
        match place {
            Place::Header => &mut self.headers,
            Place::Parameter => &mut self.parameters,
        }
    }

    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.headers.is_empty() && self.parameters.is_empty()
    }

    fn collect<'t>(&'t self, parts: &Parts<'_>, lists: &mut Vec<&'t [Arc<Entry>]>) {
        lists.push(&self.plain);
        let mut take = |name: &str, values: &'t Map<Ordered>| {
            if let Some(list) = parts.header(name).and_then(|value| values.get(&*value)) {
                lists.push(list);
            }
        };
        if self.headers.size() <= parts.headers.len() {
            self.headers
                .iter()
                .for_each(|(name, values)| take(name, values));
        } else {
            for (name, _) in parts.headers {
                if let Some(values) = self.headers.get(*name) {
                    take(name, values);
                }
            }
        }
        for (name, values) in &self.parameters {
            if let Some(list) = parts.parameter(name).and_then(|value| values.get(value)) {
                lists.push(list);
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let names = self.headers.values().chain(self.parameters.values());
        let keyed = names.flat_map(|values| values.values()).flatten();
        self.plain.iter().chain(keyed)
    }
}

/// The exact headers and parameters that a match asks for.
fn keys(conditions: &Conditions) -> impl Iterator<Item = (Place, &Arc<str>, &Arc<str>)> {
    let headers = conditions.headers.iter().map(|it| (Place::Header, it));
    let parameters = conditions
        .parameters
        .iter()
        .map(|it| (Place::Parameter, it));
    headers
        .chain(parameters)
        .filter_map(|(place, it)| match &it.value {
            Text::Exact(value) => Some((place, &it.name, value)),
            Text::Pattern(_) => None,
        })
}
