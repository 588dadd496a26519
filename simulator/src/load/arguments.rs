//! `pointsman-sim load`: its options, and what it prints.

use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::ext_proc::{ExtProc, Follow};
use super::report::Slo;
use super::{Api, LoadPlan, Target, page, run, table};
use crate::workload::{
    BYTES_PER_TOKEN, Gaps, Prefixes, Priority, Sessions, Span, Trace, Workload, adapter_names,
};

/// Send load to a gateway, a server or a picker and measure the answers; Ctrl-C gives the report so far.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The gateway or server
    #[arg(
        long,
        value_name = "http://HOST:PORT",
        required_unless_present = "ext_proc"
    )]
    url: Option<String>,
    #[command(flatten)]
    picker: PickerArguments,
    /// Requests a second, or conversations with --turns; 10 if not given, or as the trace has them
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// A closed loop instead: so many requests or conversations under way at any time
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "arrivals"])]
    concurrency: Option<usize>,
    /// How requests follow each other: poisson, constant or gamma:CV
    #[arg(long, value_name = "A")]
    arrivals: Option<Gaps>,
    /// How long to send: 30, 30s or 2m
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    duration: Duration,
    #[command(flatten)]
    content: Box<ContentArguments>,
    /// The base model's name
    #[arg(long, value_name = "NAME", default_value = "base")]
    model: String,
    /// The API to ask
    #[arg(long, value_enum, default_value_t = Api::Completions)]
    api: Api,
    /// A header that every request carries
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Ask for whole answers instead of streams
    #[arg(long)]
    no_stream: bool,
    /// Goodput: the most to the first token
    #[arg(long, value_name = "MS")]
    slo_ttft_ms: Option<f64>,
    /// Goodput: the most for each token after it, as a mean over the answer
    #[arg(long, value_name = "MS")]
    slo_tpot_ms: Option<f64>,
    /// Simulated servers behind the URL, to count their adapter loads
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',')]
    servers: Vec<SocketAddr>,
    /// A process whose processor time and memory to measure meanwhile
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// How long to wait for one answer
    #[arg(long, value_name = "D", default_value = "120s", value_parser = duration)]
    timeout: Duration,
    /// Seed of times, lengths and adapters
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the report as a page with plots too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Instead of a gateway: a picker, any picker, to which both halves of each request are spoken as Envoy speaks ext_proc.
#[derive(Args, Clone, Debug)]
struct PickerArguments {
    /// Speak ext_proc to this picker instead, without TLS
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["url", "no_stream", "turns", "servers", "slo_ttft_ms", "slo_tpot_ms"])]
    ext_proc: Option<String>,
    /// How responses are followed
    #[arg(long, value_enum, default_value_t = Follow::Full, conflicts_with = "url")]
    follow: Follow,
    /// From one chunk of a response to the next: 20ms; 0 sends all at once
    #[arg(long, value_name = "D", default_value = "0", value_parser = duration, conflicts_with = "url")]
    chunk_interval: Duration,
    /// The most bytes of a request's body in one message
    #[arg(long, value_name = "B", default_value_t = ExtProc::FRAME_BYTES, conflicts_with = "url")]
    frame_bytes: usize,
    /// Connections to the picker, each asked in turn
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "url")]
    connections: usize,
    /// The :authority of the gRPC calls: with Envoy, the name of the picker's cluster
    #[arg(
        long,
        value_name = "NAME",
        default_value = "picker",
        requires = "ext_proc"
    )]
    authority: String,
    /// Metadata of the gRPC calls
    #[arg(long = "metadata", value_name = "NAME: VALUE", value_parser = header, conflicts_with = "url")]
    metadata: Vec<(String, String)>,
}

