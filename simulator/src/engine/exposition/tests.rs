//! The page against a recorded one.

use std::time::Duration;

use picker_core::time::Instant;

use super::*;
use crate::engine::{AdapterId, Profile, Request, RequestId};

const RECORDED: &str = include_str!("../../../tests/fixtures/vllm-0.32.0-metrics.txt");

fn tiny() -> Engine {
    let mut profile = Profile::demo();
    profile.block_size = 32;
    profile.num_gpu_blocks = 256;
    profile.max_model_len = 2048;
    profile.max_loras = 2;
    Engine::new(profile)
}

fn page(engine: &Engine, traffic: &Traffic) -> String {
    let adapter_names = ["a".to_owned(), "b".to_owned()];
    let about = About {
        model_name: "tiny",
        adapter_names: &adapter_names,
        started_unix_seconds: 1_795_197_297.5,
    };
    text(engine, &about, traffic)
}

/// The situation of the recording: a request on the base model, one on each of two adapters, all finished, one after another.
fn after_few() -> String {
    let mut engine = tiny();
    let mut now = Instant::ZERO;
    for (id, adapter) in [None, Some(AdapterId(0)), None, Some(AdapterId(1))]
        .into_iter()
        .enumerate()
    {
        engine
            .submit(now, Request::new(RequestId(id as u64), adapter, 5, 36))
            .expect("fits");
        while let Some(end) = engine.next_step_end() {
            engine.advance(end, &mut Vec::new());
            now = end;
        }
    }
    let mut traffic = Traffic::default();
    traffic.answered(&Answered {
        handler: "/v1/completions",
        method: "POST",
        status: 200,
        request_bytes: 100,
        response_bytes: 700,
        seconds: 2.0,
    });
    page(&engine, &traffic)
}

/// Headings whole; of a series all but its value, and of `cache_config_info` the names of its labels alone.
fn shape(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| match line.rsplit_once(' ') {
            Some((series, _)) if series.starts_with("vllm:cache_config_info") => series
                .split("\",")
                .filter_map(|label| label.split_once('='))
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
                .join(","),
            Some((series, _)) if !line.starts_with('#') => series.to_owned(),
            _ => line.to_owned(),
        })
        .collect()
}

#[test]
fn the_page_differs_from_vllms_in_values_and_in_our_own_last_family_only() {
    let mut ours = shape(&after_few());
    let own = ours.split_off(ours.len() - 3);
    assert_eq!(own[2], "sim:adapter_loads_total");
    for (line, (ours, recorded)) in ours.iter().zip(shape(RECORDED)).enumerate() {
        assert_eq!(*ours, recorded, "line {}", line + 1);
    }
    assert_eq!(ours.len(), RECORDED.lines().count());
}

#[test]
fn adapters_appear_after_the_first_step_and_never_disappear() {
    let engine = tiny();
    let fresh = page(&engine, &Traffic::default());
    assert!(fresh.contains("# TYPE vllm:lora_requests_info gauge\n# HELP vllm:cache_config_info"));

    let series: Vec<_> = after_few()
        .lines()
        .filter(|line| line.starts_with("vllm:lora_requests_info"))
        .map(|line| line.rsplit_once(' ').expect("a value").0.to_owned())
        .collect();
    assert_eq!(
        series,
        [
            r#"vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""}"#,
            r#"vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters="a"}"#,
            r#"vllm:lora_requests_info{max_lora="2",running_lora_adapters="b",waiting_lora_adapters="b"}"#,
        ]
    );
}

#[test]
fn without_adapter_slots_the_family_is_absent() {
    let mut profile = Profile::demo();
    profile.max_loras = 0;
    let text = page(&Engine::new(profile), &Traffic::default());
    assert!(!text.contains("lora_requests_info"));
}

#[test]
fn values_are_those_of_the_last_steps_end() {
    // Demo profile: 5 prompt tokens take 40 + 0.5 ms, a decode 40.5 ms.
    let mut engine = tiny();
    engine
        .submit(Instant::ZERO, Request::new(RequestId(1), None, 5, 2))
        .expect("fits");
    let during = page(&engine, &Traffic::default());
    assert!(during.contains("vllm:num_requests_running{engine=\"0\",model_name=\"tiny\"} 0.0\n"));

    engine.advance(
        Instant::ZERO + Duration::from_micros(40_500),
        &mut Vec::new(),
    );
    let after = page(&engine, &Traffic::default());
    for line in [
        "vllm:num_requests_running{engine=\"0\",model_name=\"tiny\"} 1.0\n",
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"tiny\"} 0.003921568627450",
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"tiny\"} 5.0\n",
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"tiny\"} 1.0\n",
        "vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"tiny\"} 6.0\n",
        "vllm:time_to_first_token_seconds_sum{engine=\"0\",model_name=\"tiny\"} 0.0405\n",
    ] {
        assert!(after.contains(line), "{line}");
    }
}
