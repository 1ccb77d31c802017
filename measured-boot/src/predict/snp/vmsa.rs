//! The registers of a vCPU at reset, as the VMM hands them to the secure
//! processor: the VM save area (AMD64 Architecture Programmer's Manual volume
//! 2, table B-4), of which only the fields below are not zero.

use super::{PAGE, Vmm};

/// Where the first vCPU starts: the reset vector.
pub(super) const FIRST_EIP: u32 = 0xffff_fff0;

const REAL_MODE_LIMIT: u32 = 0xffff;
const REAL_MODE_DATA: u16 = 0x93;
/// EC2 leaves CPUID to the guest: RDX is what a 386 has there after reset.
const RDX_AFTER_RESET: u64 = 0x600;
const PAT_AFTER_RESET: u64 = 0x0007_0406_0007_0406;

/// What VMMs disagree on.
struct Start {
    /// Attributes of the code segment.
    cs: u16,
    /// Attributes of the stack segment.
    ss: u16,
    /// Attributes of the task register.
    tr: u16,
    rdx: u64,
    pat: u64,
    mxcsr: u32,
    x87_control: u16,
}

impl Start {
    fn new(vmm: Vmm, eip: u32) -> Self {
        let accessed = Self {
            cs: 0x9b,
            ss: 0x93,
            tr: 0x8b,
            rdx: 0,
            pat: PAT_AFTER_RESET,
            mxcsr: 0,
            x87_control: 0,
        };
        // Segments as a VMM without KVM's fix-ups sets them: not yet accessed.
        let fresh = Self {
            cs: 0x9a,
            ss: 0x92,
            tr: 0x83,
            ..accessed
        };
        let fresh_first = Self {
            cs: if eip == FIRST_EIP { 0x9a } else { 0x9b },
            ..fresh
        };
        match vmm {
            Vmm::Qemu(cpu) => Self {
                rdx: u64::from(cpu.signature()),
                mxcsr: 0x1f80,
                x87_control: 0x37f,
                ..accessed
            },
            Vmm::Ec2 => Self {
                rdx: RDX_AFTER_RESET,
                ..fresh_first
            },
            Vmm::Ec2RdxZero => fresh_first,
            Vmm::Gce => Self {
                rdx: RDX_AFTER_RESET,
                pat: 0x0007_0106,
                ..accessed
            },
            Vmm::Krun => fresh,
        }
    }
}

/// The save area of a vCPU that starts at `eip`.
pub(super) fn page(vmm: Vmm, sev_features: u64, eip: u32) -> [u8; PAGE] {
    let start = Start::new(vmm, eip);
    let base = u64::from(eip & 0xffff_0000);
    let limit = REAL_MODE_LIMIT;
    let mut area = SaveArea([0; PAGE]);
    area.segment(0x00, 0, REAL_MODE_DATA, limit, 0); // es
    area.segment(0x10, 0xf000, start.cs, limit, base);
    area.segment(0x20, 0, start.ss, limit, 0);
    area.segment(0x30, 0, REAL_MODE_DATA, limit, 0); // ds
    area.segment(0x40, 0, REAL_MODE_DATA, limit, 0); // fs
    area.segment(0x50, 0, REAL_MODE_DATA, limit, 0); // gs
    area.segment(0x60, 0, 0, limit, 0); // gdtr
    area.segment(0x70, 0, 0x82, limit, 0); // ldtr
    area.segment(0x80, 0, 0, limit, 0); // idtr
    area.segment(0x90, 0, start.tr, limit, 0);
    area.put(0x0d0, 0x1000u64.to_le_bytes()); // efer: SVME, by KVM
    area.put(0x148, 0x40u64.to_le_bytes()); // cr4: MCE, by KVM
    area.put(0x158, 0x10u64.to_le_bytes()); // cr0: ET
    area.put(0x160, 0x400u64.to_le_bytes()); // dr7
    area.put(0x168, 0xffff_0ff0u64.to_le_bytes()); // dr6
    area.put(0x170, 2u64.to_le_bytes()); // rflags
    area.put(0x178, u64::from(eip & 0xffff).to_le_bytes()); // rip
    area.put(0x268, start.pat.to_le_bytes());
    area.put(0x310, start.rdx.to_le_bytes());
    area.put(0x3b0, sev_features.to_le_bytes());
    area.put(0x3e8, 1u64.to_le_bytes()); // xcr0
    area.put(0x408, start.mxcsr.to_le_bytes());
    area.put(0x410, start.x87_control.to_le_bytes());
    area.0
}

struct SaveArea([u8; PAGE]);

impl SaveArea {
    fn segment(&mut self, offset: usize, selector: u16, attributes: u16, limit: u32, base: u64) {
        let bytes = selector
            .to_le_bytes()
            .into_iter()
            .chain(attributes.to_le_bytes())
            .chain(limit.to_le_bytes())
            .chain(base.to_le_bytes());
        self.put(offset, bytes);
    }

    fn put(&mut self, offset: usize, bytes: impl IntoIterator<Item = u8>) {
        for (byte, value) in self.0.iter_mut().skip(offset).zip(bytes) {
            *byte = value;
        }
    }
}
