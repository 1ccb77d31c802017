//! A store for SNP and TDX, and guests on emulated processors whose roots it
//! was told to trust.

use key_broker::broker::{Broker, Reply};
use key_broker::log::Log;
use key_broker::{InitOptions, Store};
use measured_boot::evidence::snp::{Certificate, CertificateKind};
use measured_boot::evidence::{SnpEvidence, TdxEvidence};
use measured_boot::manifest::{Hex32, Tee};
use measured_boot::reference_values::{Hex48, ReferenceValues, Register, SnpValues, TdxValues};
use measured_boot::verify::snp::Product;
use processor::tdx::Td;
use processor::{Keys, snp, tdx};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

use crate::guest::{Guest, Lines, auth_body, body, pcrs, peer, put, reference_values};

pub(crate) const PRODUCT: Product = Product::Genoa;
pub(crate) const LAUNCH: [u8; 48] = [0x11; 48];
pub(crate) const SNP_KEY: &str = "demo/boot/snp";
pub(crate) const TDX_KEY: &str = "demo/boot/tdx";

/// A development store with image `demo` 1 and 2, platform policy, test roots,
/// a CRL and collateral.
pub(crate) struct Hardware {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) lines: Lines,
    pub(crate) snp: snp::Authority,
    pub(crate) tdx: tdx::Authority,
}

/// MRTD, RTMR1 and RTMR2 of a version; RTMR0 is of the machine.
pub(crate) fn registers(version: u8) -> [[u8; 48]; 4] {
    [[0xd0; 48], [version; 48], [0x22; 48], [0; 48]]
}

pub(crate) fn values(version: u8) -> ReferenceValues {
    let covers = String::new;
    let predicted = |value| Register::Predicted {
        values: vec![Hex48(value)],
        covers: covers(),
    };
    let [mrtd, rtmr1, rtmr2, rtmr3] = registers(version);
    let mut launch = LAUNCH;
    launch[0] = version;
    ReferenceValues {
        tpm: None,
        snp: Some(SnpValues {
            assumptions: vec![],
            firmware: Hex32([0; 32]),
            launch_digests: [(1, Hex48(launch)), (2, Hex48([0x12; 48]))].into(),
        }),
        tdx: Some(TdxValues {
            assumptions: vec![],
            firmware: Hex32([0; 32]),
            mrtd: predicted(mrtd),
            rtmrs: [
                Register::Ignored { reason: covers() },
                predicted(rtmr1),
                predicted(rtmr2),
                predicted(rtmr3),
            ],
            logs: vec![],
        }),
        ..reference_values("demo", version.into(), &pcrs(1))
    }
}

pub(crate) fn policy() -> Value {
    policy_of(PRODUCT)
}

fn policy_of(product: Product) -> Value {
    let minimum = json!({ "bootloader": 10, "tee": 1, "snp": 23, "microcode": 88 });
    let name = product.name();
    json!({ "snp": { "products": [name], "minimum_tcb": { name: minimum } } })
}

impl Hardware {
    pub(crate) fn new() -> Self {
        Self::of(PRODUCT)
    }

