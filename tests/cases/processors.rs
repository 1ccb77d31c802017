//! SEV-SNP and TDX to the end: the production init on emulated processors that
//! measure the very files QEMU is given.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use image_build::run::{Machine, Report};
use measured_boot::verify::snp::SigningKey;
use processor::host::{Boot, Tee};
use processor::snp::MIGRATE_MA;
use processor::tdx::{Collateral, Td};
use processor::{Keys, NOT_BEFORE, snp};
use tests::artifacts::{Parts, artifacts, test_kernel};
use tests::defences::{Attack, Verdict};
use tests::hardware::{self, Hardware, Vendors};
use tests::site::{Site, boot, expect_exit, stop_code};

use crate::Fact;
use crate::attestation::asked;
use crate::container::nothing_succeeded;
use crate::scene::{altered, attacker_initrd, find, line, verdict};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "snp-debug",
        attempt: |parts| {
            deviating(parts, "snp", "R_DEBUG", || {
                Ok(Box::new(hardware::snp(Keys::Test, |report| {
                    report.policy |= 1 << 19;
                })?))
            })
        },
        control: |parts| gets_its_keys(parts, "snp"),
    },
    Attack {
        name: "tdx-debug",
        attempt: |parts| {
            deviating(parts, "tdx", "R_DEBUG", || {
                Ok(Box::new(hardware::tdx(Keys::Test, |td| {
                    td.td_attributes |= 1
                })?))
            })
        },
        control: |parts| gets_its_keys(parts, "tdx"),
    },
    Attack {
        name: "snp-changed-initrd",
        attempt: |parts| replaced_init(parts, "snp", "R_LAUNCH_DIGEST"),
        control: |parts| enrolled_attacker(parts, "snp"),
    },
    Attack {
        name: "tdx-changed-initrd",
        attempt: |parts| replaced_init(parts, "tdx", "R_IMAGE_UNKNOWN"),
        control: |parts| enrolled_attacker(parts, "tdx"),
    },
    Attack {
        name: "snp-second-request",
        attempt: second_request,
        control: |parts| enrolled_attacker(parts, "snp"),
    },
];

pub(crate) const FACTS: &[Fact] = &[
    ("processors/snp-busy-host-is-asked-again", || {
        busy(processor("snp")?)
    }),
    ("processors/tdx-busy-host-is-asked-again", || {
        busy(processor("tdx")?)
    }),
    ("processors/snp-container-finds-no-tee", || {
        finds_no_tee("snp")
    }),
    ("processors/tdx-container-finds-no-tee", || {
        finds_no_tee("tdx")
    }),
    ("processors/snp-migration-agent", || {
        snp_refused("R_MIGRATION", |report| report.policy |= MIGRATE_MA)
    }),
    ("processors/snp-vmpl-1", || {
        snp_refused("R_VMPL", |report| report.vmpl = 1)
    }),
    ("processors/snp-old-tcb", || {
        snp_refused("R_TCB", |report| {
            report.reported_tcb.snp -= 1;
        })
    }),
    ("processors/snp-wrong-chip", || {
        snp_refused("R_CHIP", |report| report.chip_id[0] ^= 1)
    }),
    ("processors/snp-foreign-root", || {
        let processor = hardware::snp(Keys::Foreign, |_| {})?;
        refused("snp", "R_CHAIN", &Vendors::default(), processor)
    }),
    ("processors/snp-revoked-ask", || {
        let vendors = Vendors {
            revoked: vec![SigningKey::Vcek],
            ..Vendors::default()
        };
        refused(
            "snp",
            "R_REVOKED",
            &vendors,
            hardware::snp(Keys::Test, |_| {})?,
        )
    }),
    ("processors/snp-wrong-host-data", wrong_host_data),
    ("processors/tdx-migratable", || {
        tdx_refused("R_MIGRATION", |td| td.td_attributes |= 1 << 29)
    }),
    ("processors/tdx-service-td", || {
        tdx_refused("R_SERVICE_TD", |td| {
            td.version = 5;
            td.mr_service_td[0] = 1;
        })
    }),
    ("processors/tdx-foreign-root", || {
        let processor = hardware::tdx(Keys::Foreign, |_| {})?;
        refused("tdx", "R_CHAIN", &Vendors::default(), processor)
    }),
    ("processors/tdx-old-tcb", || {
        tdx_collateral("R_TCB_STATUS", |says| {
            says.status = processor::tdx::TcbStatus::OutOfDate;
        })
    }),
    ("processors/tdx-revoked-platform", || {
        tdx_collateral("R_REVOKED", |says| says.pck_revoked = true)
    }),
    ("processors/tdx-expired-collateral", || {
        tdx_collateral("R_COLLATERAL_EXPIRED", |says| {
            says.next_update = NOT_BEFORE + 86_400;
        })
    }),
    ("processors/snp-changed-kernel", || {
        changed("snp", changed_kernel)
    }),
    ("processors/tdx-changed-kernel", || {
        changed("tdx", changed_kernel)
    }),
    ("processors/snp-changed-cmdline", || changed_cmdline("snp")),
    ("processors/tdx-changed-cmdline", || changed_cmdline("tdx")),
    ("processors/snp-image-on-a-tpm", on_a_tpm),
    ("processors/snp-image-on-tdx", on_the_other),
];

