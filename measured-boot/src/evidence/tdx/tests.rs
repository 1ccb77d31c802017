use base64ct::{Base64, Encoding};
use serde_json::Value;

use super::{TdxEvidence, events};

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/vectors/{name}")).unwrap()
}

const LOGS: [&str; 3] = [
    "google-cos-113-intel-tdx.bin",
    "live-tdreport-pair.ccel.bin",
    "trustee-CCEL_data_ovmf.bin",
];

#[test]
fn json_holds_quote_and_log() {
    let quote = vector("tdx/phala-uptodate.quote.dat");
    let area = vector("event-logs/google-cos-113-intel-tdx.bin");
    let evidence = TdxEvidence::from_device(quote.clone(), Some(&area)).unwrap();
    let json: Value = serde_json::from_str(&evidence.to_evidence().json).unwrap();
    let decode = |member: &str| Base64::decode_vec(json[member].as_str().unwrap()).unwrap();
    assert_eq!(json.as_object().unwrap().len(), 2);
    assert_eq!(decode("quote"), quote);
    let log = decode("cc_eventlog");
    assert!(area.starts_with(&log) && log.len() < area.len());

    let evidence = TdxEvidence::from_device(quote, None).unwrap();
    let json: Value = serde_json::from_str(&evidence.to_evidence().json).unwrap();
    assert_eq!(json["cc_eventlog"], Value::Null);
    assert!(TdxEvidence::from_device(Vec::new(), None).is_err());
}

/// The broker's reader is another one, and finds the same events.
#[test]
fn trimming_takes_padding_and_nothing_else() {
    for name in LOGS {
        let area = vector(&format!("event-logs/{name}"));
        let log = events(&area).unwrap();
        assert!(area[log.len()..].iter().all(|byte| *byte == 0xff), "{name}");
        let whole = crate::event_log::parse(&area).unwrap();
        let trimmed = crate::event_log::parse(log).unwrap();
        assert_eq!(whole.events.len(), trimmed.events.len(), "{name}");
        // One byte less is no log.
        assert_eq!(events(&log[..log.len() - 1]), None, "{name}");
    }
}

#[test]
fn padding_is_ones_zeros_or_nothing() {
    let area = vector("event-logs/live-tdreport-pair.ccel.bin");
    let log = events(&area).unwrap().to_vec();
    for padding in [&[][..], &[0; 100], &[0xff; 100], &[0], &[0xff]] {
        assert_eq!(events(&[&log, padding].concat()), Some(&log[..]));
    }
    for garbage in [&[1][..], &[0, 0, 0, 1], &[0xff, 0xff, 0], &[7; 100]] {
        assert_eq!(events(&[&log, garbage].concat()), None, "{garbage:?}");
    }
}

#[test]
fn rejects_counts_and_sizes_beyond_the_end() {
    let area = vector("event-logs/live-tdreport-pair.ccel.bin");
    let first = {
        let size = u32::from_le_bytes(area[28..32].try_into().unwrap());
        32 + usize::try_from(size).unwrap()
    };
    // The first event's size; then the second's count and first algorithm.
    for at in [28, first + 8, first + 12] {
        let mut changed = area.clone();
        changed[at..at + 4].fill(0xee);
        assert_eq!(events(&changed), None, "{at}");
    }
}
