//! The route table: which pools a request can be for, by the routes that lead to them.
//!
//! It is changed object by object and read as a whole: a copy shares all structure with the original, so that a copy
//! can be published after every change.

use std::collections::BTreeSet;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

use super::PoolKey;
use super::attachment::{self, Entrance, Labels};
use super::entry::{self, Backend, Entry};
use super::head::{Head, Parts, Sight};
use super::hostname::Hostname;
use super::index::{Index, Next};
use super::object::{
    GATEWAY_GROUP, Gateway, Grant, Namespace, ObjectKey, POOL_GROUP, Route, RouteKey, RouteKind,
};

/// Every route of a process, with the Gateways, Namespaces and ReferenceGrants that decide what they mean.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: RedBlackTreeMapSync<RouteKey, Arc<Placed>>,
    gateways: RedBlackTreeMapSync<ObjectKey, Arc<Open>>,
    namespaces: RedBlackTreeMapSync<Arc<str>, Arc<Labels>>,
    grants: RedBlackTreeMapSync<ObjectKey, Arc<Grant>>,
    /// The routes that refer to a Gateway, whether it exists or not.
    referring: RedBlackTreeMapSync<(ObjectKey, RouteKey), ()>,
    /// Matches by what the picker sees before a route's filters.
    before: Index,
    /// Matches of rules with filters, by what the picker sees after them.
    after: Index,
    /// Listeners, and references to Services: no request can have more ways in.
    entrances: usize,
    grpc: usize,
}

/// A route, and where its matches stand in the indices.
#[derive(Debug)]
struct Placed {
    route: Route,
    matches: Vec<(Hostname, Arc<Entry>)>,
    services: usize,
}

/// A Gateway and its listeners.
#[derive(Debug)]
struct Open {
    gateway: Gateway,
    entrances: Vec<Arc<Entrance>>,
}

/// The pools that a request can be for, by the routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leads {
    /// The pools, by name: none if no route leads to one, several if the routes alone do not tell.
    pub pools: BTreeSet<PoolKey>,
    /// The routes that lead there.
    pub routes: BTreeSet<RouteKey>,
}

/// What takes precedence at one entrance.
struct Settled<'t> {
    entrance: &'t Arc<Entrance>,
    first: &'t Entry,
    /// The oldest route of the kind of the first.
    oldest: &'t Entry,
    /// The first of the other kind, and the oldest.
    other: Option<(&'t Entry, &'t Entry)>,
}

impl RouteTable {
    /// Takes over a route that is new or has changed; whether that changes anything.
    pub fn set_route(&mut self, route: Route) -> bool {
        let key = route.key();
        if self.routes.get(&key).is_some_and(|old| old.route == route) {
            return false;
        }
        self.remove_route(&key);
        self.place(route);
        true
    }

    /// Forgets a route; whether there was one.
    pub fn remove_route(&mut self, key: &RouteKey) -> bool {
        let Some(old) = self.routes.get(key).cloned() else {
            return false;
        };
        self.routes.remove_mut(key);
        self.entrances -= old.services;
        self.grpc -= usize::from(key.kind == RouteKind::Grpc);
        for gateway in gateways_of(&old.route) {
            self.referring.remove_mut(&(gateway, key.clone()));
        }
        for (host, entry) in &old.matches {
            self.index_of(entry).remove(host, entry);
        }
        true
    }

    /// Takes over a Gateway that is new or has changed; whether that changes anything.
    pub fn set_gateway(&mut self, gateway: Gateway) -> bool {
        let key = gateway.metadata.key();
        let old = self.gateways.get(&key);
        if old.is_some_and(|old| old.gateway.spec == gateway.spec) {
            return false;
        }
        self.entrances -= old.map_or(0, |old| old.entrances.len());
        let entrances = Entrance::of_gateway(&gateway);
        self.entrances += entrances.len();
        self.gateways
            .insert_mut(key.clone(), Arc::new(Open { gateway, entrances }));
        self.attach_again(&key);
        true
    }