/// The digest of the private file, from a container that attested.
const NOTE: &[&str] = &["digest", "/private/note"];

fn processor(tee: &str) -> Result<Box<dyn Tee>> {
    Ok(match tee {
        "snp" => Box::new(hardware::snp(Keys::Test, |_| {})?),
        _ => Box::new(hardware::tdx(Keys::Test, |_| {})?),
    })
}

/// Twice, since each launch is one of its own; with the product's init.
fn gets_its_keys(product: &Parts, tee: &'static str) -> Result<()> {
    let hardware = Hardware::open(product, &Vendors::default())?;
    let image = hardware.enrolled(&hardware.spec(tee, NOTE)?, product)?;
    find(&image.join("initrd.cpio"), &std::fs::read(&product.init)?)
        .context("the initrd has another init than the product's")?;
    let machine = hardware.machine(&image)?;
    for _ in 0..2 {
        let report = hardware.boot_on(&machine, processor(tee)?)?;
        expect_exit(&report, 0)?;
        line(&report, "probe: digest /private/note ")?;
    }
    let decisions = hardware.decisions()?;
    ensure!(
        decisions == ["released", "released"],
        "the broker decided {decisions:?}"
    );
    let log = hardware.site.broker_log();
    let replayed = log.contains("\"event log\"");
    ensure!(
        replayed == (tee == "tdx"),
        "the event log was judged: {replayed}"
    );
    Ok(())
}

/// A host that has no report to give for a while.
struct Busy {
    tee: Box<dyn Tee>,
    left: u32,
    answered: Arc<AtomicBool>,
}

impl Tee for Busy {
    fn name(&self) -> &'static str {
        self.tee.name()
    }

    fn launch(&mut self, boot: &Boot) -> Result<()> {
        self.tee.launch(boot)
    }

    fn report(&mut self, report_data: [u8; 64]) -> Result<(Vec<u8>, Vec<u8>)> {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Ok((Vec::new(), Vec::new()));
        }
        self.answered.store(true, Ordering::SeqCst);
        self.tee.report(report_data)
    }
}

fn busy(tee: Box<dyn Tee>) -> Result<()> {
    let product = &artifacts()?.product;
    let hardware = Hardware::open(product, &Vendors::default())?;
    let name = if tee.name() == "sev_guest" {
        "snp"
    } else {
        "tdx"
    };
    let image = hardware.enrolled(&hardware.spec(name, NOTE)?, product)?;
    let answered = Arc::new(AtomicBool::new(false));
    let busy = Busy {
        tee,
        left: 3,
        answered: Arc::clone(&answered),
    };
    let report = hardware.boot_on(&hardware.machine(&image)?, busy)?;
    expect_exit(&report, 0)?;
    ensure!(answered.load(Ordering::SeqCst), "no report was asked for");
    Ok(())
}

/// As root, with the kernel's provider in place.
fn finds_no_tee(tee: &'static str) -> Result<()> {
    let product = &artifacts()?.product;
    let hardware = Hardware::open(product, &Vendors::default())?;
    let mut spec = hardware.spec(tee, &["attempts"])?;
    spec.user = "0:0";
    let image = hardware.enrolled(&spec, product)?;
    let report = hardware.boot_on(&hardware.machine(&image)?, processor(tee)?)?;
    for tried in [
        "open /dev/sev-guest",
        "open /dev/tdx_guest",
        "open /dev/tpmrm0",
        "read /sys/kernel/config",
        "read /sys/firmware",
        "mount configfs",
        "open COM2",
    ] {
        let said = line(&report, &format!("probe: {tried}: "))?;
        ensure!(said.contains(": refused "), "{said}");
    }
    nothing_succeeded(&report)
}

fn snp_refused(code: &str, change: fn(&mut snp::Report)) -> Result<()> {
    refused(
        "snp",
        code,
        &Vendors::default(),
        hardware::snp(Keys::Test, change)?,
    )
}

