//! Changes: after any of them the table is what it would be if it were built anew, and copies stay what they were.

use picker_core::route::head::Sight;
use picker_core::route::object::{Gateway, Grant, Namespace, Route};
use picker_core::route::table::RouteTable;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::naive::World;
use crate::property::{Request, gateways, grants, namespaces, requests, routes, table_of, worlds};

/// Something that comes, changes or goes; what goes is the object of the same name.
#[derive(Clone, Debug)]
enum Change {
    Route(Route, bool),
    Gateway(Gateway, bool),
    Namespace(Namespace, bool),
    Grant(Grant, bool),
}

proptest! {
    #[test]
    fn a_table_that_was_changed_says_what_a_plain_reading_says(
        world in worlds(),
        changes in vec(changes(), 1..12),
        requests in vec(requests(), 1..6),
    ) {
        let mut world = world;
        let mut table = table_of(&world);
        for change in &changes {
            let (before, answers) = (table.clone(), all(&table, &requests));
            change.apply(&mut world, &mut table);
            let wanted: Vec<_> = requests
                .iter()
                .map(|request| request.with_head(|head| world.pools(head)))
                .collect();
            prop_assert_eq!(all(&table, &requests), wanted, "after {:?}", change);
            prop_assert_eq!(all(&before, &requests), answers, "a copy changed by {:?}", change);
        }
    }

    #[test]
    fn what_is_taken_away_leaves_nothing(world in worlds(), requests in vec(requests(), 1..6)) {
        let mut table = table_of(&world);
        for route in &world.routes {
            prop_assert!(table.remove_route(&route.key()));
            prop_assert!(!table.remove_route(&route.key()));
        }
        prop_assert!(table.is_empty());
        for request in &requests {
            let left = request.with_head(|head| table.routes_of_host(head, usize::MAX));
            prop_assert!(left.is_empty(), "{:?}", left);
        }
    }
}

fn all(
    table: &RouteTable,
    requests: &[Request],
) -> Vec<std::collections::BTreeSet<picker_core::route::PoolKey>> {
    let leads = |request: &Request| {
        request.with_head(|head| table.leads(head, Sight::BeforeFilters, |_| true).pools)
    };
    requests.iter().map(leads).collect()
}

impl Change {
    fn apply(&self, world: &mut World, table: &mut RouteTable) {
        match self {
            Self::Route(route, stays) => {
                world.routes.retain(|other| other.key() != route.key());
                if *stays {
                    world.routes.push(route.clone());
                    table.set_route(route.clone());
                } else {
                    table.remove_route(&route.key());
                }
            }
            Self::Gateway(gateway, stays) => {
                let key = gateway.metadata.key();
                world.gateways.retain(|other| other.metadata.key() != key);
                if *stays {
                    world.gateways.push(gateway.clone());
                    table.set_gateway(gateway.clone());
                } else {
                    table.remove_gateway(&key);
                }
            }
            Self::Namespace(namespace, stays) => {
                let name = &namespace.metadata.name;
                world
                    .namespaces
                    .retain(|other| other.metadata.name != *name);
                if *stays {
                    world.namespaces.push(namespace.clone());
                    table.set_namespace(namespace.clone());
                } else {
                    table.remove_namespace(name);
                }
            }
            Self::Grant(grant, stays) => {
                let key = grant.metadata.key();
                world.grants.retain(|other| other.metadata.key() != key);
                if *stays {
                    world.grants.push(grant.clone());
                    table.set_grant(grant.clone());
                } else {
                    table.remove_grant(&key);
                }
            }
        }
    }
}

fn changes() -> impl Strategy<Value = Change> {
    let stays = || prop::bool::weighted(0.7);
    prop_oneof![
        5 => (routes(), stays()).prop_map(|(it, stays)| Change::Route(it, stays)),
        2 => (gateways(), stays()).prop_map(|(it, stays)| Change::Gateway(it, stays)),
        1 => (namespaces(), stays()).prop_map(|(it, stays)| Change::Namespace(it, stays)),
        1 => (grants(), stays()).prop_map(|(it, stays)| Change::Grant(it, stays)),
    ]
}