    /// Forgets a Gateway; whether there was one.
    pub fn remove_gateway(&mut self, key: &ObjectKey) -> bool {
        let Some(old) = self.gateways.get(key) else {
            return false;
        };
        self.entrances -= old.entrances.len();
        self.gateways.remove_mut(key);
        self.attach_again(key);
        true
    }

    /// Takes over the labels of a namespace; whether that changes anything.
    pub fn set_namespace(&mut self, namespace: Namespace) -> bool {
        let Namespace { metadata } = namespace;
        let old = self.namespaces.get(&metadata.name);
        if old.is_some_and(|old| **old == metadata.labels) {
            return false;
        }
        self.namespaces
            .insert_mut(metadata.name.clone(), Arc::new(metadata.labels));
        self.place_namespace_again(&metadata.name);
        true
    }

    /// Forgets a namespace; whether it was known.
    pub fn remove_namespace(&mut self, name: &str) -> bool {
        let known = self.namespaces.remove_mut(name);
        if known {
            self.place_namespace_again(name);
        }
        known
    }

    /// Takes over a ReferenceGrant; whether that changes anything.
    pub fn set_grant(&mut self, grant: Grant) -> bool {
        let key = grant.metadata.key();
        if self
            .grants
            .get(&key)
            .is_some_and(|old| old.spec == grant.spec)
        {
            return false;
        }
        self.grants.insert_mut(key, Arc::new(grant));
        true
    }

    /// Forgets a ReferenceGrant; whether there was one.
    pub fn remove_grant(&mut self, key: &ObjectKey) -> bool {
        self.grants.remove_mut(key)
    }

