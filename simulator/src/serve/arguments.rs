//! `pointsman-sim serve`: its options, and what it prints.

use std::error::Error;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use tokio::signal::unix::{SignalKind, signal};

use super::{Options, Server, Termination, spawn};
use crate::engine::Profile;

/// What `--help` says of signals and of `/sim/state`.
const AFTER_HELP: &str = "\
Signals:
  SIGTERM  as vLLM: without --shutdown-timeout answers are cut and the ports close; with it, what is there is finished
           while new requests get 500, and what takes longer hangs until SIGKILL
  SIGINT   ends at once

With --control, POST /sim/state on the port of a server changes it while it runs. The body is a JSON object of:
  \"speed\": X         divides the time of a step, in addition to --speed; 1 is as before
  \"fail_share\": X    this share of requests is answered with status 500, from 0 to 1
  \"state\": S         hang   no more tokens; /health answers, /metrics stands still
                     run    go on after a hang
                     crash  answers become errors, the port closes, 5 s later the process ends with status 1 if no
                            server is left in it
                     cut    as SIGTERM without --shutdown-timeout
                     fail   as cut, but answers become errors, as vLLM does at times
                     drain  as SIGTERM with a --shutdown-timeout of \"timeout_seconds\", 20 if not given";

/// Serve models that do not exist: HTTP servers that answer as vLLM does, at a modelled speed.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The first port with --count (P, P+1, ...), the port of every address with --addresses; 0 takes free ports
    #[arg(long, value_name = "P", default_value_t = 8000)]
    port: u16,
    /// Servers on 127.0.0.1
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        conflicts_with = "addresses"
    )]
    count: u16,
    /// Servers on these addresses, all on the same port, as pods have
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    addresses: Vec<IpAddr>,
    /// The base model's name
    #[arg(long, value_name = "NAME", default_value = "base")]
    model: String,
    /// LoRA adapters that can be asked for
    #[arg(long, value_name = "a,b,...", value_delimiter = ',')]
    adapters: Vec<String>,
    /// Hardware and settings; the options below change single ones
    #[arg(long, value_name = "NAME", default_value = "8b-h100", value_parser = profile)]
    profile: Profile,
    /// Milliseconds to bring an adapter from host memory into GPU memory
    #[arg(long, value_name = "MS")]
    adapter_load_ms: Option<f64>,
    /// Adapters in GPU memory at once
    #[arg(long, value_name = "N")]
    max_loras: Option<usize>,
    /// Adapters in host memory at once
    #[arg(long, value_name = "N")]
    max_cpu_loras: Option<usize>,
    /// Milliseconds to bring an adapter from disk into host memory
    #[arg(long, value_name = "MS")]
    adapter_disk_ms: Option<f64>,
    /// Compute every prompt anew
    #[arg(long)]
    no_enable_prefix_caching: bool,
    /// Requests in one step
    #[arg(long, value_name = "N")]
    max_num_seqs: Option<usize>,
    /// Tokens in one step
    #[arg(long, value_name = "N")]
    max_num_batched_tokens: Option<u32>,
    /// Tokens of prompt and output of one request
    #[arg(long, value_name = "N")]
    max_model_len: Option<u32>,
    /// KV blocks
    #[arg(long, value_name = "N")]
    num_gpu_blocks: Option<u32>,
    /// Divides the time of a step: 0.5 is half as fast
    #[arg(long, value_name = "X")]
    speed: Option<f64>,
    /// Requests in a server, waiting or running, beyond which it answers 503
    #[arg(long, value_name = "N")]
    max_num_queued_reqs: Option<usize>,
    /// Tell the requests in flight in /load, which is 0 otherwise
    #[arg(long)]
    enable_server_load_tracking: bool,
    /// How long SIGTERM lets requests finish; 0 cuts them
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    shutdown_timeout: u64,
    /// Let anybody who reaches a server change it by /sim/state
    #[arg(long)]
    control: bool,
}

