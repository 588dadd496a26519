//! How much CPU a million requests of `lora` on 64 modelled servers take: `cargo run --release -p simulator --example speed`.
//!
//! Virtual time with the picker (`routed`), or engines that are sent requests in turn and read every 50 ms (`engines`).

use std::io::{self, Write as _};
use std::time::Duration;

use picker_core::time::Instant;
use simulator::bench;
use simulator::engine::{Engine, Output, Profile, Request, RequestId};
use simulator::policy::Policy;
use simulator::virtual_time::{self, Job, Plan, snapshot};
use simulator::workload::{Workload, adapter_names};

const SERVERS: usize = 64;
const READING_INTERVAL: Duration = Duration::from_millis(50);

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "routed".to_owned());
    let requests = arguments.next().and_then(|text| text.parse().ok());
    let requests: usize = requests.unwrap_or(1_000_000);
    let profile = Profile::llama_8b_h100();
    let workload = Workload::named("lora").map_err(io::Error::other)?;
    let rate = 0.7 * bench::capacity(&workload, &profile, SERVERS);
    let arrivals = workload.arrivals(rate, 0).take(requests);
    let jobs = arrivals.map(|arrival| Job::of(&arrival));
    let mut out = io::stdout().lock();
    writeln!(out, "{what}: {requests} requests at {rate:.0}/s")?;
    if what == "engines" {
        let (tokens, readings) = engines(&profile, workload.adapters, jobs);
        writeln!(out, "{tokens} tokens, {readings} readings")?;
    } else {
        let plan = Plan::new(profile, SERVERS, workload.adapters, Policy::Pointsman);
        let trace = virtual_time::run(&plan, &jobs.collect::<Vec<_>>());
        writeln!(
            out,
            "{} errors, trace {:016x}",
            trace.errors(),
            trace.hash()
        )?;
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name in parentheses: user and system time are the 12th and 13th, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|text| text.parse::<u64>().ok())
        .sum();
    writeln!(
        out,
        "{:.2} s of CPU, {}",
        ticks as f64 / 100.0,
        peak.unwrap_or("no peak")
    )
}

/// Sends the jobs to one engine after the other, each as it is drawn. The tokens they were given, and how many readings
/// were taken.
fn engines(profile: &Profile, adapters: u32, jobs: impl Iterator<Item = Job>) -> (u64, u64) {
    let names = adapter_names(adapters);
    let mut engines: Vec<Engine> = (0..SERVERS).map(|_| Engine::new(profile.clone())).collect();
    let mut outputs: Vec<Output> = Vec::new();
    let (mut tokens, mut readings) = (0, 0);
    let mut next_reading = Instant::ZERO;
    for (index, job) in jobs.enumerate() {
        while next_reading <= job.at {
            for engine in &mut engines {
                engine.advance(next_reading, &mut outputs);
                tokens += outputs.drain(..).len() as u64;
                readings += u64::from(snapshot::reading(engine, &names).process_start_s.is_some());
            }
            next_reading += READING_INTERVAL;
        }
        let engine = &mut engines[index % SERVERS];
        engine.advance(job.at, &mut outputs);
        let id = RequestId(index as u64);
        let request = Request::new(id, job.adapter, job.prompt_tokens, job.output_tokens);
        tokens += u64::from(engine.submit(job.at, request).is_err());
    }
    for engine in &mut engines {
        while let Some(end) = engine.next_step_end() {
            engine.advance(end, &mut outputs);
            tokens += outputs.drain(..).len() as u64;
        }
    }
    (tokens, readings)
}
