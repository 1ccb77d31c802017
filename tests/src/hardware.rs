//! Machines with an emulated secure processor, and a broker that trusts it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_build::run::{Machine, Report};
use measured_boot::base16;
use measured_boot::manifest::Hex32;
use measured_boot::predict::{self, LowMemory, PageOrder, Payload, Td};
use measured_boot::reference_values::{Hex48, ReferenceValues, SnpValues, TdxLog};
use measured_boot::verify::snp::{Product, SigningKey};
use processor::host::{Boot, Processor, Snp, Tdx, Tee, write_firmware};
use processor::tdx::Collateral;
use processor::{Keys, snp, tdx};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::artifacts::{Parts, test_kernel};
use crate::site::{DEADLINE, Site, Spec, path};

/// What is emulated of AMD's.
pub const PRODUCT: Product = Product::Genoa;

/// A site whose broker is for development and trusts the emulated processors.
#[derive(Debug)]
pub struct Hardware {
    /// Its broker and folder.
    pub site: Site,
    firmware: PathBuf,
}

/// What AMD and Intel state about the processors.
#[derive(Clone, Debug, Default)]
pub struct Vendors {
    /// Signers that AMD took back.
    pub revoked: Vec<SigningKey>,
    /// What Intel's collateral says.
    pub collateral: Collateral,
}

impl Hardware {
    /// Starts a broker that trusts the test keys of both vendors.
    ///
    /// # Errors
    /// A command failed.
    pub fn open(parts: &Parts, vendors: &Vendors) -> Result<Self> {
        let site = Site::with_store(parts, &["--development"])?;
        let firmware = write_firmware(site.path())?;
        let amd = snp::Authority::new(Keys::Test, PRODUCT)?;
        let intel = tdx::Authority::new(Keys::Test)?;
        let file = |name: &str, bytes: &[u8]| -> Result<String> {
            let file = site.path().join(name);
            fs::write(&file, bytes)?;
            Ok(path(&file).to_owned())
        };
        let ark = file("ark.der", amd.ark())?;
        let ask = file("ask.der", amd.ask())?;
        let product = ["--product", PRODUCT.name()];
        site.admin(
            &["trust-root", "snp"],
            &[&product[..], &[&ark, &ask]].concat(),
        )?;
        let root = file("root.der", intel.root())?;
        site.admin(&["trust-root", "tdx"], &[&root])?;
        let crl = file("crl.der", &amd.crl(&vendors.revoked)?)?;
        let collateral = intel.collateral(&vendors.collateral)?;
        let collateral = file("collateral.json", collateral.as_bytes())?;
        site.admin(&["endorse"], &[&crl, &collateral])?;
        let policy = file("policy.json", policy().to_string().as_bytes())?;
        site.admin(&["policy", "set"], &[&policy])?;
        Ok(Self { site, firmware })
    }

    /// The probe with a private file, for machines with this TEE.
    ///
    /// # Errors
    /// The test kernel does not build.
    pub fn spec(&self, tee: &'static str, arguments: &[&str]) -> Result<Spec> {
        let mut spec = self.site.spec(arguments)?;
        spec.tee = tee;
        spec.kernel = Some(test_kernel()?);
        Ok(spec)
    }

    /// Builds an image, enrols what its machine will measure, and puts its keys
    /// into the broker.
    ///
    /// # Errors
    /// A command failed.
    pub fn enrolled(&self, spec: &Spec, parts: &Parts) -> Result<PathBuf> {
        let image = self.site.build(spec, &parts.init)?;
        self.enroll(spec, &image, &self.machine(&image)?)?;
        Ok(image)
    }

