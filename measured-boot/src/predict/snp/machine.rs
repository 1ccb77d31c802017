//! What the host decides: VMM, vCPUs, guest features.

use core::fmt;
use core::str::FromStr;

/// Most vCPUs that are predicted for.
pub const MAX_VCPUS: u32 = 1024;

/// The machine that the host makes. Every field changes the launch digest, and
/// no file tells any of them, so there is no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Who launches the guest.
    pub vmm: Vmm,
    /// `SEV_FEATURES` of every vCPU.
    pub features: GuestFeatures,
    vcpus: u32,
}

impl Machine {
    /// Describes a machine.
    ///
    /// # Errors
    /// No vCPU, or more than [`MAX_VCPUS`].
    pub fn new(vmm: Vmm, vcpus: u32, features: GuestFeatures) -> Result<Self, MachineError> {
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(MachineError::Vcpus { got: vcpus });
        }
        Ok(Self {
            vmm,
            features,
            vcpus,
        })
    }

    /// Number of vCPUs.
    pub fn vcpus(&self) -> u32 {
        self.vcpus
    }
}

/// Who launches the guest: their order of pages, and the registers they start
/// a vCPU with, differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vmm {
    /// QEMU with KVM. The vCPU's CPUID signature is in its RDX.
    Qemu(CpuType),
    /// Amazon EC2, as `sev-snp-measure` 0.0.13 and later have it.
    Ec2,
    /// Amazon EC2, with RDX zero: `sev-snp-measure` up to 0.0.12, and the `sev` crate.
    Ec2RdxZero,
    /// Google Compute Engine.
    Gce,
    /// libkrun, as the `sev` crate has it.
    Krun,
}

impl Vmm {
    /// The profiles' names, as the command takes them.
    pub const NAMES: [&'static str; 5] = ["qemu", "ec2", "ec2-rdx-zero", "gce", "krun"];

    /// The profile of a name. QEMU needs the type of its vCPU, the others have
    /// no use for it.
    ///
    /// # Errors
    /// Another name; a type that is missing, or given for nothing.
    pub fn from_name(name: &str, cpu: Option<CpuType>) -> Result<Self, MachineError> {
        let vmm = match (name, cpu) {
            ("qemu", Some(cpu)) => return Ok(Self::Qemu(cpu)),
            ("qemu", None) => return Err(MachineError::NoCpuType),
            ("ec2", _) => Self::Ec2,
            ("ec2-rdx-zero", _) => Self::Ec2RdxZero,
            ("gce", _) => Self::Gce,
            ("krun", _) => Self::Krun,
            _ => {
                return Err(MachineError::Vmm {
                    got: name.to_owned(),
                });
            }
        };
        match cpu {
            None => Ok(vmm),
            Some(_) => Err(MachineError::UnusedCpuType { vmm: vmm.name() }),
        }
    }

    /// Its name, as the command takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu(_) => "qemu",
            Self::Ec2 => "ec2",
            Self::Ec2RdxZero => "ec2-rdx-zero",
            Self::Gce => "gce",
            Self::Krun => "krun",
        }
    }

    pub(super) fn measures_cpuid_last(self) -> bool {
        matches!(self, Self::Ec2 | Self::Ec2RdxZero)
    }

    pub(super) fn leaves_memory_unmeasured(self) -> bool {
        self == Self::Gce
    }
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qemu(cpu) => write!(f, "qemu with vCPU type {cpu}"),
            Self::Ec2 | Self::Ec2RdxZero | Self::Gce | Self::Krun => f.write_str(self.name()),
        }
    }
}

/// A vCPU as CPUID leaf 1, EAX, shows it: family, model and stepping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuType {
    signature: u32,
}

/// The AMD EPYC models of QEMU (`builtin_x86_defs` of `target/i386/cpu.c`) with
/// their signatures. A model's versions share one.
pub const CPU_TYPES: [(&str, CpuType); 23] = {
    const NAPLES: CpuType = CpuType::from_signature(0x80_0f12);
    const ROME: CpuType = CpuType::from_signature(0x83_0f10);
    const MILAN: CpuType = CpuType::from_signature(0xa0_0f11);
    const GENOA: CpuType = CpuType::from_signature(0xa1_0f10);
    const TURIN: CpuType = CpuType::from_signature(0xb0_0f00);
    [
        ("EPYC", NAPLES),
        ("EPYC-v1", NAPLES),
        ("EPYC-v2", NAPLES),
        ("EPYC-IBPB", NAPLES),
        ("EPYC-v3", NAPLES),
        ("EPYC-v4", NAPLES),
        ("EPYC-v5", NAPLES),
        ("EPYC-Rome", ROME),
        ("EPYC-Rome-v1", ROME),
        ("EPYC-Rome-v2", ROME),
        ("EPYC-Rome-v3", ROME),
        ("EPYC-Rome-v4", ROME),
        ("EPYC-Rome-v5", ROME),
        ("EPYC-Milan", MILAN),
        ("EPYC-Milan-v1", MILAN),
        ("EPYC-Milan-v2", MILAN),
        ("EPYC-Milan-v3", MILAN),
        ("EPYC-Genoa", GENOA),
        ("EPYC-Genoa-v1", GENOA),
        ("EPYC-Genoa-v2", GENOA),
        ("EPYC-Turin", TURIN),
        ("EPYC-Turin-v1", TURIN),
        ("EPYC-Turin-v2", TURIN),
    ]
};

