//! vLLM's metrics page to a reading: recorded pages, the corners of the format, and any bytes at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use picker_core::endpoint::{AdapterReading, EngineReading, Reading};
use picker_core::engine::{Engine, Quantity, Series};
use picker_core::exposition::{self, ExpositionError};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// How many recorded pages there are; a page that is lost is a test that is lost.
const RECORDED_PAGES: usize = 29;

fn recorded_pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vllm");
    let mut pages: Vec<PathBuf> = ["", "load", "v0.19.1"]
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).expect("fixture folder is readable"))
        .map(|entry| entry.expect("fixture folder is readable").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    pages.sort();
    pages
}

#[test]
fn recorded_pages_say_what_a_reader_of_the_file_would_write_down() {
    let pages = recorded_pages();
    assert_eq!(pages.len(), RECORDED_PAGES);
    for path in pages {
        let page = fs::read(&path).expect("fixture is readable");
        let reading =
            exposition::read(&page, &Engine::vllm()).expect("a recorded page is a vLLM page");
        let json = serde_json::to_string_pretty(&reading).expect("a reading is plain data");
        let folder = path
            .parent()
            .and_then(Path::file_name)
            .expect("fixtures stand in a folder");
        let name = path.file_stem().expect("fixtures have names");
        let name = format!("{}-{}", folder.display(), name.display());
        insta::with_settings!({ omit_expression => true }, {
            insta::assert_snapshot!(name, json);
        });
    }
}

/// The reading of a page of these lines.
fn read(lines: &[&str]) -> Reading {
    exposition::read(lines.join("\n").as_bytes(), &Engine::vllm())
        .expect("the page has a known series")
}

/// What the only engine of a page says.
fn engine(lines: &[&str]) -> EngineReading {
    let mut engines = read(lines).engines;
    assert_eq!(engines.len(), 1, "{engines:?}");
    engines.remove(0)
}

fn adapters(lines: &[&str]) -> Option<AdapterReading> {
    read(lines).adapters
}

fn running(names: &[&str]) -> Option<AdapterReading> {
    Some(AdapterReading {
        slots: Some(2),
        running: names.iter().map(ToString::to_string).collect(),
    })
}

#[test]
fn numbers_are_read_in_every_form_and_cut_to_whole_ones() {
    let cases = [
        ("8", Some(8)),
        ("8.0", Some(8)),
        ("8.9", Some(8)),
        ("1.0e+03", Some(1000)),
        ("1E3", Some(1000)),
        ("+7", Some(7)),
        ("0", Some(0)),
        ("8 1795198373790", Some(8)),
        ("8 # {trace_id=\"x\"} 1.0", Some(8)),
        ("8\t", Some(8)),
        ("8\r", Some(8)),
        ("-1", None),
        ("NaN", None),
        ("+Inf", None),
        ("-Inf", None),
        ("1e999", None),
    ];
    for (value, expected) in cases {
        let line = format!("vllm:num_requests_running{{engine=\"0\"}} {value}");
        assert_eq!(engine(&[&line]).running, expected, "{value:?}");
    }
}

#[test]
fn malformed_lines_are_skipped_and_harm_no_other() {
    let lines = [
        "vllm:num_requests_running",
        "vllm:num_requests_running{",
        "vllm:num_requests_running{engine=\"0\"}",
        "vllm:num_requests_running{engine=\"0} 1",
        "vllm:num_requests_running{engine=0} 1",
        "vllm:num_requests_running{engine=\"0\" model=\"m\"} 1",
        "vllm:num_requests_running{en gine=\"0\"} 1",
        "vllm:num_requests_running{engine=\"0\"} one",
        "vllm:num_requests_running{engine=\"0\"} 1 soon",
        "vllm:num_requests_running{engine=\"0\"} 1 2 3",
        "vllm:num_requests_running{engine=\"\\\"} 1",
    ];
    for line in lines {
        assert_eq!(
            exposition::read(line.as_bytes(), &Engine::vllm()),
            Err(ExpositionError {
                engine: "vllm".into(),
                example: "vllm:num_requests_running".to_owned(),
                page_bytes: line.len(),
                malformed_lines: 1
            }),
            "{line}"
        );
    }
    let mut page = lines.to_vec();
    page.push("vllm:num_requests_running{engine=\"0\"} 5");
    assert_eq!(engine(&page).running, Some(5));

    let not_utf8 = b"vllm:num_requests_running{engine=\"\xff\"} 1\nvllm:num_requests_waiting 2\n";
    let reading = exposition::read(not_utf8, &Engine::vllm()).expect("the second line is known");
    assert_eq!((reading.running(), reading.waiting()), (None, Some(2)));
}

