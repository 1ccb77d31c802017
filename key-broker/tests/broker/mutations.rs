//! Twenty thousand bodies near to right ones. None may crash the broker, and
//! none may be granted unless the very evidence of the session is in it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::guest::{KEY, Site, auth_body, pcrs, peer};
use crate::hardware::{Hardware, SNP_KEY};
use crate::soft_tpm::SoftTpm;

/// xorshift64*: the same bodies each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % limit
    }

    fn mutate(&mut self, body: &mut Vec<u8>) {
        const PIECES: &[&str] = &[
            "{",
            "}",
            "[",
            "]",
            "\"",
            "\\u0000",
            "null",
            "1e999",
            "-1",
            ",",
            ":",
            "\u{fffd}",
            "\"nonce\":\"x\",",
            "[[[[[[[[[[[[[[[[",
            "=",
            "AAAA",
            "0",
        ];
        for _ in 0..=self.below(3) {
            let at = self.below(body.len());
            match self.below(6) {
                0 => body[at] = u8::try_from(self.below(256)).unwrap(),
                1 => body[at] ^= 1 << self.below(8),
                2 => drop(body.remove(at)),
                3 => body.truncate(at.max(1)),
                4 => drop(body.splice(at..at, PIECES[self.below(PIECES.len())].bytes())),
                _ => {
                    let end = (at + self.below(64)).min(body.len());
                    let part = body[at..end].to_vec();
                    drop(body.splice(at..at, part));
                }
            }
            if body.is_empty() {
                body.push(b'{');
            }
        }
    }
}

#[test]
fn twenty_thousand_altered_bodies_grant_nothing_new() {
    let site = Site::new();
    let mut random = Random(0x616e_6368_6f72);
    let tpm = SoftTpm::new(0, pcrs(2), 1);
    let guest = site.guest();
    let evidence = tpm.quote(guest.report_data().qualifying_data());
    let right = serde_json::to_vec(&guest.attest_body(&evidence)).unwrap();
    let mut granted = 0;
    for _ in 0..16_000 {
        // A session of its own each: with a used one, all would stop there.
        let fresh = site.guest();
        let mut body = String::from_utf8(right.clone())
            .unwrap()
            .replace(&guest.nonce, &fresh.nonce)
            .into_bytes();
        random.mutate(&mut body);
        let reply = site.broker.attest(peer(), Some(&fresh.id), &body);
        granted += usize::from(reply.status == 200);
        assert_ne!(reply.status, 500);
    }
    // The quote is over the first session's nonce.
    assert_eq!(granted, 0);

    for _ in 0..3_000 {
        let mut body = auth_body("tpm");
        random.mutate(&mut body);
        let reply = site.broker.auth(peer(), &body);
        let same: Result<Value, _> = serde_json::from_slice(&body);
        let well_formed = same.is_ok_and(|v| v["version"] == "0.4.0" && v["tee"] == "tpm");
        assert!(reply.status != 200 || well_formed);
    }
    let attested = site.attested(1);
    for _ in 0..1_000 {
        let mut path = KEY.as_bytes().to_vec();
        random.mutate(&mut path);
        let path = String::from_utf8_lossy(&path).into_owned();
        assert_eq!(site.fetch(&attested, &path).status == 200, path == KEY);
    }
    // The broker still works: the next boot gets its key.
    let control = site.attested(2);
    assert_eq!(site.fetch(&control, KEY).status, 200);
}

/// Each session has evidence of its own, right but for one number or text.
#[test]
fn no_single_field_of_a_launchs_evidence_can_be_another() {
    let site = Hardware::new();
    let mut random = Random(0x616d_6421);
    let mut codes = BTreeMap::new();
    for _ in 0..1_000 {
        let guest = site.guest("snp");
        let report = site.report(&guest, |_| {});
        let vek = report.vek(&site.snp).unwrap();
        let mut body = site.snp_body(&guest, report.sign(&site.snp).unwrap(), Some(vek));
        let leaves = leaves(&body, "");
        // Half of them in what is not an array of bytes: those are few.
        let few: Vec<_> = leaves
            .iter()
            .filter(|at| !at.ends_with(char::is_numeric))
            .collect();
        let at = match random.below(2) {
            0 => &leaves[random.below(leaves.len())],
            _ => few[random.below(few.len())],
        };
        let leaf = body.pointer_mut(at).unwrap();
        *leaf = match leaf {
            Value::Number(number) => json!(number.as_u64().unwrap() ^ (1 << random.below(8))),
            Value::String(text) => json!(format!("{text}x")),
            Value::Null => json!(0),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => panic!("{at}"),
        };
        let reply = site.send_body(&guest, &body);
        assert_ne!(reply.status, 200, "{at}: {}", site.lines.last());
        assert_ne!(reply.status, 500, "{at}");
        let line = site.lines.last();
        *codes
            .entry(line["code"].as_str().unwrap().to_owned())
            .or_insert(0) += 1;
        assert_eq!(site.fetch(&guest, SNP_KEY).status, 401);
    }
    println!("{codes:?}");
    assert!(codes.len() > 5, "{codes:?}");
    let (guest, reply) = site.attest_snp(|_| {});
    site.granted(&reply);
    site.granted(&site.fetch(&guest, SNP_KEY));
}

/// JSON pointers of everything that is neither an object nor an array.
fn leaves(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(members) => {
            let inner = members
                .iter()
                .flat_map(|(key, value)| leaves(value, &format!("{at}/{key}")));
            inner.collect()
        }
        Value::Array(items) => {
            let inner = items.iter().enumerate();
            inner
                .flat_map(|(i, value)| leaves(value, &format!("{at}/{i}")))
                .collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![at.to_owned()],
    }
}