/// What is sent: a named workload, a trace, or lengths of one's own; the rest changes any of them.
#[derive(Args, Clone, Debug)]
struct ContentArguments {
    /// A named workload, instead of lengths
    #[arg(long, value_name = "W", value_parser = Workload::named, conflicts_with_all = ["prompt_bytes", "output_chunks", "prompt_tokens", "output_tokens", "trace"])]
    workload: Option<Workload>,
    /// Recorded requests, their times and lengths: Mooncake's JSON lines or Azure's CSV, gzipped or not
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arrivals", "prompt_bytes", "output_chunks", "prompt_tokens", "output_tokens"])]
    trace: Option<PathBuf>,
    /// Keep Mooncake's timestamps on their grid of 3 seconds, instead of spreading them over it
    #[arg(long, requires = "trace")]
    trace_as_is: bool,
    /// Bytes of each prompt; the simulated servers count 4 to a token
    #[arg(long, value_name = "B", default_value_t = 800)]
    prompt_bytes: u32,
    /// Tokens of each answer, a chunk each; with --ext-proc also 0, a response without a body
    #[arg(long, value_name = "C", default_value_t = 40)]
    output_chunks: u32,
    /// Tokens of prompts instead of bytes: 512, 100..300 or lognormal:MEDIAN,SIGMA
    #[arg(long, value_name = "LENGTH", conflicts_with = "prompt_bytes")]
    prompt_tokens: Option<Span>,
    /// Tokens of answers: 128, 20..60 or lognormal:MEDIAN,SIGMA
    #[arg(long, value_name = "LENGTH", conflicts_with = "output_chunks")]
    output_tokens: Option<Span>,
    /// Begin each prompt with one of N texts of so many tokens, on top of its own
    #[arg(long, value_name = "N:TOKENS", value_parser = prefixes)]
    shared_prefixes: Option<Prefixes>,
    /// Conversations of so many turns, each with all that was said before: 5, 2..8 or lognormal:MEDIAN,SIGMA
    #[arg(long, value_name = "TURNS", conflicts_with = "trace")]
    turns: Option<Span>,
    /// Milliseconds between an answer and the next turn: 1000, 500..3000 or lognormal:MEDIAN,SIGMA
    #[arg(long, value_name = "MS", default_value = "1000", requires = "turns")]
    think_ms: Span,
    /// Adapters adapter-1 to adapter-N; 0 asks for the base model
    #[arg(long, value_name = "N")]
    adapters: Option<u32>,
    /// Adapter k is asked for in proportion to k to the minus X (Zipf's law)
    #[arg(long, value_name = "X", default_value_t = 1.0, requires = "adapters")]
    zipf: f64,
    /// Other names for the adapters, the most asked for first
    #[arg(long, value_name = "a,b,...", value_delimiter = ',')]
    adapter_names: Vec<String>,
    /// InferenceObjectives to name, with their weights: critical=0.3,batch=0.7
    #[arg(long, value_name = "NAME=W,...", value_delimiter = ',', value_parser = priority)]
    priorities: Vec<Priority>,
}

impl Arguments {
    /// Sends the load and prints the report. Exit code 1 when under 95 % of the asked rate could be sent.
    ///
    /// # Errors
    /// Says which option does not fit.
    pub async fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let (json, html) = (self.json, self.html.clone());
        let plan = self.plan()?;
        tokio::spawn(stop_at_ctrl_c(plan.stop.clone()));
        let report = run(plan).await?;
        if let Some(file) = html {
            let failed = |error| format!("html: {}: {error}", file.display());
            fs::write(&file, page::of(&report)).map_err(failed)?;
        }
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        } else {
            table::write(&mut out, &report)?;
        }
        Ok(if report.rate.is_reached() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn plan(self) -> Result<LoadPlan, Box<dyn Error>> {
        let mut names = self.content.adapter_names.clone();
        let mut workload = self.content.workload()?;
        if let Some(gaps) = self.arrivals {
            workload.gaps = gaps;
        }
        if names.is_empty() {
            names = adapter_names(workload.adapters);
        }
        let recorded = workload.trace.as_ref().map(Trace::rate);
        Ok(LoadPlan {
            target: self.picker.target(self.url)?,
            api: self.api,
            model: self.model,
            adapter_names: names,
            headers: self.headers,
            workload,
            rate: self.rate.or(recorded).unwrap_or(10.0),
            concurrency: self.concurrency,
            duration: self.duration,
            seed: self.seed,
            stream: !self.no_stream,
            timeout: self.timeout,
            slo: Slo {
                ttft_ms: self.slo_ttft_ms,
                tpot_ms: self.slo_tpot_ms,
            },
            servers: self.servers,
            pid: self.pid,
            progress: io::stderr().is_terminal(),
            stop: CancellationToken::new(),
        })
    }
}

