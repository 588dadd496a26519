//! `pointsman check` as people and scripts run it: a fleet that is fine has no finding, each fault has its own, and what
//! cannot be read is named.

mod command;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use self::command::run;

/// One fault: what is changed in the fleet, and what is found.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    name: String,
    /// Objects that come.
    #[serde(default)]
    plant: Vec<Value>,
    /// Objects that go: kind, namespace and name.
    #[serde(default)]
    remove: Vec<String>,
    /// Fields that get another value: kind, namespace and name, and a JSON pointer.
    #[serde(default)]
    set: BTreeMap<String, Value>,
    /// Fields that go.
    #[serde(default)]
    remove_fields: Vec<String>,
    /// Reason and object of each finding.
    findings: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bad {
    name: String,
    text: String,
    tells: Vec<String>,
}

#[test]
fn a_fleet_that_is_fine_has_no_finding_and_ends_with_0() {
    let run = run(&["--complete", "-"], &documents(&fleet()));
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(
        run.stdout.starts_with("0 errors, 0 warnings."),
        "{}",
        run.stdout
    );
}

#[test]
fn each_fault_is_found_and_nothing_else() {
    let faults = faults();
    assert!(faults.len() >= 60, "{} faults", faults.len());
    let failures: Vec<_> = faults.iter().filter_map(Fault::failure).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn findings_read_well() {
    let mut page = String::new();
    for fault in faults() {
        let run = run(&["--complete", "-"], &fault.planted());
        let text = run.stdout.split(" Looked at").next().unwrap_or_default();
        writeln!(page, "== {}\n\n{text}", fault.name).expect("a string takes text");
    }
    insta::assert_snapshot!("findings", page);
}

#[test]
fn every_fix_is_yaml() {
    for fault in faults() {
        let report = run(&["--complete", "-o", "json", "-"], &fault.planted()).json();
        for finding in report["findings"].as_array().expect("a list") {
            let fix = finding["fix"].as_str().expect("a text");
            for document in fix.split("---\n") {
                let read: Result<Value, _> = serde_saphyr::from_str(document);
                let read = read.unwrap_or_else(|error| panic!("{}: {error}\n{fix}", fault.name));
                assert!(read.is_object(), "{}: {document}", fault.name);
            }
        }
    }
}

#[test]
fn a_report_for_scripts_says_object_field_reason_and_place() {
    let fault = faults()
        .into_iter()
        .find(|it| it.name == "a port that differs from the server's");
    let run = run(&["-o", "json", "-"], &fault.expect("the fault").planted());
    let report = run.json();
    assert_eq!(
        (run.code, &report["errors"], &report["warnings"]),
        (1, &1.into(), &0.into())
    );
    let finding = &report["findings"][0];
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["object"]["kind"], "InferencePool");
    assert_eq!(finding["object"]["namespace"], "ai");
    assert_eq!(finding["object"]["name"], "chat");
    assert_eq!(finding["field"], "spec.targetPorts[0].number");
    assert_eq!(finding["file"], "standard input");
    assert!(finding["document"].is_number());
    assert_eq!(report["objects"]["InferencePool"], 2);
}

#[test]
fn samples_as_upstream_has_them_raise_no_false_alarm() {
    let samples = files("samples");
    assert!(samples.len() >= 6, "{samples:?}");
    for sample in samples {
        let text = fs::read_to_string(&sample).expect("a sample");
        let expected = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# findings: "));
        let expected = expected.expect("a sample begins with what is found in it");
        let path = sample.display().to_string();
        let report = run(&["-o", "json", &path], "").json();
        let found: Vec<String> = found(&report).into_iter().collect();
        let found = if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        };
        assert_eq!(found, expected, "{path}: {report:#}");
    }
}

#[test]
fn the_samples_for_gateways_raise_no_false_alarm() {
    let top = folder().join("../../..");
    let entries = fs::read_dir(top.join("deploy/gateways")).expect("the folder is there");
    let paths: Vec<PathBuf> = entries.map(|it| it.expect("an entry").path()).collect();
    assert!(paths.len() >= 5, "{paths:?}");
    for path in paths {
        let path = path.display().to_string();
        let run = run(&[&path], "");
        assert_eq!(run.code, 0, "{path}: {}{}", run.stdout, run.stderr);
        assert!(
            run.stdout.starts_with("0 errors, 0 warnings."),
            "{path}: {}",
            run.stdout
        );
    }
}

