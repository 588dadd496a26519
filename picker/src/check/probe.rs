//! Asks pods for their metrics and models, as the picker will.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use picker_core::diagnosis::Fleet;
use picker_core::engine::Engine;
use picker_core::route::PoolKey;
use picker_core::{catalogue, exposition};
use reqwest::Client;

use crate::discovery::engines::Engines;

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pods that are asked at once.
const AT_ONCE: usize = 32;

/// Where one endpoint of a pool answers.
struct Errand {
    pool: PoolKey,
    workload: usize,
    ip: Arc<str>,
    port: u16,
    engine: Arc<Engine>,
}

/// What it answered.
struct Answer {
    errand: Errand,
    metrics: Result<(), String>,
    models: Option<Vec<Arc<str>>>,
}

/// Asks every ready pod of every pool, and notes in the fleet what they serve and which have no metrics.
pub(super) async fn probe(fleet: &mut Fleet, address: impl Fn(usize) -> Option<Arc<str>>) {
    let Ok(client) = Client::builder().no_proxy().timeout(TIMEOUT).build() else {
        return;
    };
    let mut engines = Engines::known();
    let mut errands = Vec::new();
    for pool in &fleet.pools {
        for (workload, pod) in fleet.workloads.iter().enumerate() {
            let state = pod.state.as_ref();
            let is_ready = state.is_some_and(|state| state.unready.is_none());
            let Some(ip) = address(workload).filter(|_| is_ready && pool.selects(pod)) else {
                continue;
            };
            let labels = pod.labels.iter();
            let labels = labels.map(|(name, value)| (name.to_string(), value.to_string()));
            let engine = engines.of(&labels.collect());
            errands.extend(pool.spec.target_ports.iter().map(|port| Errand {
                pool: pool.key(),
                workload,
                ip: ip.clone(),
                port: port.number,
                engine: engine.clone(),
            }));
        }
    }
    let answers = stream::iter(errands).map(|errand| run(&client, errand));
    let answers: Vec<Answer> = answers.buffer_unordered(AT_ONCE).collect().await;
    for answer in answers {
        let Errand {
            pool,
            workload,
            port,
            ..
        } = answer.errand;
        if let Some(models) = answer.models {
            let served: &mut BTreeSet<_> = fleet.served.entry(pool).or_default();
            served.extend(models);
        }
        if let (Err(why), Some(state)) = (answer.metrics, &mut fleet.workloads[workload].state) {
            state.unread.insert(port, why.into());
        }
    }
}

async fn run(client: &Client, errand: Errand) -> Answer {
    let host = match errand.ip.contains(':') {
        true => format!("[{}]:{}", errand.ip, errand.port),
        false => format!("{}:{}", errand.ip, errand.port),
    };
    let page = format!("http://{host}{}", errand.engine.metrics_path);
    let metrics = match get(client, &page).await {
        Ok(page) => exposition::read(&page, &errand.engine)
            .map(drop)
            .map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    let models = get(client, &format!("http://{host}/v1/models")).await;
    let models = models.and_then(|page| catalogue::read(&page)).ok();
    Answer {
        errand,
        metrics,
        models: models.map(|cards| cards.into_iter().map(|card| card.id).collect()),
    }
}

async fn get(client: &Client, url: &str) -> Result<Vec<u8>, String> {
    let told = |error: reqwest::Error| match error.is_timeout() {
        true => "no answer within 5 s".to_owned(),
        false if error.is_connect() => "the connection was refused or found no way".to_owned(),
        false => error.to_string(),
    };
    let answer = client.get(url).send().await.map_err(told)?;
    if !answer.status().is_success() {
        return Err(format!("status {}", answer.status().as_u16()));
    }
    Ok(answer.bytes().await.map_err(told)?.to_vec())
}
