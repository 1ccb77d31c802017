//! The server's protocol and its measurements, without a guest.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use measured_boot::event_log::{self, Algorithm, Tcb};
use measured_boot::verify::snp::Product;

use super::{Boot, Processor, Snp, Tdx, write_firmware};
use crate::{Keys, snp, tdx};

/// A PE image with a setup header of boot protocol 2.15, as QEMU and OVMF want it.
fn kernel() -> Vec<u8> {
    let mut image = vec![0; 0x1400];
    image[..2].copy_from_slice(b"MZ");
    image[0x3c..0x40].copy_from_slice(&0x240u32.to_le_bytes());
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x211] = 1;
    image[0x236] = 2;
    let pe = &mut image[0x240..];
    pe[..4].copy_from_slice(b"PE\0\0");
    pe[4..6].copy_from_slice(&0x8664u16.to_le_bytes());
    pe[20..22].copy_from_slice(&240u16.to_le_bytes());
    pe[22..24].copy_from_slice(&0x206u16.to_le_bytes());
    let optional = &mut pe[24..];
    optional[..2].copy_from_slice(&0x20bu16.to_le_bytes());
    optional[32..36].copy_from_slice(&0x1000u32.to_le_bytes());
    optional[36..40].copy_from_slice(&0x200u32.to_le_bytes());
    optional[56..60].copy_from_slice(&0x2000u32.to_le_bytes());
    optional[60..64].copy_from_slice(&0x400u32.to_le_bytes());
    optional[108..112].copy_from_slice(&16u32.to_le_bytes());
    image
}

fn boot(folder: &Path) -> Boot {
    let file = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    Boot {
        firmware: write_firmware(folder).unwrap(),
        kernel: file("kernel", &kernel()),
        initrd: file("initrd", b"an initrd"),
        cmdline: "console=ttyS0".into(),
        memory: 1024,
        vcpus: 1,
    }
}

struct Guest(UnixStream);

impl Guest {
    fn connect(processor: &Processor) -> Self {
        Self(UnixStream::connect(processor.socket()).unwrap())
    }

    fn hello(&mut self, name: &str) {
        self.0.write_all(b"\x1b[2J noise EMUTEMUTSM0\n").unwrap();
        let mut answer = vec![0; name.len()];
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!(answer, name.as_bytes());
    }

    fn blob(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut blob = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut blob).unwrap();
        blob
    }

    fn report(&mut self, report_data: [u8; 64]) -> (Vec<u8>, Vec<u8>) {
        self.0.write_all(b"EMUTSM1\n\x40\0\0\0").unwrap();
        self.0.write_all(&report_data).unwrap();
        (self.blob(), self.blob())
    }
}

#[test]
fn each_launch_has_a_report_id_and_the_digest_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let boot = boot(folder.path());
    let authority = snp::Authority::new(Keys::Test, Product::Genoa).unwrap();
    let snp = Snp::new(authority, |report| report.vmpl = 2);
    let processor = Processor::start(boot.clone(), snp).unwrap();
    let digest = boot.launch_digest(Snp::cpu(Product::Genoa)).unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut guest = Guest::connect(&processor);
        guest.hello("sev_guest\n");
        let (first, table) = guest.report([1; 64]);
        let (second, _) = guest.report([2; 64]);
        assert_eq!(first.len(), 1184);
        assert_eq!(first[0x50..0x90], [1; 64]);
        assert_eq!(second[0x50..0x90], [2; 64]);
        assert_eq!(first[0x90..0xc0], digest);
        assert_eq!(first[0x30], 2);
        assert_eq!(first[0x140..0x160], second[0x140..0x160]);
        assert!(table.len() > 1000);
        ids.push(first[0x140..0x160].to_vec());
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(processor.requests().len(), 4);
    // As in hardware, what the guest was given before its launch counts.
    fs::write(&boot.initrd, b"another initrd").unwrap();
    let mut guest = Guest::connect(&processor);
    guest.hello("sev_guest\n");
    assert_ne!(guest.report([1; 64]).0[0x90..0xc0], digest);
    assert!(processor.errors().is_empty());
}

#[test]
fn every_file_changes_the_digest_and_the_registers() {
    let folder = tempfile::tempdir().unwrap();
    let original = boot(folder.path());
    let measure = |boot: &Boot| {
        let digest = boot.launch_digest(Snp::cpu(Product::Milan)).unwrap();
        (digest, boot.td_registers().unwrap())
    };
    let (digest, registers) = measure(&original);
    let changed = |boot: &Boot| {
        let (other, others) = measure(boot);
        assert_ne!(other, digest);
        let pairs = others.rtmrs.iter().zip(&registers.rtmrs);
        let mut changed = vec![others.mrtd != registers.mrtd];
        changed.extend(pairs.map(|(other, one)| other != one));
        changed
    };
    let mut boot = original.clone();
    boot.cmdline.push('x');
    assert_eq!(changed(&boot), [false, false, false, true, false]);
    let mut boot = original.clone();
    boot.initrd = folder.path().join("other");
    fs::write(&boot.initrd, b"another").unwrap();
    assert_eq!(changed(&boot), [false, false, false, true, false]);
    let mut boot = original.clone();
    boot.kernel = folder.path().join("other-kernel");
    let mut kernel = kernel();
    kernel[0x1000] ^= 1;
    fs::write(&boot.kernel, kernel).unwrap();
    assert_eq!(changed(&boot), [false, false, true, false, false]);
}

#[test]
fn a_tds_log_replays_to_its_quoted_registers() {
    let folder = tempfile::tempdir().unwrap();
    let boot = boot(folder.path());
    let registers = boot.td_registers().unwrap();
    let log = event_log::parse(&registers.log).unwrap();
    let banks = log.replay(Tcb::Tdx).unwrap();
    let bank = banks
        .iter()
        .find(|bank| bank.algorithm == Algorithm::Sha384);
    for (register, rtmr) in (1u32..).zip(&registers.rtmrs[..3]) {
        assert_eq!(
            bank.unwrap().registers[&register],
            rtmr,
            "RTMR{}",
            register - 1
        );
    }
    assert_eq!(registers.rtmrs[3], [0; 48]);

    let authority = tdx::Authority::new(Keys::Test).unwrap();
    let processor = Processor::start(boot, Tdx::new(authority, |_| {})).unwrap();
    let mut guest = Guest::connect(&processor);
    guest.hello("tdx_guest\n");
    let (quote, added) = guest.report([3; 64]);
    assert!(added.is_empty());
    let quote = dcap_qvl::quote::Quote::parse(&quote).unwrap();
    let td = quote.report.as_td10().unwrap();
    assert_eq!(td.mr_td, registers.mrtd);
    assert_eq!(
        [td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3],
        registers.rtmrs
    );
    assert_eq!(td.report_data, [3; 64]);
}