    pub(crate) fn of(product: Product) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = InitOptions {
            development: true,
            ..InitOptions::new(vec!["localhost".into()], 30)
        };
        let store = Store::init(&dir.path().join("store"), &options).unwrap();
        for version in [1, 2] {
            let json = values(version).to_json().unwrap();
            store.enroll(&json, false).unwrap();
        }
        put(&store, SNP_KEY, "demo", Tee::Snp);
        put(&store, TDX_KEY, "demo", Tee::Tdx);
        let lines = Lines::default();
        let lifetime = Duration::from_secs(300);
        let log = Log::writer(lines.clone());
        let broker = Broker::new(store.clone(), lifetime, 4096, log).unwrap();
        let site = Self {
            dir,
            store,
            broker,
            lines,
            snp: snp::Authority::new(Keys::Test, product).unwrap(),
            tdx: tdx::Authority::new(Keys::Test).unwrap(),
        };
        site.set_policy(&policy_of(product));
        let ark = site.write("ark.der", site.snp.ark());
        let ask = site.write("ask.der", site.snp.ask());
        let asvk = site.write("asvk.der", site.snp.asvk());
        site.store.trust_snp_root(product, &ark, &ask).unwrap();
        site.store.trust_snp_root(product, &ark, &asvk).unwrap();
        let root = site.write("root.der", site.tdx.root());
        site.store.trust_tdx_root(&root).unwrap();
        let crl = site.snp.crl(&[]).unwrap();
        site.endorse("crl.der", &crl);
        site.collateral(&tdx::Collateral::default());
        site
    }

    /// With a configured folder of endorsements.
    pub(crate) fn with_folder(self, folder: PathBuf) -> Self {
        let broker = self.broker.with_endorsements(Some(folder));
        Self { broker, ..self }
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn set_policy(&self, policy: &Value) {
        let path = self.write("policy.json", policy.to_string().as_bytes());
        self.store.set_platform_policy(&path).unwrap();
    }

    pub(crate) fn endorse(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.write(name, bytes);
        self.store.endorse(&path).unwrap().join("\n")
    }

    pub(crate) fn collateral(&self, says: &tdx::Collateral) {
        let collateral = self.tdx.collateral(says).unwrap();
        self.endorse("collateral.json", collateral.as_bytes());
    }

    /// Takes out what was kept, so that a case begins without it.
    pub(crate) fn forget(&self, extension: &str) {
        let folder = self.dir.path().join("store/endorsements");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension() == Some(Path::new(extension).as_os_str()) {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    pub(crate) fn guest(&self, tee: &str) -> Guest {
        let reply = self.broker.auth(peer(), &auth_body(tee));
        assert_eq!(reply.status, 200, "{}", self.lines.text());
        let cookie = reply.cookie.unwrap();
        let id = cookie.strip_prefix("kbs-session-id=").unwrap();
        Guest::new(&id[..32], body(&reply.body)["nonce"].as_str().unwrap())
    }

    /// A report of version 2 of the image, as it should be but for `change`.
    pub(crate) fn report(&self, guest: &Guest, change: impl Fn(&mut snp::Report)) -> snp::Report {
        let mut report = snp::Report::new(self.snp.product());
        report.measurement = LAUNCH;
        report.measurement[0] = 2;
        report.report_data[..48].copy_from_slice(&guest.report_data().0);
        getrandom::fill(&mut report.report_id).unwrap();
        change(&mut report);
        report
    }

    /// Attests in a new session with a changed report and its own certificate.
    pub(crate) fn attest_snp(&self, change: impl Fn(&mut snp::Report)) -> (Guest, Reply) {
        let guest = self.guest("snp");
        let report = self.report(&guest, change);
        let vek = report.vek(&self.snp).unwrap();
        let reply = self.send_snp(&guest, report.sign(&self.snp).unwrap(), Some(vek));
        (guest, reply)
    }

    pub(crate) fn send_snp(
        &self,
        guest: &Guest,
        report: [u8; 1184],
        vek: Option<Vec<u8>>,
    ) -> Reply {
        self.send_body(guest, &self.snp_body(guest, report, vek))
    }

    pub(crate) fn snp_body(
        &self,
        guest: &Guest,
        report: [u8; 1184],
        vek: Option<Vec<u8>>,
    ) -> Value {
        let kind = CertificateKind::Vcek;
        let certificates = vek.map(|der| Certificate { kind, der });
        let evidence = SnpEvidence {
            report,
            certificates: certificates.into_iter().collect(),
        };
        guest.body_of(&evidence.to_evidence().json)
    }

    /// Attests in a new session with a changed quote.
    pub(crate) fn attest_tdx(&self, change: impl Fn(&mut Td)) -> (Guest, Reply) {
        let guest = self.guest("tdx");
        let quote = self.tdx.quote(&self.td(&guest, change)).unwrap();
        let reply = self.send_tdx(&guest, quote, None);
        (guest, reply)
    }

    pub(crate) fn td(&self, guest: &Guest, change: impl Fn(&mut Td)) -> Td {
        let [mrtd, rtmr1, rtmr2, rtmr3] = registers(2);
        let mut td = Td {
            mrtd,
            rtmrs: [[0xaa; 48], rtmr1, rtmr2, rtmr3],
            ..Td::default()
        };
        td.report_data[..48].copy_from_slice(&guest.report_data().0);
        change(&mut td);
        td
    }

    pub(crate) fn send_tdx(&self, guest: &Guest, quote: Vec<u8>, log: Option<Vec<u8>>) -> Reply {
        let evidence = TdxEvidence {
            quote,
            event_log: log,
        };
        self.send_body(guest, &guest.body_of(&evidence.to_evidence().json))
    }

    pub(crate) fn send_body(&self, guest: &Guest, body: &Value) -> Reply {
        let body = serde_json::to_vec(body).unwrap();
        self.broker.attest(peer(), Some(&guest.id), &body)
    }

    pub(crate) fn fetch(&self, guest: &Guest, path: &str) -> Reply {
        self.broker.resource(peer(), Some(&guest.id), None, path)
    }

    #[track_caller]
    pub(crate) fn granted(&self, reply: &Reply) {
        assert_eq!(reply.status, 200, "{}", self.lines.last());
        let line = self.lines.last();
        let checks = line["checks"].as_array().unwrap();
        assert!(checks.iter().all(|check| check["ok"] == true), "{line}");
    }

    /// Asserts a refusal, and that the log says which checks failed.
    #[track_caller]
    pub(crate) fn refused(&self, reply: &Reply, code: &str, failed: &[&str]) {
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(reply.status >= 400, "{code}: got {}", self.lines.last());
        let line = self.lines.last();
        assert!(text.contains(&format!("{code}:")), "{code}: got {line}");
        assert_eq!(
            (&line["code"], &line["decision"]),
            (&json!(code), &json!("refuse"))
        );
        let checks = line["checks"].as_array().unwrap().iter();
        let wrong = checks.filter(|check| check["ok"] == false);
        let wrong: Vec<_> = wrong
            .map(|check| check["check"].as_str().unwrap())
            .collect();
        assert_eq!(wrong, failed, "{line}");
    }
}
