//! The `pointsman` binary: a table of contents.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use picker::settings::{Arguments, Command, Serve};
use picker::{server, shutdown, telemetry};

fn main() -> ExitCode {
    let Command::Serve(serve) = Arguments::parse().command;
    match run(*serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "pointsman: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(serve: Serve) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::start_log(&serve.log, serve.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let bound = server::bind(serve).await?;
        writeln!(
            io::stdout(),
            "{}",
            serde_json::json!({ "listening": bound.listening })
        )?;
        let end = async {
            if let Err(error) = shutdown::told_to_end().await {
                tracing::warn!(%error, "signals cannot be caught; end the process by SIGKILL");
                std::future::pending::<()>().await;
            }
        };
        Ok(bound.run(end).await?)
    })
}
