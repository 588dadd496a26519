//! The families of vLLM 0.32.0 in their order, with their help texts, from a recorded page.

use super::About;
use super::page::{Page, escaped};
use crate::engine::{Engine, Profile, Statistics};

/// Families of the Python process. Only the start time says anything; the rest stands at zero.
pub(super) fn write_process(page: &mut Page, started_unix_seconds: f64) {
    page.family(
        "python_gc_objects_collected_total",
        "Objects collected during gc",
        "counter",
    );
    for labels in GENERATIONS {
        page.sample("python_gc_objects_collected_total", labels, 0.0);
    }
    page.family(
        "python_gc_objects_uncollectable_total",
        "Uncollectable objects found during GC",
        "counter",
    );
    for labels in GENERATIONS {
        page.sample("python_gc_objects_uncollectable_total", labels, 0.0);
    }
    page.family(
        "python_gc_collections_total",
        "Number of times this generation was collected",
        "counter",
    );
    for labels in GENERATIONS {
        page.sample("python_gc_collections_total", labels, 0.0);
    }
    page.gauge(
        "python_info",
        "Python platform information",
        &[(
            r#"implementation="CPython",major="3",minor="11",patchlevel="7",version="3.11.7""#,
            1.0,
        )],
    );
    page.gauge(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        &[("", 0.0)],
    );
    page.gauge(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        &[("", 0.0)],
    );
    page.gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        &[("", started_unix_seconds)],
    );
    page.family(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        "counter",
    );
    page.sample("process_cpu_seconds_total", "", 0.0);
    page.gauge(
        "process_open_fds",
        "Number of open file descriptors.",
        &[("", 0.0)],
    );
    page.gauge(
        "process_max_fds",
        "Maximum number of open file descriptors.",
        &[("", 0.0)],
    );
}

const GENERATIONS: [&str; 3] = [
    r#"generation="0""#,
    r#"generation="1""#,
    r#"generation="2""#,
];

/// The `vllm:` families.
pub(super) fn write_engine(page: &mut Page, engine: &Engine, about: &About<'_>) {
    let labels = Labels::new(about.model_name);
    let statistics = engine.statistics();
    write_gauges(page, statistics, &labels);
    write_cache_counters(page, statistics, &labels);
    write_token_counters(page, statistics, &labels);
    write_request_counters(page, statistics, &labels);
    write_token_histograms(page, statistics, &labels);
    write_time_histograms(page, statistics, &labels);
    write_last_histograms(page, statistics, &labels);
    if engine.profile().max_loras > 0 {
        write_adapters(page, engine, about);
    }
    write_cache_config(page, engine.profile());
}

/// The labels that nearly every series has, as text.
struct Labels {
    /// `engine` and `model_name`.
    both: String,
    engine: &'static str,
    model_name: String,
}

impl Labels {
    fn new(model_name: &str) -> Self {
        let engine = r#"engine="0""#;
        let model_name = format!("model_name=\"{}\"", escaped(model_name));
        Self {
            both: format!("{engine},{model_name}"),
            engine,
            model_name,
        }
    }

    /// With a label that sorts before `model_name`.
    fn inside(&self, label: &str, value: &str) -> String {
        format!("{},{label}=\"{value}\",{}", self.engine, self.model_name)
    }

    /// With a label that sorts after `model_name`.
    fn with(&self, label: &str, value: &str) -> String {
        format!("{},{label}=\"{value}\"", self.both)
    }
}

fn write_gauges(page: &mut Page, statistics: &Statistics, labels: &Labels) {
    let both = labels.both.as_str();
    page.counter("vllm:estimated_flops_per_gpu", "Estimated number of floating point operations per GPU (for Model Flops Utilization calculations).", &[(both, 0.0)]);
    page.counter("vllm:estimated_read_bytes_per_gpu", "Estimated number of bytes read from memory per GPU (for Model Flops Utilization calculations).", &[(both, 0.0)]);
    page.counter("vllm:estimated_write_bytes_per_gpu", "Estimated number of bytes written to memory per GPU (for Model Flops Utilization calculations).", &[(both, 0.0)]);
    let gauges = statistics.gauges;
    let (capacity, deferred) = (
        gauges.waiting_capacity as f64,
        gauges.waiting_deferred as f64,
    );
    page.gauge(
        "vllm:num_requests_running",
        "Number of requests in model execution batches.",
        &[(both, gauges.running as f64)],
    );
    page.gauge(
        "vllm:num_requests_waiting",
        "Number of requests waiting to be processed.",
        &[(both, capacity + deferred)],
    );
    page.gauge("vllm:num_requests_waiting_by_reason", "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.", &[(&labels.with("reason", "capacity"), capacity), (&labels.with("reason", "deferred"), deferred)]);
    page.gauge("vllm:engine_sleep_state", "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.", &[(&labels.with("sleep_state", "awake"), 1.0), (&labels.with("sleep_state", "weights_offloaded"), 0.0), (&labels.with("sleep_state", "discard_all"), 0.0)]);
    page.gauge(
        "vllm:kv_cache_usage_perc",
        "KV-cache usage. 1 means 100 percent usage.",
        &[(both, gauges.kv_usage)],
    );
}