    /// The routes, by name.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().map(|placed| &placed.route)
    }

    /// The Gateway of that name.
    #[must_use]
    pub fn gateway(&self, key: &ObjectKey) -> Option<&Gateway> {
        self.gateways.get(key).map(|open| &open.gateway)
    }

    /// The Gateways, by name.
    pub fn gateways(&self) -> impl Iterator<Item = &ObjectKey> {
        self.gateways.keys()
    }

    /// The namespaces whose labels are known.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.keys()
    }

    pub(crate) fn labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace).map(|labels| &**labels)
    }

    /// The ReferenceGrants, by name.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values().map(|grant| &**grant)
    }

    /// The listeners and Services by which requests can reach a route.
    pub(crate) fn entrances_of(&self, route: &Route) -> Vec<Arc<Entrance>> {
        let mut entrances = self.listeners_of(route);
        entrances.extend(services_of(route));
        entrances
    }

    /// How many routes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.size()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The pools that a request can be for, of those that `served` says are ours.
    ///
    /// The request was let through to one of our pools by some gateway. For each listener or Service by which it can
    /// have come in, the rule that takes precedence there is found; the pools of those rules that are ours, have a
    /// weight above 0 and may be referred to are what it can be for.
    #[must_use]
    pub fn leads(&self, head: &Head<'_>, sight: Sight, served: impl Fn(&PoolKey) -> bool) -> Leads {
        let parts = Parts::of(head);
        let mut leads = Leads::default();
        let mut take = |entry: &Entry, changed: Option<bool>| {
            for backend in entry.backends.iter() {
                let seen = changed.is_none_or(|changed| changed == backend.changed);
                if seen && served(&backend.pool) && self.may_refer(&entry.route, backend) {
                    leads.pools.insert(backend.pool.clone());
                    leads.routes.insert(entry.route.clone());
                }
            }
        };
        let unchanged = (sight == Sight::AfterFilters).then_some(false);
        for winner in self.winners(&parts) {
            take(winner, unchanged);
        }
        if sight == Sight::AfterFilters {
            for entry in self.rewritten(&parts) {
                take(entry, Some(true));
            }
        }
        leads
    }

    /// The routes that are for the host of a request, whatever else they ask for: at most `most` of them.
    #[must_use]
    pub fn routes_of_host(&self, head: &Head<'_>, most: usize) -> Vec<RouteKey> {
        let parts = Parts::of(head);
        let mut routes = BTreeSet::new();
        for entry in self.before.entries(&parts.host) {
            if routes.len() == most {
                break;
            }
            routes.insert(entry.route.clone());
        }
        routes.into_iter().collect()
    }

    /// The match that takes precedence, for each entrance by which the request can have come in.
    fn winners(&self, parts: &Parts<'_>) -> Vec<&Entry> {
        let mut settled: Vec<Settled<'_>> = Vec::new();
        let kinds_meet = self.grpc > 0 && self.grpc < self.routes.size();
        self.before.each(parts, |entry| {
            for entrance in &entry.entrances {
                match settled.iter_mut().find(|it| it.entrance == entrance) {
                    Some(known) if kinds_meet => known.meet(entry),
                    Some(_) => {}
                    None if entrance.admits(parts) => settled.push(Settled {
                        entrance,
                        first: entry,
                        oldest: entry,
                        other: None,
                    }),
                    None => {}
                }
            }
            if settled.len() == self.entrances && !kinds_meet {
                Next::Stop
            } else {
                Next::More
            }
        });
        settled.iter().map(Settled::winner).collect()
    }

    /// The matches with filters after which a request can look like this one.
    fn rewritten(&self, parts: &Parts<'_>) -> Vec<&Entry> {
        let mut found = Vec::new();
        self.after.each(parts, |entry| {
            if self.was_won_by(entry, parts) {
                found.push(entry);
            }
            Next::More
        });
        found
    }

    /// Whether the request, as it was before the filters of `entry`, went by the rule of `entry`.
    fn was_won_by(&self, entry: &Entry, parts: &Parts<'_>) -> bool {
        entry.undo.as_ref().is_some_and(|undo| {
            undo.heads(parts).any(|head| {
                head.look(|head| {
                    let winners = self.winners(&Parts::of(head));
                    winners
                        .iter()
                        .any(|winner| winner.route == entry.route && winner.rank == entry.rank)
                })
            })
        })
    }

    fn index_of(&mut self, entry: &Entry) -> &mut Index {
        match entry.undo {
            None => &mut self.before,
            Some(_) => &mut self.after,
        }
    }

    fn may_refer(&self, route: &RouteKey, backend: &Backend) -> bool {
        !backend.foreign
            || self
                .grants_in(&backend.pool.namespace)
                .any(|grant| permits(grant, route, &backend.pool.name))
    }

    fn grants_in<'t>(&'t self, namespace: &'t Arc<str>) -> impl Iterator<Item = &'t Grant> {
        let first = ObjectKey {
            namespace: namespace.clone(),
            name: "".into(),
        };
        self.grants
            .range(first..)
            .take_while(move |(key, _)| key.namespace == *namespace)
            .map(|(_, grant)| &**grant)
    }

    fn attach_again(&mut self, gateway: &ObjectKey) {
        let first = RouteKey {
            namespace: "".into(),
            name: "".into(),
            kind: RouteKind::Http,
        };
        let range = self.referring.range((gateway.clone(), first)..);
        let routes = range.take_while(|((other, _), ())| other == gateway);
        let routes: Vec<_> = routes.map(|((_, route), ())| route.clone()).collect();
        self.place_again(&routes);
    }

    fn place_namespace_again(&mut self, namespace: &str) {
        let first = RouteKey {
            namespace: namespace.into(),
            name: "".into(),
            kind: RouteKind::Http,
        };
        let range = self.routes.range(first..);
        let routes = range.take_while(|(key, _)| *key.namespace == *namespace);
        let routes: Vec<_> = routes.map(|(key, _)| key.clone()).collect();
        self.place_again(&routes);
    }

    fn place_again(&mut self, routes: &[RouteKey]) {
        for key in routes {
            if let Some(placed) = self.routes.get(key).cloned() {
                self.remove_route(key);
                self.place(placed.route.clone());
            }
        }
    }

    fn place(&mut self, route: Route) {
        let key = route.key();
        for gateway in gateways_of(&route) {
            self.referring.insert_mut((gateway, key.clone()), ());
        }
        let listeners = self.listeners_of(&route);
        let services: Vec<_> = services_of(&route).collect();
        let mut matches = Vec::new();
        if !listeners.is_empty() {
            matches.extend(entry::entries(
                &route,
                &attachment::hosts(&route),
                &listeners,
            ));
        }
        for service in &services {
            let hosts = service.service_hosts();
            matches.extend(entry::entries(
                &route,
                &hosts,
                std::slice::from_ref(service),
            ));
        }
        for (host, entry) in &matches {
            self.index_of(entry).insert(host, entry);
        }
        self.entrances += services.len();
        self.grpc += usize::from(key.kind == RouteKind::Grpc);
        let placed = Placed {
            route,
            matches,
            services: services.len(),
        };
        self.routes.insert_mut(key, Arc::new(placed));
    }

    fn listeners_of(&self, route: &Route) -> Vec<Arc<Entrance>> {
        let namespace = &route.metadata().namespace;
        let labels = self.labels(namespace);
        let mut found = BTreeSet::new();
        for reference in route.parent_refs().iter().filter(|it| it.is_gateway()) {
            let Some(open) = self.gateways.get(&reference.target(namespace)) else {
                continue;
            };
            let attached = attachment::attach(route, reference, &open.gateway, labels);
            for index in attached.unwrap_or_default() {
                found.insert(open.entrances[index].clone());
            }
        }
        found.into_iter().collect()
    }
}

