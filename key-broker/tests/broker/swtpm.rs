//! A real software TPM: its key read before use, its quote appraised.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use measured_boot::evidence::tpm::TpmEvidence;
use measured_boot::tpm::{self, LATCH_EVENT, LATCH_PCR, Transport};
use sha2::{Digest, Sha256};

use crate::guest::{Guest, KEY, SECRET, Site, reference_values};

struct Running {
    socket: UnixStream,
    _process: Process,
}

struct Process(Child);

impl Running {
    fn start(state: &Path) -> Self {
        let socket = state.join("data");
        drop(std::fs::remove_file(&socket));
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags=not-need-init,startup-clear"])
            .arg(format!("--tpmstate=dir={}", state.display()))
            .arg(format!("--server=type=unixio,path={}", socket.display()))
            .arg(format!(
                "--ctrl=type=unixio,path={}",
                state.join("ctrl").display()
            ))
            .spawn()
            .map(Process)
            .expect("swtpm is installed");
        for _ in 0..500 {
            if let Ok(socket) = UnixStream::connect(&socket) {
                return Self {
                    socket,
                    _process: process,
                };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("swtpm does not listen");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Transport for Running {
    type Error = std::io::Error;

    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, Self::Error> {
        self.socket.write_all(command)?;
        let mut answer = vec![0; 4096];
        let length = self.socket.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }
}

fn evidence(tpm: &mut Running, guest: &Guest) -> TpmEvidence {
    let ak = tpm::create_ak(tpm).unwrap();
    let quote = tpm::quote(tpm, &ak, guest.report_data().qualifying_data()).unwrap();
    let ak_public = ak.public_der.clone();
    tpm::flush(tpm, ak).unwrap();
    TpmEvidence { quote, ak_public }
}

#[test]
fn a_real_tpm_gets_its_key_once_per_boot() {
    let site = Site::new();
    let state = site.dir.path().join("tpm");
    std::fs::create_dir(&state).unwrap();
    let setup = Command::new("swtpm_setup")
        .args(["--tpm2", "--tpmstate"])
        .arg(&state)
        .output()
        .expect("swtpm_setup is installed");
    assert!(setup.status.success());

    let mut tpm = Running::start(&state);
    let pcrs = tpm::read_pcrs(&mut tpm).unwrap();
    let values = reference_values("demo", 3, &pcrs).to_json().unwrap();
    site.store.enroll(&values, false).unwrap();
    let guest = site.guest();
    let body = guest.attest_body(&evidence(&mut tpm, &guest));
    site.refused(&site.send(&guest, &body), "R_AK_UNKNOWN");
    drop(tpm);

    // Enrolled from its state, while it is off.
    let enroll = Command::new(env!("CARGO_BIN_EXE_key-broker"))
        .arg("enroll-tpm")
        .arg(site.dir.path().join("store"))
        .arg("--swtpm-state")
        .arg(&state)
        .output()
        .unwrap();
    assert!(
        enroll.status.success(),
        "{}",
        String::from_utf8_lossy(&enroll.stderr)
    );

    let mut tpm = Running::start(&state);
    let (guest, second) = (site.guest(), site.guest());
    let body = guest.attest_body(&evidence(&mut tpm, &guest));
    assert_eq!(
        site.send(&guest, &body).status,
        200,
        "{}",
        site.lines.text()
    );
    assert_eq!(guest.decrypt(&site.fetch(&guest, KEY).body), SECRET);

    // The same boot again: by the broker's latch, then by the TPM's.
    let body = second.attest_body(&evidence(&mut tpm, &second));
    site.refused(&site.send(&second, &body), "R_BOOT_LATCHED");
    assert_eq!(
        site.lines.last()["checks"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()["check"],
        "boot"
    );
    tpm::extend(&mut tpm, LATCH_PCR, &Sha256::digest(LATCH_EVENT).into()).unwrap();
    let third = site.guest();
    let body = third.attest_body(&evidence(&mut tpm, &third));
    site.refused(&site.send(&third, &body), "R_BOOT_LATCHED");
    let detail = site.lines.last()["detail"].as_str().unwrap().to_owned();
    assert!(detail.ends_with(": PCR 15"), "{detail}");
    drop(tpm);

    // A reboot.
    let mut tpm = Running::start(&state);
    let guest = site.guest();
    let body = guest.attest_body(&evidence(&mut tpm, &guest));
    assert_eq!(
        site.send(&guest, &body).status,
        200,
        "{}",
        site.lines.text()
    );
    assert_eq!(guest.decrypt(&site.fetch(&guest, KEY).body), SECRET);
}
