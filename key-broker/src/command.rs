//! The command line: what an administrator does with a store.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use measured_boot::manifest::{Resource, Tee};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::log::Log;
use crate::server::{ServeOptions, serve};
use crate::store::attesters::{AkId, Origin};
use crate::store::resources::{Binding, MAX_VALUE};
use crate::store::{InitOptions, Store};
use crate::swtpm;

/// A small key broker that speaks the protocol of Trustee KBS.
#[derive(Debug, Parser)]
#[command(name = "key-broker", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a store: its own CA, a server certificate, a token key
    Init {
        dir: PathBuf,
        #[command(flatten)]
        certificate: Certificate,
    },
    /// Issue another server certificate under the store's CA
    Renew {
        dir: PathBuf,
        #[command(flatten)]
        certificate: Certificate,
    },
    /// Store a secret for images and kinds of TEE; nobody else gets it
    Put {
        dir: PathBuf,
        /// kbs:///REPOSITORY/TYPE/TAG
        #[arg(value_parser = resource)]
        resource: Resource,
        /// File with the secret, - for standard input
        #[arg(long)]
        file: PathBuf,
        /// Name of an image that may have it
        #[arg(long = "image", required = true)]
        images: Vec<String>,
        /// Kind of TEE whose evidence is accepted for it
        #[arg(long = "tee", required = true)]
        tees: Vec<TeeName>,
        /// Replace the value and the binding of one that exists
        #[arg(long)]
        replace: bool,
    },
    /// Forget a secret
    Remove {
        dir: PathBuf,
        /// kbs:///REPOSITORY/TYPE/TAG
        #[arg(value_parser = resource)]
        resource: Resource,
    },
    /// Show images, attestation keys and secrets (without their values)
    List {
        dir: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Enrol an image by its reference-values.json
    Enroll {
        dir: PathBuf,
        reference_values: PathBuf,
        /// Replace other reference values of the same version
        #[arg(long)]
        replace: bool,
        #[arg(long)]
        json: bool,
    },
    /// Refuse all versions of an image below MIN_VERSION, from now on
    Retire {
        dir: PathBuf,
        name: String,
        min_version: u32,
    },
    /// Enrol the attestation key of a TPM, before its first use
    EnrollTpm {
        dir: PathBuf,
        #[command(flatten)]
        source: TpmSource,
        #[arg(long)]
        json: bool,
    },
    /// No longer believe an attestation key
    RemoveTpm {
        dir: PathBuf,
        /// SHA-256 of the key, as listed
        #[arg(value_parser = ak_id)]
        ak: AkId,
    },
    /// Let a TPM that was cleared or set back on purpose get secrets again
    ForgetBoots {
        dir: PathBuf,
        /// SHA-256 of the key, as listed
        #[arg(value_parser = ak_id)]
        ak: AkId,
    },
    /// Trust a CA to certify attestation keys
    TrustAkCa { dir: PathBuf, certificate: PathBuf },
    /// Answer guests
    Serve {
        dir: PathBuf,
        #[arg(long, default_value = "127.0.0.1:8443")]
        listen: SocketAddr,
        /// Write the port here once it listens
        #[arg(long)]
        port_file: Option<PathBuf>,
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1440))]
        session_minutes: u64,
        /// Append decisions here; standard error without it
        #[arg(long)]
        log: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Certificate {
    /// DNS name or IP address of the broker; localhost and 127.0.0.1 without it
    #[arg(long = "name")]
    names: Vec<String>,
    /// For how long the server's certificate is valid
    #[arg(long, default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
    valid_days: u32,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TpmSource {
    /// Public key (SubjectPublicKeyInfo, PEM or DER)
    #[arg(long)]
    ak: Option<PathBuf>,
    /// Certificate and intermediates, up to a trusted CA (see trust-ak-ca)
    #[arg(long)]
    ak_cert: Option<PathBuf>,
    /// Data channel of a running swtpm: a socket's path, or HOST:PORT
    #[arg(long)]
    swtpm: Option<String>,
    /// State directory of a swtpm that does not run
    #[arg(long)]
    swtpm_state: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TeeName {
    Tpm,
    Snp,
    Tdx,
}

impl From<TeeName> for Tee {
    fn from(name: TeeName) -> Self {
        match name {
            TeeName::Tpm => Self::Tpm,
            TeeName::Snp => Self::Snp,
            TeeName::Tdx => Self::Tdx,
        }
    }
}

fn resource(text: &str) -> Result<Resource, String> {
    Resource::parse(text).ok_or_else(|| "expected kbs:///REPOSITORY/TYPE/TAG".into())
}

fn ak_id(text: &str) -> Result<AkId, String> {
    AkId::parse(text).ok_or_else(|| "expected 64 lower-case hexadecimal digits".into())
}

impl Certificate {
    fn options(self) -> InitOptions {
        let names = if self.names.is_empty() {
            vec!["localhost".into(), "127.0.0.1".into()]
        } else {
            self.names
        };
        InitOptions::new(names, self.valid_days)
    }
}

/// Does what the arguments say.
///
/// # Errors
/// What was being done, to what, and why it failed.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Init { dir, certificate } => {
            let store = Store::init(&dir, &certificate.options())?;
            say(store.ca_path().display())
        }
        Command::Renew { dir, certificate } => {
            Ok(Store::open(&dir)?.renew(&certificate.options())?)
        }
        Command::Put {
            dir,
            resource,
            file,
            images,
            tees,
            replace,
        } => {
            let tee = tees.into_iter().map(Tee::from).collect();
            let binding = Binding { images, tee };
            let value = read_secret(&file)?;
            Ok(Store::open(&dir)?.put(&resource, &value, binding, replace)?)
        }
        Command::Remove { dir, resource } => Ok(Store::open(&dir)?.remove(&resource)?),
        Command::List { dir, json } => list(&Store::open(&dir)?, json),
        Command::Enroll {
            dir,
            reference_values,
            replace,
            json,
        } => {
            let values = fs::read(&reference_values)
                .with_context(|| format!("cannot read {}", reference_values.display()))?;
            let image = Store::open(&dir)?.enroll(&values, replace)?;
            let text = format!("enrolled {} version {}", image.name, image.version);
            show(json, &image, text)
        }
        Command::Retire {
            dir,
            name,
            min_version,
        } => Ok(Store::open(&dir)?.retire(&name, min_version)?),
        Command::EnrollTpm { dir, source, json } => {
            let ak = enroll_tpm(&Store::open(&dir)?, source)?;
            show(
                json,
                &serde_json::json!({ "ak": ak }),
                format!("enrolled TPM {ak}"),
            )
        }
        Command::RemoveTpm { dir, ak } => Ok(Store::open(&dir)?.remove_ak(&ak)?),
        Command::ForgetBoots { dir, ak } => Ok(Store::open(&dir)?.forget_boots(&ak)?),
        Command::TrustAkCa { dir, certificate } => {
            say(Store::open(&dir)?.trust_ak_ca(&certificate)?)
        }
        Command::Serve {
            dir,
            listen,
            port_file,
            session_minutes,
            log,
        } => {
            let log = match log {
                Some(path) => Log::file(&path)
                    .with_context(|| format!("cannot open the log {}", path.display()))?,
                None => Log::stderr(),
            };
            let options = ServeOptions {
                session: Duration::from_secs(session_minutes.saturating_mul(60)),
                log,
                ..ServeOptions::default()
            };
            serve_until_signal(Store::open(&dir)?, listen, port_file.as_deref(), options)
        }
    }
}