impl<'t> Settled<'t> {
    /// Notes a match that comes after the first.
    fn meet(&mut self, entry: &'t Entry) {
        let older = |oldest: &mut &'t Entry| {
            if entry.rank.age < oldest.rank.age {
                *oldest = entry;
            }
        };
        if entry.route.kind == self.first.route.kind {
            older(&mut self.oldest);
        } else if let Some((_, oldest)) = &mut self.other {
            older(oldest);
        } else {
            self.other = Some((entry, entry));
        }
    }

    /// Of an HTTPRoute and a GRPCRoute for the same host, a listener accepts the older.
    fn winner(&self) -> &'t Entry {
        match self.other {
            Some((first, oldest)) if oldest.rank.age < self.oldest.rank.age => first,
            _ => self.first,
        }
    }
}

/// Whether a grant lets a route refer to the pool `name` of the grant's namespace.
pub(crate) fn permits(grant: &Grant, route: &RouteKey, name: &str) -> bool {
    let kind = route.kind.to_string();
    let from = grant.spec.from.iter().any(|from| {
        &*from.group == GATEWAY_GROUP && *from.kind == *kind && from.namespace == route.namespace
    });
    from && grant.spec.to.iter().any(|to| {
        let named = to
            .name
            .as_ref()
            .is_none_or(|it| it.is_empty() || **it == *name);
        &*to.group == POOL_GROUP && &*to.kind == "InferencePool" && named
    })
}

fn gateways_of(route: &Route) -> BTreeSet<ObjectKey> {
    let namespace = &route.metadata().namespace;
    let gateways = route.parent_refs().iter().filter(|it| it.is_gateway());
    gateways.map(|it| it.target(namespace)).collect()
}

fn services_of(route: &Route) -> impl Iterator<Item = Arc<Entrance>> {
    let namespace = &route.metadata().namespace;
    let services = route.parent_refs().iter().filter(|it| it.is_service());
    services.map(|it| Arc::new(Entrance::of_service(it, namespace)))
}
