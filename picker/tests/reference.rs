//! The pages of docs against the program: what is written twice is compared.
//!
//! In docs/reference, the tables between the marks `generated` are made from the code. After a change,
//! `UPDATE_EXPECT=1 cargo test -p picker --test reference` writes them anew.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Arg, Command, CommandFactory};
use picker::driver::{Ask, DriverMetrics, Errand, ErrandKind, Need, PoolSpec, Pools, SourceState};
use picker::extproc::EdgeMetrics;
use picker::scrape::{ScrapeMetrics, Scraper};
use picker::settings::Arguments;
use picker::telemetry;
use picker::tls::{Acceptor, Refusal, Tally};
use picker_core::Settings;
use picker_core::endpoint::{Endpoint, EndpointKey};
use picker_core::engine::Engine;
use picker_core::event::Following;
use picker_core::request::Request;
use picker_core::route::{PoolKey, Told};
use picker_core::view::Asked;
use picker_core::view::rewrite::{Naming, Rewriting};
use prometheus_client::encoding::text::encode;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const BEGIN: &str = "<!-- generated: picker/tests/reference.rs -->\n";
const END: &str = "<!-- end of what is generated -->\n";

#[test]
fn the_page_of_flags_lists_the_flags_that_there_are() {
    check("flags.md", &flags());
}

#[tokio::test]
async fn the_page_of_metrics_lists_the_metrics_that_there_are() {
    check("metrics.md", &metrics_table(&exposition().await));
}

#[test]
fn the_tests_and_paths_that_the_architecture_names_are_there() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(top.join("docs/architecture.md")).expect("the page is there");
    let mut sources = String::new();
    for folder in ["crds", "picker", "simulator"] {
        collect_sources(&top.join(folder), &mut sources);
    }
    let prose = page.split("```").step_by(2);
    let words: Vec<&str> = prose
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .collect();
    let tests: Vec<&str> = words.iter().copied().filter(|word| is_test(word)).collect();
    assert!(tests.len() > 10, "{tests:?}");
    for test in tests {
        let defined = format!("fn {test}(");
        assert!(
            sources.contains(&defined),
            "docs/architecture.md names the test `{test}`, which is nowhere"
        );
    }
    let folders = ["crds/", "deploy/", "picker/", "simulator/"];
    for path in words
        .iter()
        .filter(|word| folders.iter().any(|folder| word.starts_with(folder)))
    {
        assert!(
            top.join(path).exists(),
            "docs/architecture.md names `{path}`, which is not there"
        );
    }
}

#[test]
fn the_architecture_maps_every_module_that_a_package_opens_with() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(top.join("docs/architecture.md")).expect("the page is there");
    for library in [
        "picker/core/src/lib.rs",
        "picker/src/lib.rs",
        "simulator/src/lib.rs",
    ] {
        let source = fs::read_to_string(top.join(library)).expect("the library is there");
        let modules: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
            .collect();
        assert!(!modules.is_empty(), "{library} opens with no module");
        for module in modules {
            let row = page
                .lines()
                .any(|line| line.starts_with('|') && line.contains(&format!("`{module}`")));
            assert!(
                row,
                "the code map of docs/architecture.md has no row for `{module}` of {library}"
            );
        }
    }
}

/// Whether a word is the name of a test: a sentence of five words at least.
fn is_test(word: &str) -> bool {
    word.matches('_').count() >= 4
        && word
            .chars()
            .all(|it| it == '_' || it.is_ascii_lowercase() || it.is_ascii_digit())
}

/// Appends every Rust source under a folder.
fn collect_sources(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("its entries, too").path();
        if path.is_dir() {
            collect_sources(&path, sources);
        } else if path.extension().is_some_and(|it| it == "rs") {
            *sources += &fs::read_to_string(&path).expect("a source is text");
        }
    }
}

/// Compares the generated part of a page with `expected`, or writes it if the environment asks for that.
fn check(page: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/reference/{page}"));
    let text = fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = text
        .split_once(BEGIN)
        .expect("the page has the mark of what is generated");
    let (found, after) = rest.split_once(END).expect("and the mark of its end");
    if found == expected {
        return;
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no arguments of its own"
    )]
    let update = std::env::var("UPDATE_EXPECT").is_ok();
    assert!(
        update,
        "docs/reference/{page} differs from the program; run \
         `UPDATE_EXPECT=1 cargo test -p picker --test reference` and read the difference. Expected:\n{expected}"
    );
    let text = format!("{before}{BEGIN}{expected}{END}{after}");
    fs::write(&path, text).expect("the page can be written");
}