/// Reads a secret into one buffer, which is zeroed.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let limit = MAX_VALUE.saturating_add(1);
    let mut bytes = Zeroizing::new(vec![0; limit]);
    let (mut input, object): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin()), "standard input".into())
    } else {
        let file = fs::File::open(path);
        let object = path.display().to_string();
        let file = file.with_context(|| format!("cannot open {object}"))?;
        (Box::new(file), object)
    };
    let mut length: usize = 0;
    loop {
        let free = bytes.get_mut(length..).unwrap_or_default();
        match input
            .read(free)
            .with_context(|| format!("cannot read {object}"))?
        {
            0 => break,
            read => length = length.saturating_add(read),
        }
    }
    if length > MAX_VALUE {
        bail!("cannot take the secret in {object}: it is larger than {MAX_VALUE} bytes");
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn enroll_tpm(store: &Store, source: TpmSource) -> Result<AkId> {
    Ok(match source {
        TpmSource { ak: Some(path), .. } => store.enroll_ak_file(&path)?,
        TpmSource {
            ak_cert: Some(path),
            ..
        } => store.enroll_ak_certificate(&path)?,
        TpmSource {
            swtpm: Some(address),
            ..
        } => store.enroll_ak(&swtpm::ak_of_socket(&address)?, Origin::Tpm)?,
        TpmSource {
            swtpm_state: Some(dir),
            ..
        } => store.enroll_ak(&swtpm::ak_of_state(&dir)?, Origin::Tpm)?,
        TpmSource { .. } => {
            bail!("cannot enroll a TPM: expected one of --ak, --ak-cert, --swtpm, --swtpm-state")
        }
    })
}

fn list(store: &Store, json: bool) -> Result<()> {
    let (images, resources) = (store.enrolled_images()?, store.resources()?);
    let attesters = store.attesters()?;
    if json {
        let tpms: Vec<_> = attesters
            .iter()
            .map(|(ak, origin)| serde_json::json!({ "ak": ak, "origin": origin }))
            .collect();
        let all = serde_json::json!({ "images": images, "tpms": tpms, "resources": resources });
        return say(serde_json::to_string_pretty(&all)?);
    }
    let mut lines = Vec::new();
    for image in images {
        let state = if image.retired { " (retired)" } else { "" };
        lines.push(format!(
            "image    {} version {}{state}",
            image.name, image.version
        ));
    }
    for (ak, origin) in attesters {
        lines.push(format!(
            "tpm      {ak} ({})",
            format!("{origin:?}").to_lowercase()
        ));
    }
    for stored in resources {
        let tees: Vec<_> = stored.binding.tee.iter().map(|tee| tee.as_str()).collect();
        lines.push(format!(
            "resource {}: {} bytes for {} on {}",
            stored.resource,
            stored.bytes,
            stored.binding.images.join(", "),
            tees.join(", ")
        ));
    }
    if lines.is_empty() {
        lines.push("nothing is enrolled and nothing is stored".into());
    }
    say(lines.join("\n"))
}

fn show(json: bool, value: &impl Serialize, text: String) -> Result<()> {
    if json {
        return say(serde_json::to_string(value)?);
    }
    say(text)
}

fn say(text: impl std::fmt::Display) -> Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

fn serve_until_signal(
    store: Store,
    listen: SocketAddr,
    port_file: Option<&Path>,
    options: ServeOptions,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr().context("cannot read the address")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        if let Some(path) = port_file {
            write_port(path, address.port())?;
        }
        say(format!("listening on {address}"))?;
        tokio::select! {
            ended = serve(store, listener, options) => Ok(ended?),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}

/// Renamed into place, so that a waiting script never reads half a number.
fn write_port(path: &Path, port: u16) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        writeln!(file, "{port}")?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write the port to {}", path.display()))
}
