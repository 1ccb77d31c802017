use std::vec::Vec;

/// Calls `check` with `count` variants of `valid`: bytes changed, inserted,
/// removed, cut off, repeated. The same ones in each run.
pub(crate) fn mutate(valid: &[u8], count: usize, mut check: impl FnMut(&[u8])) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let below = u64::try_from(below.max(1)).unwrap();
        usize::try_from(state.checked_rem(below).unwrap()).unwrap()
    };
    const BYTES: [u8; 12] = [
        0, 1, 0x7f, 0x80, 0xc0, 0xff, b'0', b'9', b'"', b'{', b'\r', b'\n',
    ];
    for _ in 0..count {
        let mut bytes: Vec<u8> = valid.to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            let byte = match random(3) {
                0 => BYTES[random(BYTES.len())],
                1 => u8::try_from(random(256)).unwrap(),
                _ => bytes.get(at).map_or(0, |b| b ^ (1 << random(8))),
            };
            match random(12) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 if !bytes.is_empty() => drop(bytes.remove(at)),
                3 => {
                    let tail = bytes[at..].to_vec();
                    bytes.extend(tail);
                }
                _ => {
                    if let Some(place) = bytes.get_mut(at) {
                        *place = byte;
                    }
                }
            }
        }
        check(&bytes);
    }
}
