//! The `pointsman` binary: a table of contents.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use picker::settings::{Arguments, Command, Serve, Why};
use picker::{server, shutdown, telemetry, why};
use serde_json::json;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(arguments) => serve(*arguments),
        Command::Why(arguments) => why(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "pointsman: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Serve) -> Result<(), Box<dyn Error>> {
    telemetry::start_log(&arguments.log, arguments.log_format)?;
    Runtime::new()?.block_on(async {
        let bound = server::bind(arguments).await?;
        writeln!(io::stdout(), "{}", json!({ "listening": bound.listening }))?;
        Ok(bound.run(shutdown::told_to_end()).await?)
    })
}

fn why(arguments: &Why) -> Result<(), Box<dyn Error>> {
    let told = Runtime::new()?.block_on(why::tell(arguments))?;
    Ok(io::stdout().write_all(told.as_bytes())?)
}
