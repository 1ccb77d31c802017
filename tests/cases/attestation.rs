//! Who gets keys: changed machines, old images, replayed and forged evidence.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image_build::run::{Machine, Report, Running};
use measured_boot::base16;
use measured_boot::evidence::TeePublicKey;
use measured_boot::tpm::{self, QuoteParts};
use serde_json::{Value, json};
use tests::artifacts::{Parts, artifacts};
use tests::client::{Challenge, Client, key, qualifying_data};
use tests::defences::{Attack, Verdict};
use tests::relay::{Relay, RemoteTpm};
use tests::site::{Site, Spec, boot, expect_exit};

use crate::Fact;
use crate::scene::{self, altered, attacker_initrd, cpio, find, line, verdict};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "changed-initrd",
        attempt: changed_initrd,
        control: enrolled_attacker,
    },
    Attack {
        name: "changed-kernel",
        attempt: changed_kernel,
        control: scene::chain,
    },
    Attack {
        name: "changed-cmdline",
        attempt: changed_cmdline,
        control: scene::chain,
    },
    Attack {
        name: "retired-version",
        attempt: retired_version,
        control: scene::chain,
    },
    Attack {
        name: "replayed-evidence",
        attempt: replayed_evidence,
        control: relay_control,
    },
    Attack {
        name: "foreign-nonce",
        attempt: foreign_nonce,
        control: relay_control,
    },
    Attack {
        name: "swapped-key",
        attempt: swapped_key,
        control: relay_control,
    },
    Attack {
        name: "pcr-selection",
        attempt: pcr_selection,
        control: relay_control,
    },
    Attack {
        name: "unenrolled-tpm",
        attempt: unenrolled_tpm,
        control: scene::chain,
    },
    Attack {
        name: "latch",
        attempt: latch,
        control: enrolled_attacker,
    },
    Attack {
        name: "unlatched-second-session",
        attempt: unlatched,
        control: enrolled_attacker,
    },
];

pub(crate) const FACTS: &[Fact] = &[
    ("attestation/initrd-with-a-cpio-appended", initrd_appended),
    ("attestation/initrd-with-a-cpio-prepended", initrd_prepended),
    (
        "attestation/reboot-of-the-same-machine-gets-its-keys",
        reboot,
    ),
    (
        "attestation/other-memory-and-processors-are-the-same-machine",
        other_machine,
    ),
];

fn product() -> Result<&'static Parts> {
    Ok(&artifacts()?.product)
}

/// What the replacement init got.
pub(crate) fn asked(report: &Report) -> Result<Verdict> {
    let lines = report.lines();
    let refused = lines
        .iter()
        .find_map(|line| line.strip_prefix("attacker: refused: "));
    match refused.and_then(|rest| rest.split(' ').next()) {
        Some(code) => Ok(Verdict::Stopped(code.to_owned())),
        None if lines.iter().any(|line| line == "attacker: finished") => {
            Ok(Verdict::Succeeded(line(report, "attacker: released")?))
        }
        None => bail!(
            "the attacker did not finish; console:\n{}",
            lines.join("\n")
        ),
    }
}

/// The genuine image with a replacement init that runs the genuine protocol.
fn changed_initrd(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut machine = site.machine(&image)?;
    machine.initrd = attacker_initrd(&image, "\"keys\"")?;
    asked(&boot(&machine)?)
}

/// The control of every attack by a replacement init: enrolled on purpose, it
/// gets the keys, so it does speak the protocol.
fn enrolled_attacker(parts: &Parts) -> Result<()> {
    let site = Site::open(parts)?;
    match asked(&boot(&attacker_machine(&site, "\"keys\"")?)?)? {
        Verdict::Succeeded(_) => Ok(()),
        stopped => bail!("an enrolled replacement init got {stopped:?}"),
    }
}

/// An image whose reference values are those of the replacement init.
fn attacker_machine(site: &Site, task: &str) -> Result<Machine> {
    let spec = site.spec(&["exit", "0"])?;
    let image = site.build(&spec, &site_init()?)?;
    let initrd = attacker_initrd(&image, task)?;
    enroll_with_initrd(site, &spec, &image, &initrd)?;
    let mut machine = site.machine(&image)?;
    machine.initrd = initrd;
    Ok(machine)
}

