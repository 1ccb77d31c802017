//! Twenty thousand bodies near to right ones. None may crash the broker, and
//! none may be granted unless the very evidence of the session is in it.

use serde_json::Value;

use crate::guest::{KEY, Site, auth_body, pcrs, peer};
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
