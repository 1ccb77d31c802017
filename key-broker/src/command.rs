//! The command line: what an administrator does with a store.

mod explain;
mod list;
mod secret;
mod serve;
mod tpm;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use measured_boot::manifest::{Resource, Tee};
use measured_boot::verify::snp::Product;
use serde::Serialize;

use self::explain::Explain;
use self::tpm::TpmSource;
use crate::log::Log;
use crate::server::ServeOptions;
use crate::store::attesters::AkId;
use crate::store::resources::{Binding, Instance};
use crate::store::{InitOptions, Store};

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
        /// For tests: let trust-root trust others than AMD and Intel
        #[arg(long)]
        development: bool,
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
        /// The one instance that may have it: HOST_DATA of SNP (64 digits) or MRCONFIGID of TDX (96)
        #[arg(long, value_name = "HEX", value_parser = instance)]
        instance: Option<Instance>,
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
    /// What machines must be: minimum firmware, products, chips, TCB statuses
    #[command(subcommand)]
    Policy(Policy),
    /// Keep certificates of VCEKs and VLEKs, CRLs, and collateral of TDX
    Endorse {
        dir: PathBuf,
        /// DER or PEM; a collateral as the JSON of dcap-qvl
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Trust a root that is not the vendor's, in a development store
    #[command(subcommand)]
    TrustRoot(TrustRoot),
    /// Show why a guest was refused
    Explain {
        dir: PathBuf,
        #[command(flatten)]
        explain: Explain,
    },
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
        /// Folder with more certificates, CRLs and collateral, read at each attestation
        #[arg(long, value_name = "DIR")]
        endorsements: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Policy {
    /// Set it: JSON or TOML with snp and tdx
    Set { dir: PathBuf, file: PathBuf },
    /// Print it as JSON
    Show { dir: PathBuf },
}

#[derive(Debug, Subcommand)]
enum TrustRoot {
    /// Of SEV-SNP
    Snp {
        dir: PathBuf,
        /// Milan, Genoa or Turin
        #[arg(long, value_parser = product)]
        product: Product,
        ark: PathBuf,
        /// The ASK or ASVK that it signed
        signer: PathBuf,
    },
    /// Of TDX
    Tdx { dir: PathBuf, root: PathBuf },
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

fn instance(text: &str) -> Result<Instance, String> {
    Instance::parse(text).ok_or_else(|| "expected 64 or 96 lower-case hexadecimal digits".into())
}

fn product(text: &str) -> Result<Product, String> {
    let mut all = Product::ALL.into_iter();
    let product = all.find(|product| product.name().eq_ignore_ascii_case(text));
    product.ok_or_else(|| "expected Milan, Genoa or Turin".into())
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
        Command::Init {
            dir,
            certificate,
            development,
        } => {
            let options = InitOptions {
                development,
                ..certificate.options()
            };
            let store = Store::init(&dir, &options)?;
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
            instance,
            replace,
        } => {
            let tee = tees.into_iter().map(Tee::from).collect();
            let binding = Binding {
                images,
                tee,
                instance,
            };
            let value = secret::read(&file)?;
            Ok(Store::open(&dir)?.put(&resource, &value, binding, replace)?)
        }
        Command::Remove { dir, resource } => Ok(Store::open(&dir)?.remove(&resource)?),
        Command::List { dir, json } => list::list(&Store::open(&dir)?, json),
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
            let ak = tpm::enroll(&Store::open(&dir)?, source)?;
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
        Command::Policy(Policy::Set { dir, file }) => {
            let policy = Store::open(&dir)?.set_platform_policy(&file)?;
            let products: Vec<_> = policy.snp.products.iter().map(|p| p.name()).collect();
            say(format!("accepted products of AMD: {}", products.join(", ")))
        }
        Command::Policy(Policy::Show { dir }) => {
            let policy = Store::open(&dir)?.platform_policy()?;
            say(serde_json::to_string_pretty(&policy)?)
        }
        Command::Endorse { dir, files } => {
            let store = Store::open(&dir)?;
            for file in files {
                say(store.endorse(&file)?.join("\n"))?;
            }
            Ok(())
        }
        Command::TrustRoot(TrustRoot::Snp {
            dir,
            product,
            ark,
            signer,
        }) => say(Store::open(&dir)?.trust_snp_root(product, &ark, &signer)?),
        Command::TrustRoot(TrustRoot::Tdx { dir, root }) => {
            say(Store::open(&dir)?.trust_tdx_root(&root)?)
        }
        Command::Explain { dir, explain } => {
            Store::open(&dir)?;
            explain::run(&explain)
        }
        Command::Serve {
            dir,
            listen,
            port_file,
            session_minutes,
            log,
            endorsements,
        } => {
            let log = match log {
                Some(path) => Log::file(&path)
                    .with_context(|| format!("cannot open the log {}", path.display()))?,
                None => Log::stderr(),
            };
            let options = ServeOptions {
                session: Duration::from_secs(session_minutes.saturating_mul(60)),
                log,
                endorsements,
                ..ServeOptions::default()
            };
            let store = Store::open(&dir)?;
            if store.is_development() {
                // Beside the one line that scripts read.
                eprintln!("key-broker: development store: evidence of test roots is accepted");
            }
            serve::serve_until_signal(store, listen, port_file.as_deref(), options)
        }
    }
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
