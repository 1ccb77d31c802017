//! The machine while it runs, until its outcome is known.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::console::{Console, Line, printable};
use super::machine::{Error, Machine, Show, host};
use super::outcome::Outcome;
use super::process::Process;
use super::qmp::Qmp;
use super::tpm::Swtpm;

/// Most that is kept of QEMU's own messages.
const MAX_MESSAGES: u64 = 64 * 1024;

/// What the threads beside the main one have to say.
#[derive(Debug)]
enum Event {
    Bytes(Vec<u8>),
    Closed,
    Interrupt,
}

/// Why nothing more comes from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// QEMU closed the console.
    Closed,
    /// The deadline passed.
    Deadline,
    /// The user asked twice.
    Killed,
}

/// A machine that has started. Dropping it ends QEMU and the TPM.
#[derive(Debug)]
pub struct Running {
    qemu: Process,
    tpm: Option<Swtpm>,
    events: Receiver<Event>,
    sender: SyncSender<Event>,
    messages: Option<JoinHandle<String>>,
    console: Console,
    unread: VecDeque<Line>,
    serial_log: Option<File>,
    show: Show,
    started: Instant,
    deadline: Option<Instant>,
    interrupted: bool,
    end: Option<End>,
    accel: &'static str,
    control: PathBuf,
    /// Sockets and variables; goes last, after the processes that use it.
    _scratch: TempDir,
}

/// Presses the power button of a running machine; the second time, kills it.
#[derive(Clone, Debug)]
pub struct Interrupt(SyncSender<Event>);

impl Interrupt {
    /// Asks once more. Says whether the machine was still there.
    pub fn send(&self) -> bool {
        self.0.send(Event::Interrupt).is_ok()
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Everything on the console.
    pub log: Vec<u8>,
    /// Whether the log was longer than is kept.
    pub truncated: bool,
    /// QEMU's name of the accelerator.
    pub accel: &'static str,
    /// From start to end.
    pub duration: Duration,
}

impl Report {
    /// The console as lines of printable text, as a terminal would show them.
    pub fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.log);
        text.lines()
            .map(|line| printable(line.trim_end_matches('\r')))
            .collect()
    }
}

impl Running {
    pub(super) fn new(
        machine: &Machine,
        accel: &'static str,
        mut qemu: Process,
        tpm: Option<Swtpm>,
        serial_log: Option<File>,
        control: PathBuf,
        scratch: TempDir,
    ) -> Result<Self, Error> {
        let no_pipe = || host("read QEMU's output")(io::ErrorKind::BrokenPipe.into());
        let serial = qemu.child().stdout.take().ok_or_else(no_pipe)?;
        let stderr = qemu.child().stderr.take().ok_or_else(no_pipe)?;
        let (sender, events) = mpsc::sync_channel(64);
        let bytes = sender.clone();
        std::thread::spawn(move || forward(serial, &bytes));
        let started = Instant::now();
        Ok(Self {
            qemu,
            tpm,
            events,
            sender,
            messages: Some(std::thread::spawn(move || collect(stderr))),
            console: Console::default(),
            unread: VecDeque::new(),
            serial_log,
            show: machine.show,
            started,
            deadline: machine
                .deadline
                .and_then(|after| started.checked_add(after)),
            interrupted: false,
            end: None,
            accel,
            control,
            _scratch: scratch,
        })
    }

    /// Waits for a line that contains `text`, and returns it. Each line is
    /// looked at once, so a second call finds the next one.
    ///
    /// # Errors
    /// The machine ended, or its deadline passed.
    pub fn wait_for(&mut self, text: &str) -> Result<String, Error> {
        loop {
            while let Some(line) = self.unread.pop_front() {
                if line.text.contains(text) {
                    return Ok(line.text);
                }
            }
            if !self.advance() && self.unread.is_empty() {
                return Err(Error::Ended { text: text.into() });
            }
        }
    }

    /// Runs one command of QEMU's control protocol; `Value::Null` for no arguments.
    ///
    /// # Errors
    /// QEMU is gone or refuses.
    pub fn control(&self, command: &str, arguments: &Value) -> Result<Value, Error> {
        Qmp::connect(&self.control)
            .and_then(|mut qmp| qmp.execute(command, arguments))
            .map_err(host(format!("run {command} in QEMU")))
    }

    /// Types on the console of a machine with [`super::Machine::serial_input`].
    ///
    /// # Errors
    /// The machine is gone, or has no such console.
    pub fn type_on_console(&mut self, bytes: &[u8]) -> Result<(), Error> {
        use std::io::Write as _;
        let no_console = || io::ErrorKind::BrokenPipe.into();
        let input = self.qemu.child().stdin.as_mut().ok_or_else(no_console);
        input
            .and_then(|input| input.write_all(bytes).and_then(|()| input.flush()))
            .map_err(host("type on the console"))
    }

    /// A handle for other threads.
    pub fn interrupt(&self) -> Interrupt {
        Interrupt(self.sender.clone())
    }

    /// Process id of QEMU.
    pub fn qemu_pid(&mut self) -> u32 {
        self.qemu.child().id()
    }