    /// Makes known to the broker what this machine will measure.
    ///
    /// # Errors
    /// A command failed.
    pub fn enroll(&self, spec: &Spec, image: &Path, machine: &Machine) -> Result<()> {
        let file = image.join("reference-values.json");
        let mut values = ReferenceValues::parse(&fs::read(&file)?)?;
        let boot = self.boot(machine);
        let firmware = fs::read(&self.firmware)?;
        let digest = Hex32(Sha256::digest(&firmware).into());
        values.snp = Some(SnpValues {
            assumptions: Vec::new(),
            firmware: digest,
            launch_digests: BTreeMap::from([(
                boot.vcpus,
                Hex48(boot.launch_digest(Snp::cpu(PRODUCT))?),
            )]),
        });
        let (kernel, initrd) = (fs::read(&machine.kernel)?, fs::read(&machine.initrd)?);
        let payload = Payload::Direct {
            kernel: &kernel,
            initrd: &initrd,
            cmdline: &machine.cmdline,
        };
        let td = Td {
            firmware: &firmware,
            order: PageOrder::EachPage,
            memory: LowMemory::of(machine.memory),
        };
        let log = TdxLog {
            name: "emulated".into(),
            rtmrs: BTreeMap::from([(0, Hex48(boot.td_registers()?.rtmrs[0]))]),
        };
        values.tdx = Some(predict::tdx(&payload, &td, vec![log])?);
        fs::write(&file, values.to_json()?)?;
        self.site.enroll(spec, image)
    }

    /// The machine for an image, without its processor.
    ///
    /// # Errors
    /// A file of the image is missing.
    pub fn machine(&self, image: &Path) -> Result<Machine> {
        let mut machine = Machine::new(image)?;
        machine.bios = Some(self.firmware.clone());
        machine.deadline = Some(DEADLINE);
        Ok(machine)
    }

    /// Boots a machine on this processor, to its end.
    ///
    /// # Errors
    /// It did not start, or the processor failed.
    pub fn boot_on(&self, machine: &Machine, tee: impl Tee + 'static) -> Result<Report> {
        let processor = Processor::start(self.boot(machine), tee)?;
        let mut machine = machine.clone();
        machine.arguments.extend_from_slice(processor.arguments());
        let report = machine.start()?.wait();
        let errors = processor.errors();
        ensure!(errors.is_empty(), "the processor failed: {errors:?}");
        Ok(report)
    }

    fn boot(&self, machine: &Machine) -> Boot {
        Boot {
            firmware: self.firmware.clone(),
            kernel: machine.kernel.clone(),
            initrd: machine.initrd.clone(),
            cmdline: machine.cmdline.clone(),
            memory: machine.memory,
            vcpus: 1,
        }
    }

    /// The broker's refusals and releases, as codes: `released` for a resource.
    ///
    /// # Errors
    /// The log is not JSON.
    pub fn decisions(&self) -> Result<Vec<String>> {
        let mut decisions = Vec::new();
        for line in self.site.broker_log().lines() {
            let line: Value = serde_json::from_str(line)?;
            if line["decision"] == "refuse" {
                let code = line["code"].as_str().context("a refusal without a code")?;
                decisions.push(code.to_owned());
            } else if line["action"] == "resource" {
                decisions.push("released".to_owned());
            }
        }
        Ok(decisions)
    }
}

/// A processor of AMD that does `change` to its reports.
///
/// # Errors
/// A key does not sign.
pub fn snp(keys: Keys, change: impl FnMut(&mut snp::Report) + Send + 'static) -> Result<Snp> {
    Ok(Snp::new(snp::Authority::new(keys, PRODUCT)?, change))
}

/// A processor of Intel that does `change` to its TDs.
///
/// # Errors
/// A key does not sign.
pub fn tdx(keys: Keys, change: impl FnMut(&mut tdx::Td) + Send + 'static) -> Result<Tdx> {
    Ok(Tdx::new(tdx::Authority::new(keys)?, change))
}

/// The firmware and the chip that an unchanged report has, at least and alone.
fn policy() -> Value {
    let report = snp::Report::new(PRODUCT);
    json!({ "snp": {
        "products": [PRODUCT.name()],
        "minimum_tcb": { PRODUCT.name(): report.reported_tcb },
        "chip_ids": [base16::encode(&report.chip_id)],
    } })
}