/// The prefix cache, and the counters of caches that this engine does not have.
fn write_cache_counters(page: &mut Page, statistics: &Statistics, labels: &Labels) {
    let both = labels.both.as_str();
    page.counter(
        "vllm:prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
        &[(both, statistics.prefix_cache_queries as f64)],
    );
    page.counter(
        "vllm:prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        &[(both, statistics.prefix_cache_hits as f64)],
    );
    page.counter("vllm:external_prefix_cache_queries", "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.", &[(both, 0.0)]);
    page.counter("vllm:external_prefix_cache_hits", "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.", &[(both, 0.0)]);
    page.counter(
        "vllm:mm_cache_queries",
        "Multi-modal cache queries, in terms of number of queried items.",
        &[(both, 0.0)],
    );
    page.counter(
        "vllm:mm_cache_hits",
        "Multi-modal cache hits, in terms of number of cached items.",
        &[(both, 0.0)],
    );
    page.counter(
        "vllm:num_preemptions",
        "Cumulative number of preemption from the engine.",
        &[(both, statistics.preemptions as f64)],
    );
}

fn write_token_counters(page: &mut Page, statistics: &Statistics, labels: &Labels) {
    let both = labels.both.as_str();
    let prompt_tokens = statistics.prompt_tokens as f64;
    let cached_tokens = statistics.prompt_tokens_cached as f64;
    page.counter(
        "vllm:prompt_tokens",
        "Number of prefill tokens processed.",
        &[(both, prompt_tokens)],
    );
    page.counter(
        "vllm:prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        &[
            (
                &labels.with("source", "local_compute"),
                prompt_tokens - cached_tokens,
            ),
            (&labels.with("source", "local_cache_hit"), cached_tokens),
            (&labels.with("source", "external_kv_transfer"), 0.0),
        ],
    );
    page.counter(
        "vllm:prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        &[(both, cached_tokens)],
    );
    let tiers = ["device", "host", "p2p", "disk", "external_unspecified"]
        .map(|tier| labels.with("source", tier));
    let mut cached: Vec<_> = tiers.iter().map(|labels| (labels.as_str(), 0.0)).collect();
    cached[0].1 = statistics.prefix_cache_hits as f64;
    page.counter("vllm:prompt_tokens_cached_by_source", "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.", &cached);
    page.counter(
        "vllm:generation_tokens",
        "Number of generation tokens processed.",
        &[(both, statistics.generation_tokens as f64)],
    );
}

fn write_request_counters(page: &mut Page, statistics: &Statistics, labels: &Labels) {
    let reasons = [
        ("stop", statistics.success_stop),
        ("length", statistics.success_length),
        ("abort", 0),
        ("error", 0),
        ("repetition", 0),
    ]
    .map(|(reason, count)| (labels.inside("finished_reason", reason), count as f64));
    let finished: Vec<_> = reasons
        .iter()
        .map(|(labels, count)| (labels.as_str(), *count))
        .collect();
    page.counter(
        "vllm:request_success",
        "Count of successfully processed requests.",
        &finished,
    );
    let limits = ["max_num_queued_reqs", "max_num_queued_tokens"]
        .map(|limit| format!("{},reason=\"{limit}\"", labels.model_name));
    let rejected: Vec<_> = limits.iter().map(|labels| (labels.as_str(), 0.0)).collect();
    page.counter(
        "vllm:admission_rejections",
        "Number of admission attempts rejected by a queue limit, by reason.",
        &rejected,
    );
}

fn write_token_histograms(page: &mut Page, statistics: &Statistics, labels: &Labels) {
    for (name, help, histogram) in [
        (
            "vllm:request_prompt_tokens",
            "Number of prefill tokens processed.",
            &statistics.request_prompt_tokens,
        ),
        (
            "vllm:request_generation_tokens",
            "Number of generation tokens processed.",
            &statistics.request_generation_tokens,
        ),
        (
            "vllm:iteration_tokens_total",
            "Histogram of number of tokens per engine_step.",
            &statistics.iteration_tokens,
        ),
        (
            "vllm:request_max_num_generation_tokens",
            "Histogram of maximum number of requested generation tokens.",
            &statistics.request_generation_tokens,
        ),
        (
            "vllm:request_params_n",
            "Histogram of the n request parameter.",
            &statistics.request_params_n,
        ),
        (
            "vllm:request_params_max_tokens",
            "Histogram of the max_tokens request parameter.",
            &statistics.request_params_max_tokens,
        ),
    ] {
        page.histogram(name, help, (labels.engine, &labels.model_name), histogram);
    }
}

