//! `pointsman-sim`: what can be asked of the simulator.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use simulator::{bench, demo, edge, load, noop, restart, serve};
use tracing_subscriber::EnvFilter;

/// Model servers, load and benchmarks for endpoint pickers.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::arguments::Arguments),
    Load(Box<load::arguments::Arguments>),
    Noop(noop::Arguments),
    Bench(bench::Options),
    BenchEdge(edge::Options),
    /// Compares routes through a real Envoy: `make demo`.
    Demo(demo::Options),
    /// Restarts a picker under load through a real Envoy, and counts what clients lose: `make bench-restart`.
    Restart(restart::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    match run(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(io::stderr(), "pointsman-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Serve(arguments) => arguments.run().await,
        Command::Load(arguments) => arguments.run().await,
        Command::Noop(arguments) => arguments.run().await,
        Command::Bench(options) => {
            bench::run(&options).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::BenchEdge(options) => {
            edge::run(options).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(options) => {
            demo::run(options).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Restart(options) => {
            restart::run(&options).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