// === flags ===

fn flags() -> String {
    let command = Arguments::command();
    let serve = command
        .find_subcommand("serve")
        .expect("the command there is");
    let (hidden, shown): (Vec<&Arg>, Vec<&Arg>) =
        serve.get_arguments().partition(|one| one.is_hide_set());
    let rows: String = shown.into_iter().map(flag).collect();
    let others: String = hidden.into_iter().map(upstream_flag).collect();
    format!(
        "| flag | default | environment | meaning |\n|---|---|---|---|\n{rows}\n\
         ## Upstream's other flags\n\n\
         Those of llm-d's picker that have no setting behind them here. Each is accepted; a value that asks for something else\n\
         than is done here is answered with a warning at the start. `--help` does not list them.\n\n\
         | flag | what is done here |\n|---|---|\n{others}{}{}",
        flags_of(&command, "check"),
        flags_of(&command, "migrate")
    )
}

/// The section of a command that serves nothing.
fn flags_of(command: &Command, name: &str) -> String {
    let command = command.find_subcommand(name).expect("the command there is");
    let about = command
        .get_about()
        .expect("every command says what it is for");
    let rows: String = command.get_arguments().map(flag).collect();
    format!(
        "\n## `pointsman {name}`\n\n{about}.\n\n| flag | default | environment | meaning |\n|---|---|---|---|\n{rows}"
    )
}

fn upstream_flag(argument: &Arg) -> String {
    let long = argument.get_long().expect("every argument has a long name");
    let short = argument.get_short();
    let short = short.map_or_else(String::new, |short| format!("`-{short}`, "));
    let help = argument.get_help().expect("every argument has a help text");
    format!("| {short}`--{long}` | {help} |\n")
}

fn flag(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let takes = argument.get_action().takes_values();
    let value: String = names
        .iter()
        .filter(|_| takes)
        .map(|name| format!(" {name}"))
        .collect();
    let name = match argument.get_long() {
        Some(long) => format!("--{long}{value}"),
        None => format!("{}...", value.trim()),
    };
    let defaults = argument.get_default_values();
    let default = match defaults.first() {
        Some(default) => format!("`{}`", default.display()),
        None if argument.is_required_set() => "required".to_owned(),
        None => String::new(),
    };
    let variable = argument.get_env();
    let variable = variable.map_or_else(String::new, |name| format!("`{}`", name.display()));
    let help = argument.get_help().expect("every argument has a help text");
    let possible = argument.get_possible_values();
    let aliases = argument.get_all_aliases().unwrap_or_default();
    let aliases: String = aliases
        .iter()
        .map(|alias| format!("; also `--{alias}`"))
        .collect();
    let values: Vec<String> = possible
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let values = if values.is_empty() {
        String::new()
    } else {
        format!(": {}", values.join(", "))
    };
    format!("| `{name}` | {default} | {variable} | {help}{values}{aliases} |\n")
}

// === metrics ===

/// The metrics page of a process in which everything that is counted has happened.
async fn exposition() -> String {
    let mut registry = telemetry::registry();
    let metrics = DriverMetrics::register(&mut registry);
    let scraper = Scraper::new(ScrapeMetrics::register(&mut registry)).expect("an HTTP client");
    let settings = Settings {
        seed: 0,
        reading_interval_min: Duration::ZERO,
    };
    let (pools, _errands) = Pools::new(settings, 1 << 20, metrics);
    let (full, empty) = (PoolKey::new("ai", "full"), PoolKey::new("ai", "empty"));
    let endpoint = dead_endpoint();
    let spec = PoolSpec {
        endpoints: vec![endpoint.clone()],
        ..PoolSpec::default()
    };
    pools.replace(vec![
        (full.clone(), spec),
        (empty.clone(), PoolSpec::default()),
    ]);
    pick_and_refuse(&pools, &full, &empty);
    scrape_once(&pools, &full, endpoint.address, scraper).await;
    connect_and_refuse(&Tally::register(&mut registry)).await;
    drop(EdgeMetrics::register(&mut registry));
    let states = pools
        .all()
        .iter()
        .map(|handle| (handle.label(), handle.in_flight(), handle.endpoints()))
        .collect::<Vec<_>>();
    pools.metrics().observe(&states);
    pools.metrics().on_panic("ai/full");
    pools.metrics().on_turn("ai/full");
    pools.sources().register(&mut registry);
    pools.sources().begin("pods", Need::Synced);
    let failing = SourceState::Failing("refused".to_owned());
    pools.sources().set("pods", failing);
    pools.sources().note_unreadable("InferencePool");
    let mut page = String::new();
    encode(&mut page, &registry).expect("a string can be written to");
    page
}

