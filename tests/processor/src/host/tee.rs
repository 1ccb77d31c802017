//! What is emulated.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context, Result};
use measured_boot::evidence::snp::CertificateKind;
use measured_boot::predict::snp::CpuType;
use measured_boot::verify::snp::{Product, SigningKey};

use super::Boot;
use crate::snp::{self, Report, certificate_table};
use crate::tdx::{self, Td};

/// One kind of processor.
pub trait Tee: Send {
    /// The name of Linux's driver.
    fn name(&self) -> &'static str;

    /// Measures a launch, for all reports until the next.
    ///
    /// # Errors
    /// The files cannot be measured.
    fn launch(&mut self, boot: &Boot) -> Result<()>;

    /// A report and what the host adds to it.
    ///
    /// # Errors
    /// The keys do not sign.
    fn report(&mut self, report_data: [u8; 64]) -> Result<(Vec<u8>, Vec<u8>)>;
}

impl Tee for Box<dyn Tee> {
    fn name(&self) -> &'static str {
        self.as_ref().name()
    }

    fn launch(&mut self, boot: &Boot) -> Result<()> {
        self.as_mut().launch(boot)
    }

    fn report(&mut self, report_data: [u8; 64]) -> Result<(Vec<u8>, Vec<u8>)> {
        self.as_mut().report(report_data)
    }
}

type Change<T> = Box<dyn FnMut(&mut T) + Send>;

/// A secure processor of AMD.
pub struct Snp {
    authority: snp::Authority,
    template: Report,
    change: Change<Report>,
    hands_out_certificates: bool,
}

impl core::fmt::Debug for Snp {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Snp")
            .field("template", &self.template)
            .finish_non_exhaustive()
    }
}

impl Snp {
    /// Below `authority`; `change` is done to every report before it is signed.
    pub fn new(
        authority: snp::Authority,
        change: impl FnMut(&mut Report) + Send + 'static,
    ) -> Self {
        let template = Report::new(authority.product());
        Self {
            authority,
            template,
            change: Box::new(change),
            hands_out_certificates: true,
        }
    }

    /// With a host that has no certificate table.
    #[must_use]
    pub fn without_certificates(mut self) -> Self {
        self.hands_out_certificates = false;
        self
    }

    /// The type that QEMU's `-cpu EPYC-...` has on this processor.
    pub fn cpu(product: Product) -> CpuType {
        let model = match product {
            Product::Milan => 0xa0_0f11,
            Product::Genoa => 0xa1_0f10,
            Product::Turin => 0xb0_0f00,
        };
        CpuType::from_signature(model)
    }
}

impl Tee for Snp {
    fn name(&self) -> &'static str {
        "sev_guest"
    }

    fn launch(&mut self, boot: &Boot) -> Result<()> {
        self.template.measurement = boot.launch_digest(Self::cpu(self.authority.product()))?;
        let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?;
        random.read_exact(&mut self.template.report_id)?;
        Ok(())
    }

    fn report(&mut self, report_data: [u8; 64]) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut report = self.template.clone();
        report.report_data = report_data;
        (self.change)(&mut report);
        let certificates = if self.hands_out_certificates {
            let vek = report.vek(&self.authority)?;
            let kind = match report.signing_key {
                SigningKey::Vcek => CertificateKind::Vcek,
                SigningKey::Vlek => CertificateKind::Vlek,
            };
            certificate_table(&[
                (kind, &vek),
                (CertificateKind::Ask, self.authority.ask()),
                (CertificateKind::Ark, self.authority.ark()),
            ])?
        } else {
            Vec::new()
        };
        Ok((report.sign(&self.authority)?.to_vec(), certificates))
    }
}

/// A processor of Intel with its quoting enclave.
pub struct Tdx {
    authority: tdx::Authority,
    template: Td,
    change: Change<Td>,
}

impl core::fmt::Debug for Tdx {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tdx")
            .field("template", &self.template)
            .finish_non_exhaustive()
    }
}

impl Tdx {
    /// Below `authority`; `change` is done to every TD before it is quoted.
    pub fn new(authority: tdx::Authority, change: impl FnMut(&mut Td) + Send + 'static) -> Self {
        Self {
            authority,
            template: Td::default(),
            change: Box::new(change),
        }
    }
}

impl Tee for Tdx {
    fn name(&self) -> &'static str {
        "tdx_guest"
    }

    fn launch(&mut self, boot: &Boot) -> Result<()> {
        let registers = boot.td_registers()?;
        self.template.mrtd = registers.mrtd;
        self.template.rtmrs = registers.rtmrs;
        Ok(())
    }

    fn report(&mut self, report_data: [u8; 64]) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut td = self.template.clone();
        td.report_data = report_data;
        (self.change)(&mut td);
        Ok((self.authority.quote(&td)?, Vec::new()))
    }
}