fn site_init() -> Result<PathBuf> {
    Ok(product()?.init.clone())
}

/// Enrols an image with the prediction for another initrd.
fn enroll_with_initrd(site: &Site, spec: &Spec, image: &Path, initrd: &Path) -> Result<()> {
    use measured_boot::predict;
    use measured_boot::reference_values::ReferenceValues;
    let file = image.join("reference-values.json");
    let mut values = ReferenceValues::parse(&fs::read(&file)?)?;
    let kernel = fs::read(image.join("bzImage"))?;
    let initrd = fs::read(initrd)?;
    let payload = predict::Payload::Direct {
        kernel: &kernel,
        initrd: &initrd,
        cmdline: &values.cmdline,
    };
    let firmware = predict::known_firmware()?;
    values.tpm = Some(predict::tpm(&payload, predict::LowMemory::Usual, firmware)?);
    fs::write(&file, values.to_json()?)?;
    site.enroll(spec, image)
}

/// One byte of a message that the kernel never prints under UEFI.
fn changed_kernel(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let kernel = image.join("bzImage");
    let at = find(&kernel, b"code requires")
        .or_else(|_| find(&kernel, b"Unable to boot"))
        .or_else(|_| find(&kernel, b"CPU"))?;
    let mut machine = site.machine(&image)?;
    machine.kernel = altered(&kernel, "changed-kernel", |bytes| {
        bytes[usize::try_from(at)?] ^= 0x20;
        Ok(())
    })?;
    verdict(&boot(&machine)?)
}

/// Another rootfs with a well-formed command line of its own, and the same
/// kernel, init and broker: what a host that rebuilds the image can make.
fn changed_cmdline(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let genuine = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let rogue = site.build(&site.spec(&["digest", "/private/note"])?, &parts.init)?;
    let machine = site
        .machine(&rogue)?
        .with_disk_file("boot", genuine.join("boot.img"));
    verdict(&boot(&machine)?)
}

/// Version 1 after version 2 was enrolled and 1 retired.
fn retired_version(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let old = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut spec = site.spec(&["exit", "0"])?;
    spec.version = 2;
    let new = site.enrolled(&spec)?;
    expect_exit(&boot(&site.machine(&old)?)?, 0).context("version 1 before it is retired")?;
    site.admin(&["retire"], &["probe", "2"])?;
    expect_exit(&boot(&site.machine(&new)?)?, 0).context("version 2")?;
    verdict(&boot(&site.machine(&old)?)?)
}

/// A genuine guest whose TPM the test drives, and the broker's protocol spoken
/// from the host: the strongest position of a host that relays.
struct Scene {
    site: Site,
    client: Client,
    tpm: RemoteTpm,
    _guest: Running,
}

impl Scene {
    fn open(parts: &Parts) -> Result<Self> {
        let site = Site::open(parts)?;
        let relay = Relay::listen()?;
        let task = format!("{{\"relay\":{}}}", relay.port()?);
        let mut guest = attacker_machine(&site, &task)?.start()?;
        guest.wait_for("attacker: relaying")?;
        let client = Client::new(&site.store(), site.port())?;
        Ok(Self {
            client,
            tpm: relay.accept()?,
            site,
            _guest: guest,
        })
    }

    fn evidence(&mut self, challenge: &Challenge, key: &TeePublicKey) -> Result<Value> {
        let (quote, ak) = self.quote(&qualifying_data(&challenge.nonce, key))?;
        Ok(evidence(&quote, &ak))
    }

    fn quote(&mut self, data: &[u8; 32]) -> Result<(QuoteParts, Vec<u8>)> {
        let ak = tpm::create_ak(&mut self.tpm).map_err(|e| anyhow::anyhow!("{e}"))?;
        let quote = tpm::quote(&mut self.tpm, &ak, data).map_err(|e| anyhow::anyhow!("{e}"))?;
        let public = ak.public_der.clone();
        tpm::flush(&mut self.tpm, ak).map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok((quote, public))
    }