/// An endpoint at an address where nobody listens.
fn dead_endpoint() -> Endpoint {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    Endpoint {
        identity: address.to_string().into(),
        name: "ai/vllm-0".into(),
        address,
        engine: Arc::new(Engine::vllm().read_for("of-its-own")),
    }
}

fn pick_and_refuse(pools: &Pools, full: &PoolKey, empty: &PoolKey) {
    let pick = |pool: &PoolKey, id: &str| {
        let handle = pools.get(pool).expect("the pool is there");
        let rewrite = Rewriting {
            asked: Some("llama".into()),
            model: "llama-v2".into(),
            arm: None,
            naming: Naming::PutBack,
        };
        handle.pick(Ask {
            request_id: Arc::from(id),
            request: Request::of_headers("/v1/completions"),
            standing: handle.view().standing(&Asked::default()),
            rewrite: Some(rewrite),
            subset: None,
            following: Following::Full,
            fallbacks: 0,
            within: Duration::from_secs(30),
            told: Told::Routes,
            or: Arc::new([PoolKey::new("default", "other")]),
        })
    };
    let mut flight = pick(full, "one").expect("there is an endpoint");
    flight.first_token();
    flight.ending.status = Some(200);
    drop(flight);
    pick(empty, "two").expect_err("there is none");
}

async fn connect_and_refuse(tally: &Tally) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut proxy = TcpStream::connect(address).await.expect("it listens");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    proxy.write_all(preface).await.expect("it is connected");
    let (accepted, _) = listener.accept().await.expect("it has connected");
    let acceptor = Acceptor::plaintext_only();
    let connection = acceptor.accept(accepted, Duration::from_secs(30)).await;
    tally.begun(&connection.expect("plaintext").expect("a connection"));
    tally.refused(Instant::now(), None, &Refusal::TlsIsOff);
}

/// Runs one errand to its end, which is a refused connection.
async fn scrape_once(pools: &Pools, pool: &PoolKey, address: SocketAddr, scraper: Scraper) {
    let handle = pools.get(pool).expect("the pool is there");
    let (errands, receiver) = tokio::sync::mpsc::channel(1);
    let errand = Errand {
        pool: handle.clone(),
        endpoint: EndpointKey(0),
        address,
        kind: ErrandKind::Read(Engine::vllm()),
    };
    errands.send(errand).await.expect("there is room");
    // The count is made in the same step as the report.
    let reported = async {
        while handle.unheard() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = scraper.run(receiver) => {}
        done = tokio::time::timeout(Duration::from_secs(30), reported) => {
            done.expect("the errand ends within 30 s");
        }
    }
}

/// One row a metric: its series' name, type, labels and help.
fn metrics_table(page: &str) -> String {
    let mut labels: BTreeMap<&str, String> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let end = line.find(['{', ' ']).expect("a sample has a value");
        labels
            .entry(&line[..end])
            .or_insert_with(|| label_names(&line[end..]));
    }
    let rows: String = page
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "))
        .map(|line| {
            let (family, help) = line.split_once(' ').expect("a help text");
            let kind = kind_of(page, family);
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let sample = match kind {
                "histogram" => format!("{family}_count"),
                _ => format!("{family}{suffix}"),
            };
            let labels = labels
                .get(sample.as_str())
                .expect("every metric has a series by now");
            format!("| `{family}{suffix}` | {kind} | {labels} | {help} |\n")
        })
        .collect();
    format!("| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}")
}

fn kind_of<'a>(page: &'a str, family: &str) -> &'a str {
    let prefix = format!("# TYPE {family} ");
    let kind = page.lines().find_map(|line| line.strip_prefix(&prefix));
    kind.expect("every metric has a type")
}

/// The names of the labels in `{a="1",b="2"} 3`; no label of ours has a comma or an equals sign in its value.
fn label_names(sample: &str) -> String {
    let inside = sample
        .strip_prefix('{')
        .and_then(|rest| rest.split_once('}'));
    let names = inside.map_or("", |(inside, _)| inside).split(',');
    let names: Vec<String> = names
        .filter_map(|label| label.split_once('='))
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    names.join(", ")
}
