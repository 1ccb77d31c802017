//! What the product's own verifier and the `sev` crate make of what is signed.

use measured_boot::evidence::snp::CertificateKind;
use measured_boot::verify::snp::{Product, SigningKey};
use p384::ecdsa::signature::Verifier as _;
use rsa::pkcs8::DecodePublicKey as _;
use sev::firmware::guest::AttestationReport;
use sev::parser::{ByteParser as _, Encoder as _};
use sha2::Sha384;
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode as _, Encode as _};

use super::{Authority, Report, certificate_table};
use crate::Keys;

fn signed_by(certificate: &[u8], issuer: &[u8]) -> bool {
    let certificate = Certificate::from_der(certificate).unwrap();
    let signed = certificate.tbs_certificate().to_der().unwrap();
    pss(issuer, &signed, certificate.signature().raw_bytes())
}

fn pss(issuer: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use rsa::signature::Verifier as _;
    let issuer = Certificate::from_der(issuer).unwrap();
    let key = issuer.tbs_certificate().subject_public_key_info();
    let key = rsa::PublicKey::from_public_key_der(&key.to_der().unwrap()).unwrap();
    let signature = rsa::pss::Signature::try_from(signature).unwrap();
    rsa::pss::VerifyingKey::<Sha384>::new(key)
        .verify(message, &signature)
        .is_ok()
}

fn reports() -> impl Iterator<Item = (Authority, Report)> {
    let products = Product::ALL.into_iter().flat_map(|product| {
        let report = Report::new(product);
        (3..=5).map(move |version| Report {
            version,
            ..report.clone()
        })
    });
    products.map(|report| {
        let product = match report.cpuid.model {
            1 => Product::Milan,
            0x11 => Product::Genoa,
            _ => Product::Turin,
        };
        (Authority::new(Keys::Test, product).unwrap(), report)
    })
}

#[test]
fn the_chain_of_every_product_holds_and_a_foreign_one_does_not_sign_for_it() {
    for product in Product::ALL {
        let authority = Authority::new(Keys::Test, product).unwrap();
        let foreign = Authority::new(Keys::Foreign, product).unwrap();
        let report = Report::new(product);
        let vcek = report.vek(&authority).unwrap();
        let vlek = authority.vlek(report.reported_tcb).unwrap();
        for (certificate, issuer, other) in [
            (authority.ark(), authority.ark(), foreign.ark()),
            (authority.ask(), authority.ark(), foreign.ark()),
            (authority.asvk(), authority.ark(), foreign.ark()),
            (&vcek, authority.ask(), foreign.ask()),
            (&vlek, authority.asvk(), foreign.asvk()),
        ] {
            assert!(signed_by(certificate, issuer));
            assert!(!signed_by(certificate, other));
        }
        let names = [authority.ark(), foreign.ark()].map(|ark| {
            let ark = Certificate::from_der(ark).unwrap();
            ark.tbs_certificate().subject().to_string()
        });
        assert_eq!(names[0], names[1]);
    }
}

#[test]
fn the_sev_crate_reads_the_reports_and_finds_what_was_meant() {
    for (authority, mut report) in reports() {
        report.report_data = [7; 64];
        report.measurement = [9; 48];
        report.host_data = [3; 32];
        report.policy |= super::MIGRATE_MA;
        let bytes = report.sign(&authority).unwrap();
        let read = AttestationReport::from_bytes(&bytes).unwrap();
        assert_eq!(read.version, report.version);
        assert_eq!(read.report_data[..], report.report_data);
        assert_eq!(read.measurement[..], report.measurement);
        assert_eq!(read.host_data[..], report.host_data);
        assert_eq!(read.chip_id[..], report.chip_id);
        assert!(read.policy.migrate_ma_allowed());
        assert!(!read.policy.debug_allowed());
        assert_eq!(read.reported_tcb.microcode, report.reported_tcb.microcode);
        let mut written = Vec::new();
        read.encode(&mut written, ()).unwrap();
        assert_eq!(written, bytes, "{} {}", authority.product(), report.version);
    }
}

#[test]
fn the_certificates_key_signed_the_report_and_another_chips_did_not() {
    for (authority, report) in reports() {
        let mut other = report.clone();
        other.chip_id[0] ^= 1;
        let mut older = report.clone();
        older.reported_tcb.snp -= 1;
        let mut vlek = report.clone();
        vlek.signing_key = SigningKey::Vlek;
        let bytes = report.sign(&authority).unwrap();
        let verdicts = [&report, &other, &older, &vlek].map(|holder| {
            let vek = Certificate::from_der(&holder.vek(&authority).unwrap()).unwrap();
            let key = vek.tbs_certificate().subject_public_key_info();
            let key =
                p384::ecdsa::VerifyingKey::from_public_key_der(&key.to_der().unwrap()).unwrap();
            let number = |at: usize| -> [u8; 48] {
                let mut number: [u8; 48] = bytes[at..at + 48].try_into().unwrap();
                number.reverse();
                number
            };
            let signature = p384::ecdsa::Signature::from_scalars(number(0x2a0), number(0x2e8));
            key.verify(&bytes[..0x2a0], &signature.unwrap()).is_ok()
        });
        assert_eq!(verdicts, [true, false, false, false]);
    }
}

#[test]
fn revocation_lists_are_the_arks_and_name_what_was_taken_back() {
    let authority = Authority::new(Keys::Test, Product::Genoa).unwrap();
    for (revoked, signer) in [
        (&[][..], None),
        (&[SigningKey::Vcek], Some(authority.ask())),
        (&[SigningKey::Vlek], Some(authority.asvk())),
    ] {
        let crl = authority.crl(revoked).unwrap();
        let crl: CertificateList = CertificateList::from_der(&crl).unwrap();
        let signed = crl.tbs_cert_list.to_der().unwrap();
        assert!(pss(authority.ark(), &signed, crl.signature.raw_bytes()));
        let listed = crl.tbs_cert_list.revoked_certificates.unwrap_or_default();
        let listed: Vec<_> = listed.iter().map(|entry| &entry.serial_number).collect();
        let signer = signer.map(|signer| Certificate::from_der(signer).unwrap());
        let expected = signer
            .iter()
            .map(|signer| signer.tbs_certificate().serial_number());
        assert_eq!(listed, expected.collect::<Vec<_>>());
    }
}

#[test]
fn the_sev_crate_reads_the_certificate_table() {
    use sev::firmware::host::{CertTableEntry, CertType};
    let certificates: [(CertificateKind, &[u8]); 4] = [
        (CertificateKind::Vcek, b"vcek"),
        (CertificateKind::Ask, b"ask"),
        (CertificateKind::Ark, b"ark"),
        (CertificateKind::Vlek, b"vlek"),
    ];
    let mut table = certificate_table(&certificates).unwrap();
    let read = CertTableEntry::vec_bytes_to_cert_table(&mut table).unwrap();
    let read: Vec<_> = read.iter().map(|e| (&e.cert_type, e.data())).collect();
    let expected = [
        (&CertType::VCEK, &b"vcek"[..]),
        (&CertType::ASK, b"ask"),
        (&CertType::ARK, b"ark"),
        (&CertType::VLEK, b"vlek"),
    ];
    assert_eq!(read, expected);
}