impl PickerArguments {
    fn target(self, url: Option<String>) -> Result<Target, &'static str> {
        match (self.ext_proc, url) {
            (Some(server), _) => Ok(Target::ExtProc(ExtProc {
                server,
                authority: self.authority,
                metadata: self.metadata,
                follow: self.follow,
                chunk_interval: self.chunk_interval,
                frame_bytes: self.frame_bytes,
                connections: self.connections,
            })),
            (None, Some(url)) => Ok(Target::Url(url)),
            (None, None) => Err("give --url or --ext-proc"),
        }
    }
}

impl ContentArguments {
    fn workload(self) -> Result<Workload, Box<dyn Error>> {
        let mut workload = match (self.workload, self.trace) {
            (Some(workload), _) => workload,
            (None, Some(file)) => Workload::replay(Trace::read(&file, self.trace_as_is)?),
            (None, None) => {
                let prompt_tokens = self.prompt_bytes.div_ceil(BYTES_PER_TOKEN);
                let mut workload = Workload::uniform(prompt_tokens, self.output_chunks, 0);
                for kind in &mut workload.kinds {
                    kind.prompt_tokens = self.prompt_tokens.unwrap_or(kind.prompt_tokens);
                    let chunks = Span::exactly(self.output_chunks);
                    kind.output_tokens = self.output_tokens.unwrap_or(chunks);
                }
                workload
            }
        };
        if let Some(adapters) = self.adapters {
            workload.adapters = adapters;
            workload.adapter_groups.clear();
            workload.zipf_exponent = self.zipf;
        }
        let think_ms = self.think_ms;
        workload.prefixes = self.shared_prefixes.or(workload.prefixes);
        workload.sessions = self.turns.map(|turns| Sessions { turns, think_ms });
        workload.priorities = self.priorities;
        Ok(workload)
    }
}

async fn stop_at_ctrl_c(stop: CancellationToken) {
    // Without the signal there is no early end; the run ends by itself.
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
    }
}

fn prefixes(text: &str) -> Result<Prefixes, String> {
    let parts = text.split_once(':');
    let parsed = parts.and_then(|(groups, tokens)| groups.parse().ok().zip(tokens.parse().ok()));
    let prefixes = parsed.map(|(groups, tokens)| Prefixes { groups, tokens });
    prefixes
        .filter(|prefixes| prefixes.groups > 0)
        .ok_or_else(|| {
            format!("{text} is no N:TOKENS: give texts and the tokens of each, such as 8:500")
        })
}

fn priority(text: &str) -> Result<Priority, String> {
    let wrong = || format!("{text} is no NAME=WEIGHT: give weights above 0, such as critical=0.3");
    let (name, share) = text.split_once('=').ok_or_else(wrong)?;
    let share: f64 = share.parse().map_err(|_| wrong())?;
    if name.is_empty() || !(share.is_finite() && share > 0.0) {
        return Err(wrong());
    }
    Ok(Priority {
        objective: name.to_owned(),
        share,
    })
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("{text} has no colon: give NAME: VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Seconds, or a number with `ms`, `s` or `m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => {
            return Err(format!(
                "{text} has an unknown unit: give seconds, or a number with ms, s or m"
            ));
        }
    };
    let seconds: Option<f64> = digits.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * unit).ok())
        .ok_or_else(|| format!("{text} is no duration: give seconds, or a number with ms, s or m"))
}

#[cfg(test)]
mod tests;
