//! The auditor's command: what an image will measure, and whether evidence is of it.

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Predicts, verifies, replays, explains and compares measured boots.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What an image will measure.
    Predict(command::predict::Arguments),
    /// Check evidence against reference values.
    Verify(command::verify::Arguments),
    /// Registers from an event log.
    Replay(command::replay::Arguments),
    /// Why an observed measurement is not the predicted one.
    Explain(command::explain::Arguments),
    /// Which measured bytes of two images differ.
    Diff(command::diff::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Predict(arguments) => command::predict::run(&arguments),
        Command::Verify(arguments) => command::verify::run(&arguments),
        Command::Replay(arguments) => command::replay::run(&arguments),
        Command::Explain(arguments) => command::explain::run(&arguments),
        Command::Diff(arguments) => command::diff::run(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("measured-boot: {error:#}");
        ExitCode::FAILURE
    })
}
