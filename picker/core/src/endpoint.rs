//! Endpoints of an InferencePool: who they are, and what was last read of each.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::engine::Engine;

/// Names one endpoint of one [`Picker`](crate::Picker), for the life of that picker; never given to another endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EndpointKey(pub u32);

/// A model server as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The wire identity: a pod's UID and rank, or the address where there is no UID. Another identity at the same
    /// address is another endpoint, with nothing learnt of it yet.
    pub identity: Arc<str>,
    /// The name that people know it by: `namespace/name`.
    pub name: Arc<str>,
    /// Where requests are sent, and where metrics are read.
    pub address: SocketAddr,
    /// The kind of engine that it is.
    pub engine: Arc<Engine>,
}

/// One reading of a model server: its `/metrics` page, as far as decisions need it.
///
/// A field is `None` when the page did not show it: unknown is not zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reading {
    /// The engines (data-parallel ranks) behind the address, in the order of their labels; one for most servers.
    pub engines: Vec<EngineReading>,
    /// The adapters of running requests, when the page shows any `vllm:lora_requests_info` sample.
    pub adapters: Option<AdapterReading>,
    /// Unix time at which the server's process started, in seconds.
    pub process_start_s: Option<f64>,
}

/// What one engine (data-parallel rank) says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EngineReading {
    /// The `engine` label; empty where the series carry none.
    pub engine: String,
    /// Requests in the running batch (`vllm:num_requests_running`).
    pub running: Option<u64>,
    /// Requests that wait (`vllm:num_requests_waiting`).
    pub waiting: Option<u64>,
    /// Of those, requests that wait for a batch slot or KV blocks (`..._by_reason{reason="capacity"}`).
    pub waiting_capacity: Option<u64>,
    /// Of those, requests passed over, for instance for want of an adapter slot (`..._by_reason{reason="deferred"}`).
    pub waiting_deferred: Option<u64>,
    /// Share of KV blocks held by live requests, 0 to 1 (`vllm:kv_cache_usage_perc`).
    pub kv_usage: Option<f64>,
    /// Tokens in a KV block (`vllm:cache_config_info`, label `block_size`).
    pub block_size: Option<u64>,
    /// KV blocks in all (`vllm:cache_config_info`, label `num_gpu_blocks`).
    pub kv_blocks: Option<u64>,
    /// Prompt tokens so far (`vllm:prompt_tokens_total`).
    pub prompt_tokens: Option<u64>,
    /// Generated tokens so far (`vllm:generation_tokens_total`).
    pub generation_tokens: Option<u64>,
    /// Engine steps so far (`vllm:iteration_tokens_total_count`).
    pub steps: Option<u64>,
    /// Uncached prompt tokens and generated tokens of all steps (`vllm:iteration_tokens_total_sum`).
    pub step_tokens: Option<u64>,
    /// Tokens looked up in the prefix cache (`vllm:prefix_cache_queries_total`).
    pub prefix_queries: Option<u64>,
    /// Tokens found there (`vllm:prefix_cache_hits_total`).
    pub prefix_hits: Option<u64>,
    /// Preemptions so far (`vllm:num_preemptions_total`).
    pub preemptions: Option<u64>,
    /// Requests finished so far, all reasons (`vllm:request_success_total`).
    pub finished: Option<u64>,
}

/// What `vllm:lora_requests_info` shows: the adapters that running requests use.
///
/// vLLM never lists an adapter that is loaded but idle, and its waiting list equals its running list
/// (`vllm/v1/metrics/stats.py`, `update_scheduler_stats`), so this corrects a model of residency and is none itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AdapterReading {
    /// Adapter slots of the engine (label `max_lora`).
    pub slots: Option<u32>,
    /// Adapters with running requests, in the order of the label.
    pub running: Vec<String>,
}

impl Reading {
    /// Requests running on all engines; `None` if no engine showed it.
    #[must_use]
    pub fn running(&self) -> Option<u64> {
        sum(self.engines.iter().map(|engine| engine.running))
    }

    /// Requests waiting on all engines; `None` if no engine showed it.
    #[must_use]
    pub fn waiting(&self) -> Option<u64> {
        sum(self.engines.iter().map(|engine| engine.waiting))
    }

    /// Tokens that the KV blocks of all engines hold; `None` unless each shows it.
    #[must_use]
    pub fn kv_tokens(&self) -> Option<u64> {
        let of =
            |engine: &EngineReading| Some(engine.block_size?.saturating_mul(engine.kv_blocks?));
        let tokens: Option<Vec<u64>> = self.engines.iter().map(of).collect();
        Some(tokens?.into_iter().fold(0, u64::saturating_add))
    }