    /// Waits for the end and says how it came.
    pub fn wait(mut self) -> Report {
        while self.advance() {
            self.unread.clear();
        }
        let status = match self.end {
            // A machine that closed its console is as good as gone; QEMU writes
            // back its disks first.
            Some(End::Closed) => self.qemu.wait(),
            _ => {
                self.qemu.kill();
                self.drain();
                self.qemu.wait()
            }
        };
        if let Some(line) = self.console.finish() {
            self.present(&line);
        }
        let messages = self.messages.take().and_then(|thread| thread.join().ok());
        if let Some(tpm) = self.tpm.take() {
            tpm.finish();
        }
        let said = self.console.end().cloned();
        let outcome = classify(said, self.end, status, messages.unwrap_or_default().trim());
        let (log, truncated) = std::mem::take(&mut self.console).into_log();
        Report {
            outcome,
            log,
            truncated,
            accel: self.accel,
            duration: self.started.elapsed(),
        }
    }

    /// Takes the next event; false when none will come.
    fn advance(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        let event = match self.deadline {
            None => self.events.recv().unwrap_or(Event::Closed),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                match self.events.recv_timeout(left) {
                    Ok(event) if !left.is_zero() => event,
                    _ => {
                        self.end = Some(End::Deadline);
                        return false;
                    }
                }
            }
        };
        match event {
            Event::Bytes(bytes) => self.take(&bytes),
            Event::Closed => self.end = Some(End::Closed),
            Event::Interrupt if self.interrupted => self.end = Some(End::Killed),
            Event::Interrupt => self.press_power_button(),
        }
        self.end.is_none()
    }

    fn press_power_button(&mut self) {
        self.interrupted = true;
        match self.control("system_powerdown", &Value::Null) {
            Ok(_) => self.note("power button pressed; interrupt again to kill the machine"),
            Err(error) => self.note(&error.to_string()),
        }
    }

    fn note(&self, text: &str) {
        if self.show != Show::Nowhere {
            drop(writeln!(io::stderr(), "image-build: {text}"));
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.serial_log
            && let Err(error) = log.write_all(bytes)
        {
            self.serial_log = None;
            self.note(&format!("cannot write the serial log: {error}"));
        }
        for line in self.console.feed(bytes) {
            self.present(&line);
            self.unread.push_back(line);
        }
    }

    /// What the guest wrote before it was killed.
    fn drain(&mut self) {
        let patience = Duration::from_secs(2);
        while let Ok(event) = self.events.recv_timeout(patience) {
            match event {
                Event::Bytes(bytes) => self.take(&bytes),
                Event::Closed => return,
                Event::Interrupt => {}
            }
        }
    }

    /// Shows a line. A terminal that went away must not end the machine.
    fn present(&self, line: &Line) {
        let text = printable(&line.text);
        match self.show {
            // Firmware clears the screen, which leaves nothing to show.
            _ if text.is_empty() => {}
            Show::Nowhere => {}
            Show::Stdout => drop(writeln!(io::stdout(), "{text}")),
            Show::Stderr => drop(writeln!(io::stderr(), "{text}")),
        }
    }
}

/// A promise of init's is that the machine powers off, so a deadline that
/// passes counts even after last words.
fn classify(
    said: Option<Outcome>,
    end: Option<End>,
    status: io::Result<ExitStatus>,
    messages: &str,
) -> Outcome {
    match (said, end, status) {
        (_, Some(End::Deadline), _) => Outcome::Timeout,
        (Some(outcome), ..) => outcome,
        (None, Some(End::Killed), _) => Outcome::NoReport,
        (None, _, Ok(status)) if status.success() => Outcome::NoReport,
        (None, _, Ok(status)) => Outcome::Launch {
            cause: format!("QEMU ended with {status}: {messages}"),
        },
        (None, _, Err(error)) => Outcome::Launch {
            cause: format!("cannot wait for QEMU: {error}"),
        },
    }
}

/// Hands the console on until QEMU closes it.
fn forward(mut serial: impl Read, events: &SyncSender<Event>) {
    let mut buffer = [0; 4096];
    loop {
        match serial.read(&mut buffer) {
            Ok(length) if length > 0 => {
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                if events.send(Event::Bytes(bytes)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => {
                drop(events.send(Event::Closed));
                return;
            }
        }
    }
}

/// QEMU's own messages: the beginning, and the rest read so that it never blocks.
fn collect(mut stderr: impl Read) -> String {
    let mut bytes = Vec::new();
    drop(stderr.by_ref().take(MAX_MESSAGES).read_to_end(&mut bytes));
    drop(io::copy(&mut stderr, &mut io::sink()));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{End, Outcome, classify};
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    fn status(code: i32) -> std::io::Result<ExitStatus> {
        Ok(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn deadline_counts_even_after_last_words() {
        let said = Some(Outcome::Exited { status: 0 });
        let outcome = classify(said, Some(End::Deadline), status(0), "");
        assert_eq!(outcome, Outcome::Timeout);
    }

    #[test]
    fn last_words_count_whatever_qemu_says() {
        for code in [0, 1] {
            let said = Some(Outcome::Exited { status: 7 });
            let outcome = classify(said, Some(End::Closed), status(code), "x");
            assert_eq!(outcome, Outcome::Exited { status: 7 });
        }
    }

    #[test]
    fn silence_is_no_report_unless_qemu_failed() {
        let silent = |end, code| classify(None, Some(end), status(code), "bad option");
        assert_eq!(silent(End::Closed, 0), Outcome::NoReport);
        assert_eq!(silent(End::Killed, 1), Outcome::NoReport);
        let Outcome::Launch { cause } = silent(End::Closed, 1) else {
            panic!("not a launch failure");
        };
        assert!(cause.contains("bad option"), "{cause}");
    }
}
