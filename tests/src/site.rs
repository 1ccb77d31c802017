//! One site: a broker with its store, a TPM, and the images made for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use image_build::run::{Machine, Outcome, Report};
use tempfile::TempDir;

use crate::artifacts::{Parts, artifacts, run};
use crate::oci::{self, Entry};

/// Longest boot: about 10 s under emulation, and the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(150);

/// systemd-stub as Debian installs it.
const UKI_STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// A broker that serves, a TPM it knows, and a folder for images.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    parts: Parts,
    broker: Broker,
}

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name and version by which it is enrolled.
    pub name: &'static str,
    /// Version.
    pub version: u32,
    /// Arguments of the probe.
    pub arguments: Vec<String>,
    /// User in the image's config.
    pub user: &'static str,
    /// Files of the encrypted boot filesystem; none, no boot filesystem.
    pub private: Vec<(&'static str, Vec<u8>)>,
    /// Lines added to the config's `[container]`.
    pub container: String,
    /// Further tables of the config.
    pub tables: String,
    /// `none` or `console`.
    pub logs: &'static str,
    /// Whether it speaks to a broker and so has a network.
    pub broker: Option<BrokerAddress>,
    /// The `[network]` table of an image with a broker; DHCP when none is given.
    pub network: Option<String>,
    /// Entries of the container's root besides the usual ones.
    pub entries: Vec<Entry>,
    /// Whether it is one file, around the stub of Debian's `systemd-boot-efi`.
    pub uki: bool,
    /// Which evidence its manifest allows.
    pub tee: &'static str,
    /// Another kernel than the product's.
    pub kernel: Option<PathBuf>,
}

/// How an image finds its broker.
#[derive(Clone, Debug)]
pub struct BrokerAddress {
    /// `https://...`
    pub url: String,
    /// Its CA certificate, PEM.
    pub ca: String,
    /// Floor of the guest's clock, seconds since 1970.
    pub not_before: Option<u64>,
}

impl Spec {
    /// The probe with these arguments, no broker, no network, no secrets.
    pub fn offline(arguments: &[&str]) -> Self {
        Self {
            name: "probe",
            version: 1,
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            user: "probe",
            private: Vec::new(),
            container: String::new(),
            tables: String::new(),
            logs: "console",
            broker: None,
            network: None,
            entries: Vec::new(),
            uki: false,
            tee: "tpm",
            kernel: None,
        }
    }
}

impl Site {
    /// Starts a broker, and makes a TPM and enrols it.
    ///
    /// # Errors
    /// A command failed.
    pub fn open(parts: &Parts) -> Result<Self> {
        let site = Self::with_store(parts, &[])?;
        site.enroll_tpm(&site.tpm())?;
        Ok(site)
    }

    /// Starts a broker whose store was made with these options, and no TPM.
    ///
    /// # Errors
    /// A command failed.
    pub fn with_store(parts: &Parts, options: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("anchorhold-site-")
            .tempdir()?;
        let store = folder.path().join("store");
        broker_command(
            parts,
            &["init"],
            &store,
            &[&["--name", "10.0.2.2", "--name", "localhost"], options].concat(),
        )?;
        let broker = Broker::serve(parts, &store)?;
        Ok(Self {
            folder,
            parts: parts.clone(),
            broker,
        })
    }

    /// The site's folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The broker's store.
    pub fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// State of the enrolled TPM.
    pub fn tpm(&self) -> PathBuf {
        self.path().join("tpm")
    }

    /// The broker's port on the host's loopback.
    pub fn port(&self) -> u16 {
        self.broker.port
    }

    /// The broker's decisions so far, one JSON line each.
    pub fn broker_log(&self) -> String {
        fs::read_to_string(self.path().join("broker.log")).unwrap_or_default()
    }

    /// How images find this site's broker.
    pub fn address(&self) -> Result<BrokerAddress> {
        Ok(BrokerAddress {
            url: format!("https://10.0.2.2:{}", self.broker.port),
            ca: fs::read_to_string(self.store().join("ca.pem"))?,
            not_before: None,
        })
    }