    /// Whether any engine has made a step, or a token, since `earlier`.
    #[must_use]
    pub fn worked_since(&self, earlier: &Self) -> bool {
        let work = |reading: &Self| {
            let steps = sum(reading.engines.iter().map(|engine| engine.steps));
            let tokens = sum(reading
                .engines
                .iter()
                .map(|engine| engine.generation_tokens));
            let prompts = sum(reading.engines.iter().map(|engine| engine.prompt_tokens));
            (steps, tokens, prompts)
        };
        work(self) != work(earlier)
    }

    /// Whether it shows any counter of work.
    #[must_use]
    pub fn counts_work(&self) -> bool {
        let counts =
            |engine: &EngineReading| engine.steps.is_some() || engine.generation_tokens.is_some();
        self.engines.iter().any(counts)
    }

    /// Requests that ended since `earlier`, and tokens generated since; nothing where the counters fell.
    #[must_use]
    pub fn answers_since(&self, earlier: &Self) -> (f64, f64) {
        let grown = |of: fn(&EngineReading) -> Option<u64>| {
            let (after, before) = (
                sum(self.engines.iter().map(of))?,
                sum(earlier.engines.iter().map(of))?,
            );
            after.checked_sub(before)
        };
        match (
            grown(|engine| engine.finished),
            grown(|engine| engine.generation_tokens),
        ) {
            (Some(answers), Some(tokens)) => (answers as f64, tokens as f64),
            _ => (0.0, 0.0),
        }
    }

    /// The largest share of KV blocks in use on any engine; `None` if no engine showed it.
    #[must_use]
    pub fn kv_usage(&self) -> Option<f64> {
        self.engines
            .iter()
            .filter_map(|engine| engine.kv_usage)
            .reduce(f64::max)
    }
}

impl EngineReading {
    /// Whether requests wait for a batch slot or KV blocks.
    #[must_use]
    pub fn queues(&self) -> bool {
        self.waiting_capacity.or(self.waiting).unwrap_or(0) > 0
    }
}

/// The addresses to which a gateway limits a pick (`x-gateway-destination-endpoint-subset`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    addresses: Vec<(IpAddr, Option<u16>)>,
}

impl Subset {
    /// Reads tokens of the form `ip:port` or `ip`; an IPv6 address with a port stands in brackets. A token may be
    /// a list with commas. What is no address is left out, so a subset of nothing but those is empty.
    pub fn parse<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        let addresses = tokens
            .into_iter()
            .flat_map(|token| token.split(','))
            .filter_map(|token| address_of(token.trim()))
            .collect();
        Self { addresses }
    }

    /// Whether `address` is in the subset: its IP is, with its port or with none.
    #[must_use]
    pub fn contains(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.addresses
            .iter()
            .any(|&(one, port)| one == ip && port.is_none_or(|port| port == address.port()))
    }
}

/// The address that `token` writes.
fn address_of(token: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = token.parse::<SocketAddr>() {
        return Some((address.ip().to_canonical(), Some(address.port())));
    }
    let bare = token
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip: IpAddr = bare.unwrap_or(token).parse().ok()?;
    Some((ip.to_canonical(), None))
}

/// The sum of the known values; `None` when none is known.
fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[&str], address: &str, expected: bool) {
        let address = address.parse().expect("an address");
        let subset = Subset::parse(tokens.iter().copied());
        assert_eq!(subset.contains(address), expected, "{tokens:?} {address}");
    }

    #[test]
    fn a_subset_matches_by_ip_and_by_port_where_one_is_given() {
        check(&["10.0.0.1:8000"], "10.0.0.1:8000", true);
        check(&["10.0.0.1:8000"], "10.0.0.1:8001", false);
        check(&["10.0.0.1"], "10.0.0.1:8001", true);
        check(&["10.0.0.9, 10.0.0.1:8000"], "10.0.0.1:8000", true);
        check(&["[fd00::1]:8000"], "[fd00::1]:8000", true);
        check(&["fd00::1"], "[fd00::1]:8000", true);
        check(&["[fd00::1]"], "[fd00::1]:8000", true);
        check(&["::ffff:10.0.0.1"], "10.0.0.1:8000", true);
    }

    #[test]
    fn an_empty_subset_or_one_of_no_addresses_matches_nothing() {
        check(&[], "10.0.0.1:8000", false);
        check(&["", "pod-1", "10.0.0.1:port"], "10.0.0.1:8000", false);
    }
}
