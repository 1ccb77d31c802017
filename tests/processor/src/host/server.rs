//! The other end of the guest's second serial port.
//!
//! Numbers have 32 bits, little-endian. Once, when its kernel starts, the guest
//! sends `EMUTSM0\n` and is told the driver's name and a newline. For each
//! report it sends `EMUTSM1\n`, the length of the report data and the data, and
//! is answered by length and report, length and what the host adds. Firmware
//! may use the port as a console: what is no magic is passed over.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{Boot, Tee};

const HELLO: [u8; 8] = *b"EMUTSM0\n";
const REQUEST: [u8; 8] = *b"EMUTSM1\n";
/// Log area: a multiple of pages, more than any log of ours.
const LOG_AREA: u64 = 1 << 16;
/// Memory that the log area lies in, above all other.
const LOG_MEMORY: u64 = 2 << 20;
const LOG_ADDRESS: u64 = 4 << 30;
/// `CCEL`: the type of a TD.
const CC_TYPE_TDX: u8 = 2;

/// Emulates a processor until it is dropped. Each connection of QEMU is a launch.
#[derive(Debug)]
pub struct Processor {
    folder: TempDir,
    arguments: Vec<OsString>,
    state: Arc<State>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stopping: AtomicBool,
    guest: Mutex<Option<UnixStream>>,
    requests: Mutex<Vec<[u8; 64]>>,
    errors: Mutex<Vec<String>>,
}

impl Processor {
    /// Starts to wait for QEMU.
    ///
    /// # Errors
    /// The files cannot be read, or the socket not be made.
    pub fn start(boot: Boot, tee: impl Tee + 'static) -> Result<Self> {
        // In /tmp: a socket's name has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("anchorhold-processor-")
            .tempdir_in("/tmp")?;
        let socket = folder.path().join("tsm.sock");
        let mut arguments = boot.hash_table_arguments(folder.path())?;
        let mut chardev = OsString::from("socket,id=tsm,path=");
        chardev.push(&socket);
        arguments.extend(["-chardev".into(), chardev]);
        arguments.extend(["-device".into(), "isa-serial,chardev=tsm,index=1".into()]);
        if tee.name() == "tdx_guest" {
            let log = boot.td_registers()?.log;
            arguments.extend(event_log_arguments(&log, boot.memory, folder.path())?);
        }
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let state = Arc::new(State::default());
        let served = Arc::clone(&state);
        let server = thread::spawn(move || served.serve(&listener, &boot, tee));
        Ok(Self {
            folder,
            arguments,
            state,
            server: Some(server),
        })
    }

    /// What QEMU is given besides firmware, kernel, initrd and command line.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// The report data of every report so far.
    pub fn requests(&self) -> Vec<[u8; 64]> {
        lock(&self.state.requests).clone()
    }

    /// What went wrong, if anything.
    pub fn errors(&self) -> Vec<String> {
        lock(&self.state.errors).clone()
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("tsm.sock")
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        if let Some(guest) = lock(&self.state.guest).take() {
            guest.shutdown(std::net::Shutdown::Both).ok();
        }
        // Wakes a server that waits for a guest.
        UnixStream::connect(self.socket()).ok();
        if let Some(server) = self.server.take() {
            server.join().ok();
        }
    }
}

impl State {
    fn serve(&self, listener: &UnixListener, boot: &Boot, mut tee: impl Tee) {
        for guest in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let served = guest.map_err(Into::into).and_then(|guest| {
                *lock(&self.guest) = Some(guest.try_clone()?);
                tee.launch(boot)?;
                self.answer(guest, &mut tee)
            });
            if let Err(error) = served {
                lock(&self.errors).push(format!("{error:#}"));
            }
        }
    }

    /// Answers one guest until it ends.
    fn answer(&self, mut guest: UnixStream, tee: &mut impl Tee) -> Result<()> {
        let mut window = [0; 8];
        loop {
            let mut byte = [0];
            match guest.read(&mut byte) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                read => read.context("cannot read from the guest")?,
            };
            window.rotate_left(1);
            if let Some(last) = window.last_mut() {
                [*last] = byte;
            }
            if window == HELLO {
                writeln!(guest, "{}", tee.name())?;
            } else if window == REQUEST {
                let mut length = [0; 4];
                guest.read_exact(&mut length)?;
                let length = u32::from_le_bytes(length);
                ensure!(
                    length == 64,
                    "got report data of {length} bytes, expected 64"
                );
                let mut report_data = [0; 64];
                guest.read_exact(&mut report_data)?;
                lock(&self.requests).push(report_data);
                let (report, added) = tee.report(report_data)?;
                // The driver takes no bytes for "busy", and asks for nothing more.
                let added = (!report.is_empty()).then_some(added);
                for blob in [Some(report), added].into_iter().flatten() {
                    guest.write_all(&u32::try_from(blob.len())?.to_le_bytes())?;
                    guest.write_all(&blob)?;
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log in memory behind all other, and the ACPI table that tells of it
/// ("ACPI Specification" 6.5, section 5.2.34).
fn event_log_arguments(log: &[u8], memory: u32, folder: &Path) -> Result<Vec<OsString>> {
    let mut area = log.to_vec();
    ensure!(
        u64::try_from(area.len())? <= LOG_AREA,
        "got a log of {} bytes, expected at most {LOG_AREA}",
        area.len()
    );
    area.resize(usize::try_from(LOG_AREA)?, 0xff);
    area.resize(usize::try_from(LOG_MEMORY)?, 0);
    let area_file = folder.join("event-log");
    fs::write(&area_file, area)?;
    let mut table = vec![CC_TYPE_TDX, 0, 0, 0];
    table.extend(LOG_AREA.to_le_bytes());
    table.extend(LOG_ADDRESS.to_le_bytes());
    let table_file = folder.join("ccel");
    fs::write(&table_file, table)?;

    let mut backend = OsString::from(format!(
        "memory-backend-file,id=log,share=off,size={LOG_MEMORY},mem-path="
    ));
    backend.push(&area_file);
    let mut acpi = OsString::from("sig=CCEL,rev=1,data=");
    acpi.push(&table_file);
    Ok(vec![
        "-m".into(),
        format!("{memory},slots=1,maxmem=8G").into(),
        "-object".into(),
        backend,
        "-device".into(),
        format!("pc-dimm,id=logmem,memdev=log,addr={LOG_ADDRESS:#x}").into(),
        "-acpitable".into(),
        acpi,
    ])
}
