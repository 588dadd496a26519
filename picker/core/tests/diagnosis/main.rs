//! Diagnosis: a fleet that is fine has no finding, and each fault that is planted in it has the finding that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use picker_core::diagnosis::object::{Pool, Service};
use picker_core::diagnosis::{Fleet, Kind, Known, Places};
use picker_core::route::PoolKey;
use picker_core::route::object::{ObjectKey, Route};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One fault: what is planted in the sample, and the reasons that are found for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    name: String,
    /// Objects that come, or take the place of those of the same kind and name.
    #[serde(default)]
    plant: Vec<serde_json::Value>,
    /// Objects that go: kind, namespace and name.
    #[serde(default)]
    remove: Vec<String>,
    reasons: Vec<String>,
}

/// A fleet: manifests, and what is known of it beside them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    objects: Vec<serde_json::Value>,
    /// The models that servers list, by pool.
    served: BTreeMap<String, BTreeSet<String>>,
}

#[test]
fn a_fleet_that_is_fine_has_no_finding() {
    let findings = fleet(&sample(), &Fault::none()).findings();
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn each_fault_is_found_and_nothing_else() {
    let faults = faults();
    assert!(faults.len() >= 30, "{} faults", faults.len());
    let failures: Vec<_> = faults.iter().filter_map(Fault::failure).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn findings_read_well() {
    let mut page = String::new();
    for fault in faults() {
        writeln!(page, "== {}\n", fault.name).expect("a string takes text");
        for finding in fleet(&sample(), &fault).findings() {
            writeln!(page, "{finding}").expect("a string takes text");
        }
    }
    insta::assert_snapshot!("findings", page);
}

#[test]
fn every_fix_is_yaml() {
    for fault in faults() {
        for finding in fleet(&sample(), &fault).findings() {
            for document in finding.fix.split("---\n") {
                let read: Result<serde_json::Value, _> = serde_saphyr::from_str(document);
                let read =
                    read.unwrap_or_else(|error| panic!("{}: {error}\n{document}", fault.name));
                assert!(read.is_object(), "{}: {document}", fault.name);
            }
        }
    }
}

fn sample() -> Sample {
    serde_saphyr::from_str(include_str!("sample.yaml")).expect("a fleet")
}

fn faults() -> Vec<Fault> {
    serde_saphyr::from_str(include_str!("faults.yaml")).expect("a list of faults")
}

impl Fault {
    fn none() -> Self {
        Self {
            name: "none".into(),
            plant: Vec::new(),
            remove: Vec::new(),
            reasons: Vec::new(),
        }
    }

    fn failure(&self) -> Option<String> {
        let findings = fleet(&sample(), self).findings();
        let reason = |reason| match serde_json::to_value(reason) {
            Ok(serde_json::Value::String(reason)) => reason,
            other => panic!("a reason is a word: {other:?}"),
        };
        let found: Vec<_> = findings.iter().map(|it| reason(it.reason)).collect();
        let wanted: BTreeSet<_> = self.reasons.iter().collect();
        (found.iter().collect::<BTreeSet<_>>() != wanted)
            .then(|| format!("{}: found {findings:#?}", self.name))
    }
}

fn fleet(sample: &Sample, fault: &Fault) -> Fleet {
    let mut objects = BTreeMap::new();
    for object in sample.objects.iter().chain(&fault.plant) {
        objects.insert(name(object), object.clone());
    }
    for gone in &fault.remove {
        assert!(objects.remove(gone).is_some(), "{}: no {gone}", fault.name);
    }
    let mut known = Known::default();
    let kinds = [
        Kind::Pool,
        Kind::Import,
        Kind::Gateway,
        Kind::Namespace,
        Kind::Service,
    ];
    for kind in kinds {
        known.add(kind, Places::Every);
    }
    let mut fleet = Fleet {
        known,
        ..Fleet::default()
    };
    for (pool, models) in &sample.served {
        let models = models.iter().map(|model| model.as_str().into());
        fleet.served.insert(pool_key(pool), models.collect());
    }
    for object in objects.into_values() {
        add(&mut fleet, object);
    }
    fleet
}

fn add(fleet: &mut Fleet, object: serde_json::Value) {
    let kind = object["kind"].as_str().expect("a kind").to_owned();
    match &*kind {
        "HTTPRoute" => assert!(fleet.table.set_route(Route::Http(parse(object)))),
        "GRPCRoute" => assert!(fleet.table.set_route(Route::Grpc(parse(object)))),
        "Gateway" => assert!(fleet.table.set_gateway(parse(object))),
        "Namespace" => assert!(fleet.table.set_namespace(parse(object))),
        "ReferenceGrant" => assert!(fleet.table.set_grant(parse(object))),
        "InferencePool" => fleet.pools.push(parse::<Pool>(object)),
        "InferencePoolImport" => drop(fleet.imports.insert(key(&object))),
        "Service" => {
            let service: Service = parse(object);
            fleet.services.insert(service.metadata.key(), service);
        }
        "InferenceObjective" => fleet.objectives.push(parse(object)),
        "InferenceModelRewrite" => fleet.rewrites.push(parse(object)),
        other => panic!("no kind of object: {other}"),
    }
}

fn parse<T: DeserializeOwned>(object: serde_json::Value) -> T {
    let text = object.to_string();
    serde_json::from_value(object).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn key(object: &serde_json::Value) -> ObjectKey {
    let metadata = &object["metadata"];
    ObjectKey {
        namespace: metadata["namespace"].as_str().unwrap_or("default").into(),
        name: metadata["name"].as_str().expect("a name").into(),
    }
}

fn name(object: &serde_json::Value) -> String {
    format!(
        "{} {}",
        object["kind"].as_str().expect("a kind"),
        key(object)
    )
}

fn pool_key(name: &str) -> PoolKey {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    PoolKey::new(namespace, name)
}
