//! `pointsman-sim load`: its options, and what it prints.

use std::error::Error;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Api, LoadPlan, run, table};
use crate::workload::{BYTES_PER_TOKEN, Workload, adapter_names};

/// Send load to a gateway or a server and measure the answers; Ctrl-C gives the report so far.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The gateway or server
    #[arg(long, value_name = "http://HOST:PORT")]
    url: String,
    /// Requests a second, at times drawn by chance (Poisson)
    #[arg(long, value_name = "R", default_value_t = 10.0)]
    rate: f64,
    /// How long to send: 30, 30s or 2m
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// A named workload, instead of --prompt-bytes, --output-chunks and --adapters
    #[arg(long, value_name = "W", value_parser = Workload::named, conflicts_with_all = ["prompt_bytes", "output_chunks", "adapters"])]
    workload: Option<Workload>,
    /// Bytes of each prompt; the simulated servers count 4 to a token
    #[arg(long, value_name = "B", default_value_t = 800)]
    prompt_bytes: u32,
    /// Tokens of each answer, a chunk each
    #[arg(long, value_name = "C", default_value_t = 40)]
    output_chunks: u32,
    /// Adapters adapter-1 to adapter-N, asked for by Zipf's law; 0 asks for the base model
    #[arg(long, value_name = "N", default_value_t = 0)]
    adapters: u32,
    /// Other names for the adapters, the most asked for first
    #[arg(long, value_name = "a,b,...", value_delimiter = ',')]
    adapter_names: Vec<String>,
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
    /// Simulated servers behind the URL, to count their adapter loads
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',')]
    servers: Vec<SocketAddr>,
    /// How long to wait for one answer
    #[arg(long, value_name = "D", default_value = "120s", value_parser = duration)]
    timeout: Duration,
    /// Seed of times, lengths and adapters
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Sends the load and prints the report. Exit code 1 when under 95 % of the asked rate could be sent.
    ///
    /// # Errors
    /// Says which option does not fit.
    pub async fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let json = self.json;
        let plan = self.plan();
        tokio::spawn(stop_at_ctrl_c(plan.stop.clone()));
        let report = run(plan).await?;
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

    fn plan(self) -> LoadPlan {
        let workload = self.workload.unwrap_or_else(|| {
            let prompt_tokens = self.prompt_bytes.div_ceil(BYTES_PER_TOKEN);
            Workload::uniform(prompt_tokens, self.output_chunks, self.adapters)
        });
        let mut names = self.adapter_names;
        if names.is_empty() {
            names = adapter_names(workload.adapters);
        }
        LoadPlan {
            url: self.url,
            api: self.api,
            model: self.model,
            adapter_names: names,
            headers: self.headers,
            workload,
            rate: self.rate,
            duration: self.duration,
            seed: self.seed,
            stream: !self.no_stream,
            timeout: self.timeout,
            servers: self.servers,
            progress: io::stderr().is_terminal(),
            stop: CancellationToken::new(),
        }
    }
}

async fn stop_at_ctrl_c(stop: CancellationToken) {
    // Without the signal there is no early end; the run ends by itself.
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
    }
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
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("30", 30_000),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("250ms", 250),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "3h", "1e999"] {
            assert!(
                duration(text)
                    .expect_err("no duration")
                    .contains("give seconds"),
                "{text}"
            );
        }
    }

    #[test]
    fn headers_need_a_colon() {
        assert_eq!(
            header("Host: a.example:80"),
            Ok(("Host".into(), "a.example:80".into()))
        );
        assert!(header("host").is_err());
    }
}