impl Arguments {
    /// Serves until a signal, or until every server has crashed or ended.
    ///
    /// # Errors
    /// Says which option does not fit.
    pub async fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let timeout = Duration::from_secs(self.shutdown_timeout);
        let servers = spawn(self.options()?).await?;
        let mut out = io::stdout().lock();
        for server in &servers {
            writeln!(
                out,
                "{} listens on http://{}",
                server.name(),
                server.address()
            )?;
        }
        out.flush()?;
        drop(out);
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = interrupted.recv() => return Ok(ExitCode::SUCCESS),
            () = exited(&servers) => return Ok(ExitCode::FAILURE),
            _ = terminated.recv() => {}
        }
        let termination = Termination::with_timeout(timeout);
        let terminate = async {
            join_all(servers.iter().map(|server| server.terminate(termination))).await;
            exited(&servers).await;
        };
        tokio::select! {
            _ = interrupted.recv() => {}
            () = terminate => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(self) -> Result<Options, Box<dyn Error>> {
        let addresses = self.listening()?;
        let mut profile = self.profile;
        let set = |value: &mut f64, given: Option<f64>| *value = given.unwrap_or(*value);
        set(&mut profile.adapter_load_ms, self.adapter_load_ms);
        set(&mut profile.adapter_disk_ms, self.adapter_disk_ms);
        set(&mut profile.speed, self.speed);
        profile.prefix_caching &= !self.no_enable_prefix_caching;
        profile.max_cpu_loras = self.max_cpu_loras.unwrap_or(profile.max_cpu_loras);
        profile.max_loras = self.max_loras.unwrap_or(profile.max_loras);
        profile.max_num_seqs = self.max_num_seqs.unwrap_or(profile.max_num_seqs);
        profile.token_budget = self.max_num_batched_tokens.unwrap_or(profile.token_budget);
        profile.max_model_len = self.max_model_len.unwrap_or(profile.max_model_len);
        profile.num_gpu_blocks = self.num_gpu_blocks.unwrap_or(profile.num_gpu_blocks);
        Ok(Options {
            model: self.model,
            adapters: self.adapters,
            profile,
            addresses,
            remember: 0,
            max_num_queued_reqs: self.max_num_queued_reqs,
            track_load: self.enable_server_load_tracking,
            control: self.control,
        })
    }

    fn listening(&self) -> Result<Vec<SocketAddr>, String> {
        if !self.addresses.is_empty() {
            return Ok(self
                .addresses
                .iter()
                .map(|&ip| SocketAddr::new(ip, self.port))
                .collect());
        }
        let last = u32::from(self.port) + u32::from(self.count).saturating_sub(1);
        if self.count == 0 || last > u32::from(u16::MAX) {
            return Err(format!(
                "--port {} --count {} ends at port {last}: give a count from 1 whose last port is at most 65535",
                self.port, self.count
            ));
        }
        let port = |place| if self.port == 0 { 0 } else { self.port + place };
        Ok((0..self.count)
            .map(|place| SocketAddr::from((Ipv4Addr::LOCALHOST, port(place))))
            .collect())
    }
}

/// Returns when the process of every server would have ended.
async fn exited(servers: &[Server]) {
    join_all(servers.iter().map(Server::exited)).await;
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::named(name).ok_or_else(|| {
        let known = Profile::all().map(|profile| profile.name).join(", ");
        format!("no profile is called {name}: choose one of {known}")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn options(line: &str) -> Result<Options, String> {
        let words = ["serve"].into_iter().chain(line.split_whitespace());
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        command
            .arguments
            .options()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn ports_count_up_and_addresses_share_one() {
        let addresses = |line| {
            let options = options(line).expect("valid");
            options
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            addresses("--port 8000 --count 2"),
            ["127.0.0.1:8000", "127.0.0.1:8001"]
        );
        assert_eq!(
            addresses("--port 0 --count 2"),
            ["127.0.0.1:0", "127.0.0.1:0"]
        );
        assert_eq!(
            addresses("--addresses 127.0.0.2,127.0.0.3"),
            ["127.0.0.2:8000", "127.0.0.3:8000"]
        );
    }

    #[test]
    fn options_change_the_profile_they_are_given_with() {
        let options =
            options("--profile demo --adapters a,b --max-loras 7 --adapter-load-ms 10 --speed 2 --no-enable-prefix-caching")
                .expect("valid");
        let expected = Profile {
            max_loras: 7,
            adapter_load_ms: 10.0,
            speed: 2.0,
            prefix_caching: false,
            ..Profile::demo()
        };
        assert_eq!(options.profile, expected);
        assert_eq!(options.adapters, ["a", "b"]);
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_remedy() {
        for (line, names) in [
            ("--port 65535 --count 2", "ends at port 65536"),
            ("--count 0", "give a count from 1"),
            ("--profile a100", "choose one of demo, 8b-h100"),
        ] {
            let error = options(line).expect_err("does not fit");
            assert!(error.contains(names), "{error}");
        }
    }
}