#[test]
fn what_cannot_be_read_ends_with_2_and_names_document_field_and_remedy() {
    let text = fs::read_to_string(folder().join("bad.yaml")).expect("the cases");
    let cases: Vec<Bad> = serde_saphyr::from_str(&text).expect("a list of cases");
    for case in cases {
        let run = run(&["-"], &case.text);
        assert_eq!(run.code, 2, "{}: {}", case.name, run.stdout);
        for word in &case.tells {
            assert!(
                run.stderr.contains(word),
                "{}: {word}: {}",
                case.name,
                run.stderr
            );
        }
    }
}

#[test]
fn a_file_that_is_not_there_ends_with_2() {
    let run = run(&["not-there.yaml"], "");
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("not-there.yaml"), "{}", run.stderr);
}

#[test]
fn what_is_not_among_manifests_is_said_and_is_no_fault() {
    let route = fleet().remove("HTTPRoute ai/chat").expect("the route");
    let pool = fleet().remove("InferencePool ai/chat").expect("the pool");
    let code = fleet().remove("InferencePool ai/code").expect("the pool");
    let text = [route, pool, code].map(|it| it.to_string()).join("\n---\n");
    let run = run(&["-"], &text);
    assert_eq!(run.code, 0, "{}", run.stdout);
    insta::assert_snapshot!("open", run.stdout);
}

impl Fault {
    /// The fleet with the fault in it, as manifests.
    fn planted(&self) -> String {
        let mut objects = fleet();
        for gone in &self.remove {
            assert!(objects.remove(gone).is_some(), "{}: no {gone}", self.name);
        }
        for (path, value) in &self.set {
            let (parent, last) = self.parent(&mut objects, path);
            match parent {
                Value::Array(list) => {
                    list[last.parse::<usize>().expect("an index")] = value.clone();
                }
                parent => parent[&last] = value.clone(),
            }
        }
        for path in &self.remove_fields {
            let (parent, last) = self.parent(&mut objects, path);
            let removed = parent.as_object_mut().and_then(|it| it.remove(&last));
            assert!(removed.is_some(), "{}: no {path}", self.name);
        }
        for object in &self.plant {
            objects.insert(title(object), object.clone());
        }
        documents(&objects)
    }

    /// The value that holds a field, and the field's name in it.
    fn parent<'o>(
        &self,
        objects: &'o mut BTreeMap<String, Value>,
        path: &str,
    ) -> (&'o mut Value, String) {
        let (object, pointer) = path.split_once(" /").expect("an object and a pointer");
        let pointer = format!("/{pointer}");
        let (above, last) = pointer.rsplit_once('/').expect("it begins with a slash");
        let object = objects.get_mut(object);
        let parent = object.and_then(|it| it.pointer_mut(above));
        let parent = parent.unwrap_or_else(|| panic!("{}: no {path}", self.name));
        (parent, last.to_owned())
    }

    fn failure(&self) -> Option<String> {
        let run = run(&["--complete", "-o", "json", "-"], &self.planted());
        let found = found(&run.json());
        let errors = run.json()["errors"].as_u64().expect("a number") > 0;
        let wrong = found != self.findings || run.code != i32::from(errors);
        wrong.then(|| format!("{}: {}\n{}", self.name, run.code, run.stdout))
    }
}

/// Reason and object of every finding.
fn found(report: &Value) -> BTreeSet<String> {
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    let findings = report["findings"].as_array().expect("a list of findings");
    let one = |it: &Value| {
        let object = &it["object"];
        let (kind, namespace) = (word(&object["kind"]), word(&object["namespace"]));
        format!(
            "{} {kind} {namespace}/{}",
            word(&it["reason"]),
            word(&object["name"])
        )
    };
    findings.iter().map(one).collect()
}

fn faults() -> Vec<Fault> {
    let read = |path: PathBuf| -> Vec<Fault> {
        let text = fs::read_to_string(&path).expect("a file of faults");
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    files("faults").into_iter().flat_map(read).collect()
}

/// The fleet that is fine, by kind, namespace and name.
fn fleet() -> BTreeMap<String, Value> {
    let text = fs::read_to_string(folder().join("fleet.yaml")).expect("the fleet");
    let documents = text.split("\n---\n").map(|document| {
        let object: Value = serde_saphyr::from_str(document).expect("an object");
        (title(&object), object)
    });
    documents.collect()
}

fn title(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let (namespace, name) = (word(&metadata["namespace"]), word(&metadata["name"]));
    format!("{} {namespace}/{name}", word(&object["kind"]))
}

fn documents(objects: &BTreeMap<String, Value>) -> String {
    let texts: Vec<_> = objects.values().map(Value::to_string).collect();
    texts.join("\n---\n")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check")
}

fn files(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder().join(name)).expect("the folder is there");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}