    /// The probe with a private file and this site's broker.
    pub fn spec(&self, arguments: &[&str]) -> Result<Spec> {
        let mut spec = Spec::offline(arguments);
        spec.broker = Some(self.address()?);
        spec.private = vec![("note", b"what only the owner knows\n".to_vec())];
        Ok(spec)
    }

    /// Makes the TPM in `state` known to the broker before its first use.
    pub fn enroll_tpm(&self, state: &Path) -> Result<()> {
        if !state.exists() {
            fs::create_dir(state)?;
            let mut setup = Command::new("swtpm_setup");
            run(setup
                .args(["--tpm2", "--pcr-banks", "sha256", "--tpmstate"])
                .arg(state))?;
        }
        self.admin(&["enroll-tpm"], &["--swtpm-state", path(state)])
    }

    /// Runs a command of the broker on this site's store.
    pub fn admin(&self, command: &[&str], arguments: &[&str]) -> Result<()> {
        broker_command(&self.parts, command, &self.store(), arguments)
    }

    /// The boot key all images of this site share, made on first use.
    pub fn boot_key(&self) -> Result<PathBuf> {
        let file = self.path().join("boot.key");
        if !file.exists() {
            run(Command::new(&self.parts.image_build)
                .args(["key", "new"])
                .arg(&file))?;
        }
        Ok(file)
    }

    /// Builds an image, enrols it, and puts its keys into the broker.
    pub fn enrolled(&self, spec: &Spec) -> Result<PathBuf> {
        let image = self.build(spec, &self.parts.init)?;
        self.enroll(spec, &image)?;
        Ok(image)
    }

    /// Makes an image and its keys known to the broker.
    pub fn enroll(&self, spec: &Spec, image: &Path) -> Result<()> {
        self.admin(&["enroll"], &[path(&image.join("reference-values.json"))])?;
        if !spec.private.is_empty() {
            self.put_for("probe/boot/key", &self.boot_key()?, spec, &[])?;
        }
        Ok(())
    }

    /// Puts a file into the broker, for images of this name on a TPM.
    pub fn put(&self, resource: &str, file: &Path, image: &'static str) -> Result<()> {
        let mut spec = Spec::offline(&[]);
        spec.name = image;
        self.put_for(resource, file, &spec, &[])
    }

    /// Puts a file into the broker, for images of this name and TEE.
    pub fn put_for(&self, resource: &str, file: &Path, spec: &Spec, more: &[&str]) -> Result<()> {
        let uri = format!("kbs:///{resource}");
        let arguments = [&uri, "--file", path(file), "--image", spec.name];
        let tee = ["--tee", spec.tee, "--replace"];
        self.admin(&["put"], &[&arguments[..], &tee, more].concat())
    }

    /// Builds an image around `init`.
    pub fn build(&self, spec: &Spec, init: &Path) -> Result<PathBuf> {
        let artifacts = artifacts()?;
        let work = tempfile::Builder::new()
            .prefix("image-")
            .tempdir_in(self.path())?
            .keep();
        let mut entries = oci::base_entries();
        entries.push(Entry::File("bin/probe", 0o755, fs::read(&artifacts.probe)?));
        entries.extend(spec.entries.iter().cloned());
        let mut argv = vec!["/bin/probe"];
        argv.extend(spec.arguments.iter().map(String::as_str));
        oci::write_layout(&work.join("oci"), &entries, spec.user, &argv)?;

        fs::write(work.join("config.toml"), self.config(spec, &work)?)?;
        let out = work.join("out");
        let mut command = Command::new(&self.parts.image_build);
        command.arg("build").arg("--oci").arg(work.join("oci"));
        command.arg("--config").arg(work.join("config.toml"));
        command
            .arg("--kernel")
            .arg(spec.kernel.as_ref().unwrap_or(&artifacts.kernel))
            .arg("--init")
            .arg(init);
        if spec.uki {
            command.args(["--uki-stub", UKI_STUB]);
        }
        if !spec.private.is_empty() {
            command.arg("--boot-key").arg(self.boot_key()?);
        }
        run(command.arg("--out").arg(&out))?;
        Ok(out)
    }

