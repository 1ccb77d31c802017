//! Reference values as a CoRIM (draft-ietf-rats-corim), for verifiers that read
//! one. Unsigned: whoever distributes it signs it.

use anyhow::{Context as _, Result};
use corim::builder::{ComidBuilder, CorimBuilder};
use corim::types::common::{MeasuredElement, TagIdChoice};
use corim::types::corim::CorimId;
use corim::types::environment::{ClassMap, EnvironmentMap};
use corim::types::measurement::{Digest, MeasurementMap, MeasurementValuesMap};
use corim::types::triples::ReferenceTriple;
use measured_boot::reference_values::{ReferenceValues, Register};

/// Numbers of the IANA registry "Named Information Hash Algorithms".
const SHA_256: i64 = 1;
const SHA_384: i64 = 7;

/// One tag for each TEE; in it a triple for each value that a register may have.
pub(super) fn bytes(reference: &ReferenceValues) -> Result<Vec<u8>> {
    let image = format!("{}/{}", reference.image.name, reference.image.version);
    let mut corim = CorimBuilder::new(CorimId::Text(format!("anchorhold/{image}")));
    for (tee, values) in registers(reference) {
        if values.is_empty() {
            continue;
        }
        let tag = TagIdChoice::Text(format!("anchorhold/{image}/{tee}"));
        let mut comid = ComidBuilder::new(tag);
        for (register, algorithm, value) in values {
            comid = comid.add_reference_triple(triple(tee, register, algorithm, value));
        }
        let comid = comid.build().context("cannot write CoRIM")?;
        corim = corim.add_comid_tag(comid).context("cannot write CoRIM")?;
    }
    corim.build_bytes().context("cannot write CoRIM")
}

type Value = (String, i64, Vec<u8>);

fn registers(reference: &ReferenceValues) -> [(&'static str, Vec<Value>); 3] {
    let mut snp = Vec::new();
    if let Some(values) = &reference.snp {
        let value = |digest: &measured_boot::reference_values::Hex48| {
            ("MEASUREMENT".to_owned(), SHA_384, digest.0.to_vec())
        };
        snp.extend(values.launch_digests.values().map(value));
    }
    let mut tdx = Vec::new();
    if let Some(values) = &reference.tdx {
        let names = ["RTMR0", "RTMR1", "RTMR2", "RTMR3"];
        let rtmrs = names.iter().zip(&values.rtmrs);
        for (name, register) in std::iter::once((&"MRTD", &values.mrtd)).chain(rtmrs) {
            if let Register::Predicted { values, .. } = register {
                let value = |value: &measured_boot::reference_values::Hex48| {
                    ((*name).to_owned(), SHA_384, value.0.to_vec())
                };
                tdx.extend(values.iter().map(value));
            }
        }
        for (index, value) in values.logs.iter().flat_map(|log| &log.rtmrs) {
            tdx.push((format!("RTMR{index}"), SHA_384, value.0.to_vec()));
        }
    }
    let mut tpm = Vec::new();
    if let Some(values) = &reference.tpm {
        for (pcr, register) in &values.pcrs {
            if let Register::Predicted { values, .. } = register {
                let value = |value: &measured_boot::manifest::Hex32| {
                    (format!("PCR{pcr}"), SHA_256, value.0.to_vec())
                };
                tpm.extend(values.iter().map(value));
            }
        }
    }
    [("snp", snp), ("tdx", tdx), ("tpm", tpm)]
}

fn triple(tee: &str, register: String, algorithm: i64, value: Vec<u8>) -> ReferenceTriple {
    let environment = EnvironmentMap {
        class: Some(ClassMap {
            class_id: None,
            vendor: Some("anchorhold".to_owned()),
            model: Some(tee.to_owned()),
            layer: None,
            index: None,
        }),
        instance: None,
        group: None,
    };
    let mut values = MeasurementValuesMap::default();
    values.digests = Some(vec![Digest::new(algorithm, value)]);
    let measurement = MeasurementMap {
        mkey: Some(MeasuredElement::Text(register)),
        mval: values,
        authorized_by: None,
    };
    ReferenceTriple::new(environment, vec![measurement])
}