    /// Sends evidence and asks for the boot key.
    fn release(
        &self,
        challenge: &Challenge,
        nonce: &str,
        key: &TeePublicKey,
        evidence: &Value,
    ) -> Result<Verdict> {
        let attested = self
            .client
            .attest(&challenge.cookie, nonce, key, evidence)?;
        if attested.status != 200 {
            return Ok(Verdict::Stopped(refusal(&self.site)?));
        }
        let released = self.client.resource(&challenge.cookie, "probe/boot/key")?;
        match released.status {
            200 if released.body["ciphertext"].is_string() => Ok(Verdict::Succeeded(
                "the broker released the boot key".into(),
            )),
            _ => Ok(Verdict::Stopped(refusal(&self.site)?)),
        }
    }
}

/// The code of the broker's latest decision, which must be a refusal.
fn refusal(site: &Site) -> Result<String> {
    let log = site.broker_log();
    let last = log.lines().last().context("the broker logged nothing")?;
    let decision: Value = serde_json::from_str(last)?;
    ensure!(
        decision["decision"] == "refuse",
        "the latest decision is {decision}"
    );
    Ok(decision["code"].as_str().context("no code")?.to_owned())
}

fn evidence(quote: &QuoteParts, ak: &[u8]) -> Value {
    use base64ct::{Base64, Encoding};
    let pcrs: Vec<String> = quote.pcrs.iter().map(|pcr| base16::encode(pcr)).collect();
    json!({
        "tpm_quote": {
            "signature": Base64::encode_string(&quote.signature),
            "message": Base64::encode_string(&quote.message),
            "pcrs": pcrs,
        },
        "ak_public": Base64::encode_string(ak),
    })
}

fn relay_control(parts: &Parts) -> Result<()> {
    let mut scene = Scene::open(parts)?;
    let challenge = scene.client.auth()?;
    let (_, public) = key();
    let evidence = scene.evidence(&challenge, &public)?;
    match scene.release(&challenge, &challenge.nonce, &public, &evidence)? {
        Verdict::Succeeded(_) => Ok(()),
        stopped => bail!("honest evidence got {stopped:?}"),
    }
}

/// Evidence of an earlier session, with that session's nonce and key, in a new
/// one.
fn replayed_evidence(parts: &Parts) -> Result<Verdict> {
    let mut scene = Scene::open(parts)?;
    let old = scene.client.auth()?;
    let (_, public) = key();
    let evidence = scene.evidence(&old, &public)?;
    let new = scene.client.auth()?;
    scene.release(&new, &old.nonce, &public, &evidence)
}

/// Evidence over another session's nonce, claimed to be over this one's.
fn foreign_nonce(parts: &Parts) -> Result<Verdict> {
    let mut scene = Scene::open(parts)?;
    let (one, other) = (scene.client.auth()?, scene.client.auth()?);
    let (_, public) = key();
    let evidence = scene.evidence(&other, &public)?;
    scene.release(&one, &one.nonce, &public, &evidence)
}

/// The guest's evidence with the host's own key beside it.
fn swapped_key(parts: &Parts) -> Result<Verdict> {
    let mut scene = Scene::open(parts)?;
    let challenge = scene.client.auth()?;
    let ((_, guests), (_, hosts)) = (key(), key());
    let evidence = scene.evidence(&challenge, &guests)?;
    scene.release(&challenge, &challenge.nonce, &hosts, &evidence)
}

/// A genuine quote over fewer registers than the evidence shows: the values of
/// the others can then be anything.
fn pcr_selection(parts: &Parts) -> Result<Verdict> {
    let mut scene = Scene::open(parts)?;
    let challenge = scene.client.auth()?;
    let (_, public) = key();
    let data = qualifying_data(&challenge.nonce, &public);
    let ak = tpm::create_ak(&mut scene.tpm).map_err(|e| anyhow::anyhow!("{e}"))?;
    let pcrs = tpm::read_pcrs(&mut scene.tpm).map_err(|e| anyhow::anyhow!("{e}"))?;
    let mut narrowed = Narrowed {
        tpm: &mut scene.tpm,
        quote: None,
    };
    // Init's own client notices that the quote is not over what it read.
    ensure!(
        tpm::quote(&mut narrowed, &ak, &data).is_err(),
        "the selection was not narrowed"
    );
    let (message, signature) = narrowed.quote.context("no quote")?;
    let quote = QuoteParts {
        message,
        signature,
        pcrs,
    };
    let evidence = evidence(&quote, &ak.public_der);
    scene.release(&challenge, &challenge.nonce, &public, &evidence)
}