    fn config(&self, spec: &Spec, work: &Path) -> Result<String> {
        let mut config = format!(
            "logs = \"{}\"\n[image]\nname = \"{}\"\nversion = {}\n[attestation]\ntee = [\"{}\"]\n",
            spec.logs, spec.name, spec.version, spec.tee
        );
        if let Some(broker) = &spec.broker {
            fs::write(work.join("ca.pem"), &broker.ca)?;
            config += &format!("[broker]\nurl = \"{}\"\nca = \"ca.pem\"\n", broker.url);
            if let Some(floor) = broker.not_before {
                config += &format!("not_before = {floor}\n");
            }
            config += "[network]\n";
            config += spec.network.as_deref().unwrap_or("mode = \"dhcp\"\n");
        }
        if !spec.private.is_empty() {
            let private = work.join("private");
            fs::create_dir_all(&private)?;
            for (name, content) in &spec.private {
                fs::write(private.join(name), content)?;
            }
            config += "[boot]\nsource = \"private\"\nkey = \"kbs:///probe/boot/key\"\nmount = \"/private\"\n";
        }
        config += &format!("[container]\n{}\n{}\n", spec.container, spec.tables);
        Ok(config)
    }

    /// The machine for an image: this site's TPM, and a deadline.
    pub fn machine(&self, image: &Path) -> Result<Machine> {
        let mut machine = Machine::new(image)?.with_tpm(self.tpm());
        machine.deadline = Some(DEADLINE);
        Ok(machine)
    }

    /// Builds, enrols and boots.
    pub fn run(&self, spec: &Spec) -> Result<Report> {
        boot(&self.machine(&self.enrolled(spec)?)?)
    }
}

/// Boots a machine to its end.
///
/// # Errors
/// It did not start.
pub fn boot(machine: &Machine) -> Result<Report> {
    Ok(machine.start()?.wait())
}

/// The container ended with this status; otherwise the error has the console.
///
/// # Errors
/// Any other outcome.
pub fn expect_exit(report: &Report, status: u8) -> Result<()> {
    ensure!(
        report.outcome == Outcome::Exited { status },
        "got {:?}, expected exit status {status}; console:\n{}",
        report.outcome,
        report.lines().join("\n")
    );
    Ok(())
}

/// The code of a fatal line, `panic` for a kernel panic.
///
/// # Errors
/// Any other outcome, with the console.
pub fn stop_code(report: &Report) -> Result<String> {
    match &report.outcome {
        Outcome::Fatal { code, .. } => Ok(code.clone()),
        Outcome::Panic { .. } => Ok("panic".into()),
        other => bail!(
            "got {other:?}, expected a stop; console:\n{}",
            report.lines().join("\n")
        ),
    }
}

/// A path for a command's argument.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn broker_command(parts: &Parts, command: &[&str], store: &Path, rest: &[&str]) -> Result<()> {
    run(Command::new(&parts.key_broker)
        .args(command)
        .arg(store)
        .args(rest))?;
    Ok(())
}

/// The broker's process, ended with the value.
#[derive(Debug)]
struct Broker {
    process: Child,
    port: u16,
}

impl Broker {
    fn serve(parts: &Parts, store: &Path) -> Result<Self> {
        let folder = store.parent().unwrap_or(store);
        let port_file = folder.join("port");
        let process = Command::new(&parts.key_broker)
            .arg("serve")
            .arg(store)
            .args(["--listen", "127.0.0.1:0", "--port-file"])
            .arg(&port_file)
            .arg("--log")
            .arg(folder.join("broker.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("broker.err"))?)
            .spawn()
            .context("cannot start the broker")?;
        let mut broker = Self { process, port: 0 };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            let text = fs::read_to_string(&port_file).unwrap_or_default();
            if let Ok(port) = text.trim().parse() {
                broker.port = port;
                return Ok(broker);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = fs::read_to_string(folder.join("broker.err")).unwrap_or_default();
        bail!("the broker did not start: {said}")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
