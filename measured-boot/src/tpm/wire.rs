//! Big-endian fields and `TPM2B` buffers, as Part 2 section 4 marshals them.

use alloc::vec::Vec;

/// Bytes that are not what the specification lets a TPM answer here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Malformed {}

/// What is left of a structure. Every read fails rather than run past the end.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed("got a truncated structure"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?
            .try_into()
            .map_err(|_| Malformed("got a truncated structure"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A `TPM2B`: 16 bits of size, then the bytes.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        self.0
            .is_empty()
            .then_some(())
            .ok_or(Malformed("got bytes after the end of a structure"))
    }
}

/// Registers of one bank, bit n for PCR n (Part 2 section 10.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// `TPM_ALG_ID` of the bank.
    pub bank: u16,
    /// The selected registers; those above 31 are refused.
    pub mask: u32,
}

impl Selection {
    /// `TPML_PCR_SELECTION` with this selection alone, in the three octets that
    /// 24 registers take.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let [first, second, third, _] = self.mask.to_le_bytes();
        out.extend_from_slice(&1u32.to_be_bytes());
        out.extend_from_slice(&self.bank.to_be_bytes());
        out.extend_from_slice(&[3, first, second, third]);
    }

    /// A whole `TPML_PCR_SELECTION` (Part 2 section 10.9.7).
    pub(super) fn read_list(reader: &mut Reader<'_>) -> Result<Vec<Self>, Malformed> {
        let mut list = Vec::new();
        for _ in 0..reader.u32()? {
            let bank = reader.u16()?;
            let size = reader.u8()?;
            let mut mask = 0;
            for (index, octet) in reader.bytes(size.into())?.iter().enumerate() {
                let octet = u32::from(*octet);
                match (index, octet) {
                    (0, _) => mask |= octet,
                    (1, _) => mask |= octet << 8,
                    (2, _) => mask |= octet << 16,
                    (3, _) => mask |= octet << 24,
                    (_, 0) => {}
                    _ => return Err(Malformed("got a selection of a PCR above 31")),
                }
            }
            list.push(Self { bank, mask });
        }
        Ok(list)
    }
}