fn write_time_histograms(page: &mut Page, statistics: &Statistics, labels: &Labels) {
    for (name, help, histogram) in [
        (
            "vllm:time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            &statistics.time_to_first_token,
        ),
        (
            "vllm:inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            &statistics.inter_token_latency,
        ),
        (
            "vllm:request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            &statistics.request_time_per_output_token,
        ),
        (
            "vllm:e2e_request_latency_seconds",
            "Histogram of e2e request latency in seconds.",
            &statistics.e2e_request_latency,
        ),
        (
            "vllm:request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            &statistics.request_queue_time,
        ),
        (
            "vllm:request_inference_time_seconds",
            "Histogram of time spent in RUNNING phase for request.",
            &statistics.request_inference_time,
        ),
        (
            "vllm:request_prefill_time_seconds",
            "Histogram of time spent in PREFILL phase for request.",
            &statistics.request_prefill_time,
        ),
        (
            "vllm:request_decode_time_seconds",
            "Histogram of time spent in DECODE phase for request.",
            &statistics.request_decode_time,
        ),
    ] {
        page.histogram(name, help, (labels.engine, &labels.model_name), histogram);
    }
}

fn write_last_histograms(page: &mut Page, statistics: &Statistics, labels: &Labels) {
    for (name, help, histogram) in [
        (
            "vllm:request_num_preemptions",
            "Histogram of the number of times a request was preempted.",
            &statistics.request_num_preemptions,
        ),
        (
            "vllm:request_prefill_kv_computed_tokens",
            "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
            &statistics.request_prefill_kv_computed,
        ),
    ] {
        page.histogram(name, help, (labels.engine, &labels.model_name), histogram);
    }
}

/// One series for each label set that there has been, worth the time it was last set. Both lists always name the same
/// adapters: vLLM fills them from the keys of one dictionary.
fn write_adapters(page: &mut Page, engine: &Engine, about: &About<'_>) {
    let name = "vllm:lora_requests_info";
    page.family(name, "Running stats on lora requests.", "gauge");
    let max_lora = engine.profile().max_loras;
    for (adapters, at) in engine.statistics().adapter_label_sets() {
        let adapter_name = |id: &crate::engine::AdapterId| {
            about
                .adapter_names
                .get(id.0 as usize)
                .map(|name| escaped(name))
        };
        let list = adapters
            .iter()
            .filter_map(adapter_name)
            .collect::<Vec<_>>()
            .join(",");
        let labels = format!(
            "max_lora=\"{max_lora}\",running_lora_adapters=\"{list}\",waiting_lora_adapters=\"{list}\""
        );
        page.sample(
            name,
            &labels,
            about.started_unix_seconds + at.as_nanos() as f64 / 1e9,
        );
    }
}

/// The settings of the cache; those that a profile does not have are as recorded.
fn write_cache_config(page: &mut Page, profile: &Profile) {
    let block_size = profile.block_size.to_string();
    let blocks = profile.num_gpu_blocks.to_string();
    let tokens = (u64::from(profile.num_gpu_blocks) * u64::from(profile.block_size)).to_string();
    let prefix_caching = if profile.prefix_caching {
        "True"
    } else {
        "False"
    };
    let concurrency = format!(
        "{:?}",
        f64::from(profile.num_gpu_blocks) * f64::from(profile.block_size)
            / f64::from(profile.max_model_len)
    );
    let labels = [
        ("_block_size_resolved", "True"),
        ("block_size", &block_size),
        ("cache_dtype", "auto"),
        ("cache_hit_alignment_tokens", "None"),
        ("effective_attention_block_size", &block_size),
        ("enable_mamba_shared_prefix_checkpoint", "False"),
        ("enable_prefix_caching", prefix_caching),
        ("engine", "0"),
        ("gpu_memory_utilization", "0.92"),
        ("hash_block_size", "None"),
        ("is_attention_free", "False"),
        ("kv_cache_dtype_skip_layers", "[]"),
        ("kv_cache_layout", "None"),
        ("kv_cache_max_concurrency", &concurrency),
        ("kv_cache_memory_bytes", "1073741824"),
        ("kv_cache_size_tokens", &tokens),
        ("kv_offloading_backend", "native"),
        ("kv_offloading_size", "None"),
        ("kv_sharing_fast_prefill", "False"),
        ("mamba_block_size", "None"),
        ("mamba_cache_dtype", "auto"),
        ("mamba_cache_mode", "none"),
        ("mamba_page_size_padded", "None"),
        ("mamba_ssm_cache_dtype", "float32"),
        ("num_cpu_blocks", "None"),
        ("num_gpu_blocks", &blocks),
        ("num_gpu_blocks_override", &blocks),
        ("prefix_cache_retention_interval", "0"),
        ("prefix_caching_hash_algo", "sha256"),
        ("prefix_match_unit", "None"),
        ("replayssm_buffer_len", "16"),
        ("skip_page_size_padded", "None"),
        ("sliding_window", "None"),
        ("swa_bounded_replay", "True"),
        ("use_kda_recoverssm", "False"),
        ("use_replayssm", "False"),
        ("user_specified_block_size", "True"),
    ]
    .map(|(label, value)| format!("{label}=\"{value}\""))
    .join(",");
    page.gauge(
        "vllm:cache_config_info",
        "Information of the LLMEngine CacheConfig",
        &[(&labels, 1.0)],
    );
}