/// Takes PCR 4, which measures the kernel, out of every quote's selection.
struct Narrowed<'a> {
    tpm: &'a mut RemoteTpm,
    /// `TPMS_ATTEST` and `TPMT_SIGNATURE` of the latest quote.
    quote: Option<(Vec<u8>, Vec<u8>)>,
}

impl tpm::Transport for Narrowed<'_> {
    type Error = std::io::Error;

    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, std::io::Error> {
        /// `TPM_CC_Quote`, and where a command has its code.
        const QUOTE: &[u8] = &[0, 0, 1, 0x58];
        let mut command = command.to_vec();
        let is_quote = command.get(6..10) == Some(QUOTE);
        if is_quote && let [.., first, _, _] = command.as_mut_slice() {
            *first &= !(1 << 4);
        }
        let response = self.tpm.transact(&command)?;
        if is_quote && response.get(6..10) == Some(&[0; 4]) {
            // Header, parameter size, TPM2B_ATTEST, TPMT_SIGNATURE, authorization.
            let end = 14 + u32::from_be_bytes(response[10..14].try_into().unwrap()) as usize;
            let attest = 16 + usize::from(u16::from_be_bytes(response[14..16].try_into().unwrap()));
            self.quote = Some((
                response[16..attest].to_vec(),
                response[attest..end].to_vec(),
            ));
        }
        Ok(response)
    }
}

/// The genuine image on a TPM nobody enrolled; its registers are the same.
fn unenrolled_tpm(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let machine = site
        .machine(&image)?
        .with_tpm(site.path().join("another-tpm"));
    verdict(&boot(&machine)?)
}

/// A second request from inside the running guest, after the latch.
fn latch(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    asked(&boot(&attacker_machine(&site, "\"twice\"")?)?)
}

/// A second request within one boot by a machine that did not close its latch:
/// the broker remembers the boot.
fn unlatched(parts: &Parts) -> Result<Verdict> {
    let site = Site::open(parts)?;
    asked(&boot(&attacker_machine(&site, "\"unlatched\"")?)?)
}

fn initrd_appended() -> Result<()> {
    initrd_with(|genuine, extra| [genuine, extra].concat())
}

fn initrd_prepended() -> Result<()> {
    initrd_with(|genuine, extra| [extra, genuine].concat())
}

/// The genuine init with a second archive beside it.
fn initrd_with(join: fn(&[u8], &[u8]) -> Vec<u8>) -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let extra = cpio(&[("etc-added", b"added by the host")]);
    let mut machine = site.machine(&image)?;
    machine.initrd = image.join("joined.cpio");
    fs::write(
        &machine.initrd,
        join(&fs::read(image.join("initrd.cpio"))?, &extra),
    )?;
    match verdict(&boot(&machine)?)? {
        Verdict::Stopped(code) if code == "E_BROKER_REFUSED" => Ok(()),
        other => bail!("got {other:?}, expected E_BROKER_REFUSED"),
    }
}

fn reboot() -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    for _ in 0..2 {
        expect_exit(&boot(&site.machine(&image)?)?, 0)?;
    }
    Ok(())
}

/// What the measurement must not depend on: memory, processors, disks' order.
fn other_machine() -> Result<()> {
    let site = Site::open(product()?)?;
    let image = site.enrolled(&site.spec(&["exit", "0"])?)?;
    let mut machine = site.machine(&image)?;
    machine.memory = 2048;
    machine.arguments.extend(["-smp".into(), "2".into()]);
    machine.disks.reverse();
    expect_exit(&boot(&machine)?, 0)
}