impl CpuType {
    /// A vCPU with this value in CPUID leaf 1, EAX.
    pub const fn from_signature(signature: u32) -> Self {
        Self { signature }
    }

    /// CPUID leaf 1, EAX.
    pub fn signature(self) -> u32 {
        self.signature
    }

    /// One type for each signature that QEMU has a model of.
    pub fn distinct() -> impl Iterator<Item = Self> {
        let base = |(name, cpu): (&str, Self)| {
            let version = name.rsplit('-').next().unwrap_or_default();
            let is_base = !version.starts_with('v') && version != "IBPB";
            is_base.then_some(cpu)
        };
        CPU_TYPES.into_iter().filter_map(base)
    }
}

impl FromStr for CpuType {
    type Err = MachineError;

    /// Reads a model's name, or `0x` and the signature.
    fn from_str(text: &str) -> Result<Self, MachineError> {
        let known = CPU_TYPES.into_iter().find(|(name, _)| *name == text);
        let signature = || {
            let digits = text.strip_prefix("0x")?;
            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let signature = u32::from_str_radix(digits, 16).ok().filter(|_| plain)?;
            Some(Self::from_signature(signature))
        };
        known
            .map(|(_, cpu)| cpu)
            .or_else(signature)
            .ok_or_else(|| MachineError::CpuType {
                got: text.to_owned(),
            })
    }
}

impl fmt::Display for CpuType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CPU_TYPES.iter().find(|(_, cpu)| cpu == self) {
            Some((name, _)) => write!(f, "{name} ({:#x})", self.signature),
            None => write!(f, "{:#x}", self.signature),
        }
    }
}

/// `SEV_FEATURES` of a VMSA (AMD64 Architecture Programmer's Manual volume 2,
/// table B-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestFeatures(u64);

/// The bits that have a name.
pub const GUEST_FEATURES: [(u32, &str); 14] = [
    (0, "SNPActive"),
    (1, "vTOM"),
    (2, "ReflectVC"),
    (3, "RestrictedInjection"),
    (4, "AlternateInjection"),
    (5, "DebugSwap"),
    (6, "PreventHostIBS"),
    (7, "BTBIsolation"),
    (8, "VmplSSS"),
    (9, "SecureTSC"),
    (10, "VmgexitParameter"),
    (12, "IbsVirtualization"),
    (14, "VmsaRegProt"),
    (15, "SmtProtection"),
];

impl GuestFeatures {
    /// Checks that the guest is an SNP guest, and that every bit has a meaning.
    ///
    /// # Errors
    /// Bit 0 is clear, or a reserved bit is set.
    pub fn new(bits: u64) -> Result<Self, MachineError> {
        let known = GUEST_FEATURES
            .iter()
            .fold(0, |bits, (bit, _)| bits | 1 << bit);
        if bits & 1 == 0 || bits & !known != 0 {
            return Err(MachineError::Features { got: bits, known });
        }
        Ok(Self(bits))
    }

    /// The field's value.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// These features with one of [`GUEST_FEATURES`] inverted, which must not
    /// be the first.
    pub(crate) fn toggled(self, bit: u32) -> Self {
        Self((self.0 ^ (1 << bit)) | 1)
    }
}

impl fmt::Display for GuestFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = GUEST_FEATURES
            .iter()
            .filter(|(bit, _)| self.0 & (1 << bit) != 0);
        let names: Vec<_> = set.map(|(_, name)| *name).collect();
        write!(f, "{:#x} ({})", self.0, names.join(", "))
    }
}

/// Why a machine is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// Out of range.
    #[error("cannot use number of vCPUs: got {got}, expected 1 to {MAX_VCPUS}")]
    Vcpus {
        /// The number.
        got: u32,
    },
    /// No profile of this name.
    #[error("cannot use VMM: got {got:?}, expected one of {}", Vmm::NAMES.join(", "))]
    Vmm {
        /// The name.
        got: String,
    },
    /// QEMU without a type.
    #[error("cannot use VMM qemu without a vCPU type: it is in the measured registers")]
    NoCpuType,
    /// A type that nothing would use.
    #[error("cannot use a vCPU type with VMM {vmm}: it is in none of the measured registers")]
    UnusedCpuType {
        /// The profile.
        vmm: &'static str,
    },
    /// No model of this name.
    #[error(
        "cannot use vCPU type: got {got:?}, expected a CPUID signature (0x...) or one of {}",
        CPU_TYPES.map(|(name, _)| name).join(", ")
    )]
    CpuType {
        /// The name.
        got: String,
    },
    /// Not an SNP guest, or bits without a meaning.
    #[error(
        "cannot use guest features: got {got:#x}, expected bit 0 (SNPActive) and no bit outside {known:#x}"
    )]
    Features {
        /// The value.
        got: u64,
        /// Bits with a name.
        known: u64,
    },
}