#[test]
fn a_page_without_known_series_is_an_error_that_says_what_to_check() {
    for page in [
        "",
        "{\"path\":\"/metrics\",\"host\":\"echo\"}",
        "# TYPE vllm:num_requests_running gauge\n",
        "process_start_time_seconds 1.79519837379e+09\n",
        "vllm:num_requests_running_total 3\n",
        "sglang:num_running_reqs 3\n",
    ] {
        let error = exposition::read(page.as_bytes(), &Engine::vllm())
            .expect_err("nothing of vLLM is on the page");
        assert_eq!(error.page_bytes, page.len());
        assert_eq!(error.malformed_lines, 0);
        assert!(error.to_string().contains("vllm:num_requests_running"));
    }
}

#[test]
fn names_match_whole_and_blanks_are_free() {
    let found = engine(&[
        "vllm:num_requests_running_peak{engine=\"0\"} 1",
        "xvllm:num_requests_running{engine=\"0\"} 2",
        " \tvllm:num_requests_running { engine = \"0\" , } 3 ",
        "vllm:num_requests_waiting{model_name=\"a,}b\",engine=\"0\",} 4",
    ]);
    assert_eq!((found.running, found.waiting), (Some(3), Some(4)));
}

#[test]
fn engines_stand_in_the_order_of_their_numbers() {
    let line = |label: &str| format!("vllm:num_requests_running{{engine=\"{label}\"}} 1");
    let lines = ["10", "b", "2", "a", "0"].map(line);
    let reading = read(&lines.each_ref().map(String::as_str));
    let labels: Vec<&str> = reading.engines.iter().map(|one| &*one.engine).collect();
    assert_eq!(labels, ["0", "2", "10", "a", "b"]);
}