fn tdx_refused(code: &str, change: fn(&mut Td)) -> Result<()> {
    refused(
        "tdx",
        code,
        &Vendors::default(),
        hardware::tdx(Keys::Test, change)?,
    )
}

fn tdx_collateral(code: &str, change: fn(&mut Collateral)) -> Result<()> {
    let mut vendors = Vendors::default();
    change(&mut vendors.collateral);
    refused("tdx", code, &vendors, hardware::tdx(Keys::Test, |_| {})?)
}

/// The genuine image on a processor or under vendors that are not as they
/// should be. Without the deviation the same scene is `gets_its_keys`.
fn refused(
    tee: &'static str,
    code: &str,
    vendors: &Vendors,
    processor: impl Tee + 'static,
) -> Result<()> {
    let product = &artifacts()?.product;
    let hardware = Hardware::open(product, vendors)?;
    let image = hardware.enrolled(&hardware.spec(tee, NOTE)?, product)?;
    let report = hardware.boot_on(&hardware.machine(&image)?, processor)?;
    refused_with(&hardware, &report, &[code])
}

/// The guest stopped, and the broker's only decisions were these.
fn refused_with(hardware: &Hardware, report: &Report, codes: &[&str]) -> Result<()> {
    stopped(report, "E_BROKER_REFUSED")?;
    let decisions = hardware.decisions()?;
    ensure!(
        decisions == codes,
        "the broker decided {decisions:?}, expected {codes:?}"
    );
    Ok(())
}

/// The guest's last line has this code.
fn stopped(report: &Report, code: &str) -> Result<()> {
    let got = stop_code(report)?;
    ensure!(
        got == code,
        "the guest ended with {got}, expected {code}; console:\n{}",
        report.lines().join("\n")
    );
    Ok(())
}

/// A key for one instance, and a host that starts another.
fn wrong_host_data() -> Result<()> {
    let product = &artifacts()?.product;
    let hardware = Hardware::open(product, &Vendors::default())?;
    let spec = hardware.spec("snp", NOTE)?;
    let image = hardware.enrolled(&spec, product)?;
    let key = hardware.site.boot_key()?;
    let instance = ["--instance", &"07".repeat(32)];
    hardware
        .site
        .put_for("probe/boot/key", &key, &spec, &instance)?;
    let machine = hardware.machine(&image)?;
    let other = hardware::snp(Keys::Test, |report| report.host_data = [8; 32])?;
    let report = hardware.boot_on(&machine, other)?;
    refused_with(&hardware, &report, &["R_RESOURCE_INSTANCE"])?;
    let right = hardware::snp(Keys::Test, |report| report.host_data = [7; 32])?;
    expect_exit(&hardware.boot_on(&machine, right)?, 0)
}

/// The genuine image on a processor that is not as it should be; the broker's
/// reason must be this one.
fn deviating(
    parts: &Parts,
    tee: &'static str,
    code: &str,
    processor: fn() -> Result<Box<dyn Tee>>,
) -> Result<Verdict> {
    let hardware = Hardware::open(parts, &Vendors::default())?;
    let image = hardware.enrolled(&hardware.spec(tee, NOTE)?, parts)?;
    let report = hardware.boot_on(&hardware.machine(&image)?, processor()?)?;
    because(&hardware, verdict(&report)?, code)
}

/// A replacement init that runs the genuine protocol.
fn replaced_init(parts: &Parts, tee: &'static str, code: &str) -> Result<Verdict> {
    let hardware = Hardware::open(parts, &Vendors::default())?;
    let image = hardware.enrolled(&hardware.spec(tee, NOTE)?, parts)?;
    let mut machine = hardware.machine(&image)?;
    machine.initrd = attacker_initrd(&image, "\"keys\"")?;
    let report = hardware.boot_on(&machine, processor(tee)?)?;
    because(&hardware, asked(&report)?, code)
}

/// A stop counts only when the broker's latest decision has this code.
fn because(hardware: &Hardware, verdict: Verdict, code: &str) -> Result<Verdict> {
    let decisions = hardware.decisions()?;
    let last = decisions.last().map(String::as_str);
    let stopped = matches!(verdict, Verdict::Stopped(_));
    ensure!(
        !stopped || last == Some(code),
        "the broker decided {decisions:?}, expected {code}"
    );
    Ok(verdict)
}

/// Enrolled on purpose, a replacement init gets the keys.
fn enrolled_attacker(parts: &Parts, tee: &'static str) -> Result<()> {
    let (report, _hardware) = enrolled_init(parts, tee, "\"keys\"")?;
    match asked(&report)? {
        Verdict::Succeeded(_) => Ok(()),
        stopped @ Verdict::Stopped(_) => bail!("an enrolled replacement init got {stopped:?}"),
    }
}

