//! The broker's command.

use std::process::ExitCode;

use clap::Parser;
use key_broker::command::Arguments;

fn main() -> ExitCode {
    match key_broker::command::run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("key-broker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