#[test]
fn more_engines_than_believed_are_dropped() {
    let lines: Vec<String> = (0..1000)
        .map(|engine| format!("vllm:num_requests_running{{engine=\"{engine}\"}} 1"))
        .collect();
    let reading = read(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(reading.running(), Some(256));
}

#[test]
fn cache_configuration_without_an_engine_label_holds_for_every_engine() {
    let config = "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"900\"} 1.0";
    let reading = read(&[
        config,
        "vllm:num_requests_running{engine=\"0\"} 1",
        "vllm:num_requests_running{engine=\"1\"} 2",
    ]);
    let seen: Vec<_> = reading
        .engines
        .iter()
        .map(|one| (&*one.engine, one.block_size, one.kv_blocks))
        .collect();
    assert_eq!(
        seen,
        [("0", Some(16), Some(900)), ("1", Some(16), Some(900))]
    );

    let alone = engine(&[config, "vllm:num_requests_running 1"]);
    assert_eq!((alone.running, alone.block_size), (Some(1), Some(16)));

    let unset = engine(&["vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1.0"]);
    assert_eq!((unset.block_size, unset.kv_blocks), (Some(16), None));
}

#[test]
fn kv_usage_has_an_old_name_and_is_a_share() {
    assert_eq!(
        engine(&["vllm:gpu_cache_usage_perc 0.25"]).kv_usage,
        Some(0.25)
    );
    assert_eq!(
        engine(&["vllm:kv_cache_usage_perc 1.0"]).kv_usage,
        Some(1.0)
    );
    assert_eq!(engine(&["vllm:kv_cache_usage_perc 34.0"]).kv_usage, None);
    let both = [
        "vllm:kv_cache_usage_perc NaN",
        "vllm:gpu_cache_usage_perc 0.5",
    ];
    assert_eq!(engine(&both).kv_usage, Some(0.5));
}

#[test]
fn finished_requests_are_summed_over_reasons_and_other_counters_are_not() {
    let found = engine(&[
        "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\"} 3.0",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"length\"} 4.0",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"error\"} NaN",
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"a\"} 5.0",
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"b\"} 6.0",
    ]);
    assert_eq!((found.finished, found.prompt_tokens), (Some(7), Some(5)));
}

#[test]
fn the_adapters_are_those_of_the_series_set_last() {
    let idle = "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"\"} 1.7e+09";
    let a = "vllm:lora_requests_info{running_lora_adapters=\"a\",max_lora=\"2\"} 1.8e+09";
    assert_eq!(adapters(&[idle, a]), running(&["a"]));
    assert_eq!(adapters(&[a, idle]), running(&["a"]));
    assert_eq!(adapters(&[idle]), running(&[]));
    assert_eq!(adapters(&["vllm:num_requests_running 1"]), None);

    let equal = "vllm:lora_requests_info{running_lora_adapters=\"b\",max_lora=\"2\"} 1.8e+09";
    assert_eq!(
        adapters(&[a, equal]),
        running(&["a"]),
        "the first of equals"
    );
    let bad = "vllm:lora_requests_info{running_lora_adapters=\"b\",max_lora=\"2\"} +Inf";
    assert_eq!(adapters(&[a, bad]), running(&["a"]));
    let nameless = "vllm:lora_requests_info{max_lora=\"2\"} 1.8e+09";
    assert_eq!(adapters(&[nameless]), None);
}

#[test]
fn adapter_names_are_trimmed_unescaped_and_never_empty() {
    let line =
        r#"vllm:lora_requests_info{max_lora="2",running_lora_adapters=" a ,,b\"c\\d\ne\x, "} 1.0"#;
    assert_eq!(adapters(&[line]), running(&["a", "b\"c\\d\ne\\x"]));
    let slots = "vllm:lora_requests_info{max_lora=\"\",running_lora_adapters=\"a\"} 1.0";
    let found = adapters(&[slots]).expect("the series names adapters");
    assert_eq!((found.slots, found.running), (None, vec!["a".to_owned()]));
}

#[test]
fn summed_times_make_the_adapters_unknown() {
    let idle_twice = "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"\"} 3.59e+09";
    let a = "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"a\"} 1.79e+09";
    assert_eq!(adapters(&[idle_twice, a]), None);
    assert_eq!(adapters(&[a, idle_twice]), None);
    assert_eq!(adapters(&[a]), running(&["a"]));
}

/// Text that is nearly a metrics page: pieces of one in any order.
fn nearly_a_page() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"vllm:num_requests_running".to_vec()),
        Just(b"vllm:lora_requests_info".to_vec()),
        Just(b"vllm:cache_config_info".to_vec()),
        Just(b"running_lora_adapters=".to_vec()),
        Just(b"engine=\"0\"".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"\\".to_vec()),
        Just(b"{".to_vec()),
        Just(b"}".to_vec()),
        Just(b",".to_vec()),
        Just(b" 1".to_vec()),
        Just(b"\n".to_vec()),
        Just("é".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0x706f_696e_7473),
        failure_persistence: None,
        cases: 2_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_survived_and_do_not_hide_a_good_line(noise in nearly_a_page()) {
        let mut page = noise;
        page.extend_from_slice(b"\nvllm:num_requests_waiting{engine=\"last\"} 7\n");
        let reading = exposition::read(&page, &Engine::vllm()).expect("the last line is good");
        let last = reading.engines.iter().find(|one| one.engine == "last");
        prop_assert_eq!(last.and_then(|one| one.waiting), Some(7));
    }

    #[test]
    fn a_line_is_read_if_and_only_if_its_name_is_that_of_a_series(
        names in proptest::collection::hash_map("[ab]{1,4}(:[ab]{0,9})?", any::<bool>(), 2..20),
        labels in "(\\{ *a=\"b\" *,?\\})?[ \t]",
    ) {
        let series = |(name, known): (&String, &bool)| {
            known.then(|| Series {
                name: name.clone().into(),
                means: Quantity::Running,
                labels: BTreeMap::new(),
                label: None,
                summed: true,
            })
        };
        let series: Vec<Series> = names.iter().filter_map(series).collect();
        let count = (!series.is_empty()).then_some(series.len() as u64);
        let engine = Engine::new("any", "/metrics".into(), "rank".into(), series);
        let page: String = names.keys().map(|name| format!("{name}{labels}1\n")).collect();
        let reading = exposition::read(page.as_bytes(), &engine).ok();
        prop_assert_eq!(reading.and_then(|reading| reading.engines[0].running), count);
    }

    #[test]
    fn label_values_come_back_as_they_were_written(name in "[^,\\s]([^,]*[^,\\s])?") {
        let written = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let page = format!("vllm:lora_requests_info{{max_lora=\"2\",running_lora_adapters=\"{written}\"}} 1");
        let page = page.as_bytes();
        let found = exposition::read(page, &Engine::vllm()).expect("the line is good").adapters;
        prop_assert_eq!(found, running(&[&name]));
    }
}