fn enrolled_init(parts: &Parts, tee: &'static str, task: &str) -> Result<(Report, Hardware)> {
    let hardware = Hardware::open(parts, &Vendors::default())?;
    let spec = hardware.spec(tee, NOTE)?;
    let image = hardware.site.build(&spec, &artifacts()?.product.init)?;
    let mut machine = hardware.machine(&image)?;
    machine.initrd = attacker_initrd(&image, task)?;
    hardware.enroll(&spec, &image, &machine)?;
    let report = hardware.boot_on(&machine, processor(tee)?)?;
    Ok((report, hardware))
}

/// What got its keys asks again within the same launch.
fn second_request(parts: &Parts) -> Result<Verdict> {
    let (report, hardware) = enrolled_init(parts, "snp", "\"twice\"")?;
    line(&report, "attacker: released boot key: true")?;
    because(&hardware, asked(&report)?, "R_BOOT_LATCHED")
}

/// The genuine image with one file changed.
fn changed(tee: &'static str, change: fn(&mut Machine, &Path) -> Result<()>) -> Result<()> {
    let product = &artifacts()?.product;
    let hardware = Hardware::open(product, &Vendors::default())?;
    let image = hardware.enrolled(&hardware.spec(tee, NOTE)?, product)?;
    let mut machine = hardware.machine(&image)?;
    change(&mut machine, &image)?;
    let report = hardware.boot_on(&machine, processor(tee)?)?;
    let lines = report.lines();
    let stopped = lines.iter().any(|line| line.contains("E_BROKER_REFUSED"));
    ensure!(stopped, "no refusal; console:\n{}", lines.join("\n"));
    measured_otherwise(&hardware)
}

/// The only decision was that the measurement is of no image.
fn measured_otherwise(hardware: &Hardware) -> Result<()> {
    let decisions = hardware.decisions()?;
    ensure!(
        decisions == ["R_LAUNCH_DIGEST"] || decisions == ["R_IMAGE_UNKNOWN"],
        "the broker decided {decisions:?}"
    );
    Ok(())
}

/// One byte of a message that the kernel never prints under UEFI.
fn changed_kernel(machine: &mut Machine, image: &Path) -> Result<()> {
    let kernel = image.join("bzImage");
    let at = find(&kernel, b"code requires")
        .or_else(|_| find(&kernel, b"Unable to boot"))
        .or_else(|_| find(&kernel, b"CPU"))?;
    machine.kernel = altered(&kernel, "changed-kernel", |bytes| {
        bytes[usize::try_from(at)?] ^= 0x20;
        Ok(())
    })?;
    Ok(())
}

/// Another rootfs, and the genuine encrypted filesystem.
fn changed_cmdline(tee: &'static str) -> Result<()> {
    let product = &artifacts()?.product;
    let hardware = Hardware::open(product, &Vendors::default())?;
    let genuine = hardware.enrolled(&hardware.spec(tee, NOTE)?, product)?;
    let rogue = hardware
        .site
        .build(&hardware.spec(tee, &["exit", "0"])?, &product.init)?;
    let machine = hardware
        .machine(&rogue)?
        .with_disk_file("boot", genuine.join("boot.img"));
    let report = hardware.boot_on(&machine, processor(tee)?)?;
    stopped(&report, "E_BROKER_REFUSED")?;
    measured_otherwise(&hardware)
}

/// A TPM is never taken for a hardware TEE, not even by a kernel that could.
fn on_a_tpm() -> Result<()> {
    let site = Site::open(&artifacts()?.product)?;
    let mut spec = site.spec(NOTE)?;
    spec.tee = "snp";
    for kernel in [None, Some(test_kernel()?)] {
        spec.kernel = kernel;
        let image = site.build(&spec, &artifacts()?.product.init)?;
        no_tee(&boot(&site.machine(&image)?)?, "tpm")?;
    }
    ensure!(site.broker_log().is_empty(), "a request was made");
    Ok(())
}

fn on_the_other() -> Result<()> {
    let product = &artifacts()?.product;
    let hardware = Hardware::open(product, &Vendors::default())?;
    let image = hardware.enrolled(&hardware.spec("snp", NOTE)?, product)?;
    let report = hardware.boot_on(&hardware.machine(&image)?, processor("tdx")?)?;
    no_tee(&report, "tdx_guest")?;
    ensure!(hardware.site.broker_log().is_empty(), "a request was made");
    Ok(())
}

fn no_tee(report: &Report, offered: &str) -> Result<()> {
    stopped(report, "E_TEE_MISSING")?;
    line(report, &format!("this machine offers {offered}"))?;
    Ok(())
}
