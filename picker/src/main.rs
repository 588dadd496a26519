//! The `pointsman` binary: a table of contents.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use picker::settings::{Arguments, Check, Command, Migrate, Output, Serve, Why};
use picker::{check, migrate, server, shutdown, telemetry, why};
use serde_json::json;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    // What a command ends with when it fails, and what it did.
    let (failure, done) = match Arguments::parse().command {
        Command::Serve(arguments) => (1, serve(*arguments).map(|()| 0)),
        Command::Why(arguments) => (1, why(&arguments).map(|()| 0)),
        Command::Check(arguments) => (2, check(&arguments)),
        Command::Migrate(arguments) => (2, migrate(&arguments)),
    };
    let code = done.unwrap_or_else(|error| {
        drop(writeln!(io::stderr(), "pointsman: {error}"));
        failure
    });
    ExitCode::from(code)
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

fn check(arguments: &Check) -> Result<u8, Box<dyn Error>> {
    let report = Runtime::new()?.block_on(check::check(arguments))?;
    let text = match arguments.output {
        Output::Table => report.table(),
        Output::Json => report.json(),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(u8::from(report.has_errors()))
}

fn migrate(arguments: &Migrate) -> Result<u8, Box<dyn Error>> {
    let migrated = migrate::migrate(arguments)?;
    io::stderr().write_all(migrate::table(&migrated.notices).as_bytes())?;
    io::stdout().write_all(migrated.yaml()?.as_bytes())?;
    Ok(0)
}
