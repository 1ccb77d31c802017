//! `measured-boot replay`: registers from an event log.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use measured_boot::base16;
use measured_boot::event_log::{self, Algorithm, Event, EventLog, EventType, Tcb};
use serde_json::{Value, json};

/// Registers from an event log.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// binary_bios_measurements of a TPM, or the data of a TD's CCEL.
    log: PathBuf,
    /// Whose registers the log is of.
    #[arg(long)]
    tcb: Option<Registers>,
    /// The bank whose digests are told of each event.
    #[arg(long, default_value = "sha256")]
    bank: String,
    /// Write JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Registers {
    Tpm,
    Tdx,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = arguments.log.display();
    let bytes = fs::read(&arguments.log).with_context(|| format!("cannot read {path}"))?;
    let log = event_log::parse(&bytes).with_context(|| format!("cannot replay {path}"))?;
    let tcb = match arguments.tcb {
        Some(Registers::Tpm) => Tcb::Tpm,
        Some(Registers::Tdx) => Tcb::Tdx,
        None => guess(&log),
    };
    let banks = log
        .replay(tcb)
        .with_context(|| format!("cannot replay {path}"))?;
    let bank = shown_bank(&log, &arguments.bank);
    if arguments.json {
        let registers: serde_json::Map<_, _> = banks
            .iter()
            .map(|bank| {
                let values = bank.registers.iter();
                let values = values.map(|(index, value)| {
                    (
                        tcb.register_name(*index),
                        Value::from(base16::encode(value)),
                    )
                });
                (bank.algorithm.to_string(), Value::Object(values.collect()))
            })
            .collect();
        let events = log.events.iter().map(|event| event_json(event, tcb));
        let events: Vec<_> = events.collect();
        let text = serde_json::to_string_pretty(&json!({
            "tcb": tcb_name(tcb),
            "registers": registers,
            "events": events,
        }))?;
        say!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let said = if arguments.tcb.is_some() {
        ""
    } else {
        " (by its banks; say --tcb for another)"
    };
    say!(
        "log of a {}{said}, {} events, bank {bank}",
        tcb_name(tcb),
        log.events.len()
    );
    for event in &log.events {
        say!("{}", event_line(event, tcb, bank));
    }
    for bank in &banks {
        for (index, value) in &bank.registers {
            let name = tcb.register_name(*index);
            say!("{} {name}: {}", bank.algorithm, base16::encode(value));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A CCEL has the SHA-384 bank alone, and begins with a header for register 1
/// (UEFI 2.10 section 38.4.1); no TPM's log is like that.
fn guess(log: &EventLog<'_>) -> Tcb {
    let only_sha384 = matches!(log.algorithms[..], [(Algorithm::Sha384, _)]);
    if only_sha384 { Tcb::Tdx } else { Tcb::Tpm }
}

fn tcb_name(tcb: Tcb) -> &'static str {
    match tcb {
        Tcb::Tpm => "TPM",
        Tcb::Tdx => "TD",
    }
}

/// The bank that was asked for, or the log's first.
fn shown_bank(log: &EventLog<'_>, name: &str) -> Algorithm {
    let algorithms = || log.algorithms.iter().map(|(algorithm, _)| *algorithm);
    let asked = algorithms().find(|algorithm| algorithm.to_string() == name);
    asked
        .or_else(|| algorithms().next())
        .unwrap_or(Algorithm::Sha1)
}

fn event_line(event: &Event<'_>, tcb: Tcb, bank: Algorithm) -> String {
    let digest = match event.kind {
        EventType::NO_ACTION => "not extended".to_owned(),
        _ => base16::encode(event.digest(bank).unwrap_or_default()),
    };
    let name = tcb.register_name(event.register);
    let text = event.description();
    let line = format!(
        "{:#08x} {name:6} {:33} {digest} {text}",
        event.offset,
        event.kind.to_string()
    );
    line.trim_end().to_owned()
}

fn event_json(event: &Event<'_>, tcb: Tcb) -> Value {
    let digests = event.digests.iter();
    let digests: serde_json::Map<_, _> = digests
        .map(|digest| {
            (
                digest.algorithm.to_string(),
                Value::from(base16::encode(digest.value)),
            )
        })
        .collect();
    json!({
        "offset": event.offset,
        "register": tcb.register_name(event.register),
        "type": event.kind.to_string(),
        "extended": event.kind != EventType::NO_ACTION,
        "digests": digests,
        "description": event.description(),
        "data": base16::encode(event.data),
    })
}
