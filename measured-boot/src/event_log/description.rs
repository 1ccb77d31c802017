//! Events in words, for people: what the log says was measured.

use super::{Event, EventType};

/// Longest description, in characters.
const LONGEST: usize = 100;

impl Event<'_> {
    /// What the event's data says, as far as it is text: the name of an EFI
    /// variable, a loader's command, an action. Unprintable characters and the
    /// end of a long text become dots. It proves nothing by itself.
    pub fn description(&self) -> String {
        let text = match self.kind.0 {
            0x8000_0001 | 0x8000_0002 | 0x8000_000c | 0x8000_00e0 => variable_name(self.data),
            0x6 => tagged_event(self.data),
            _ if self.kind == EventType::SEPARATOR => None,
            _ => longest_text(self.data),
        };
        shortened(&text.unwrap_or_default())
    }
}

/// `UEFI_VARIABLE_DATA.UnicodeName`: after a GUID and two 64-bit lengths.
fn variable_name(data: &[u8]) -> Option<String> {
    let (_, rest) = data.split_at_checked(16)?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (_, rest) = rest.split_first_chunk::<8>()?;
    let bytes = usize::try_from(u64::from_le_bytes(*length))
        .ok()?
        .checked_mul(2)?;
    let (name, _) = rest.split_at_checked(bytes)?;
    Some(utf16(name))
}

/// `TCG_PCClientTaggedEvent`: 32 bits of identifier and of size, then the data.
fn tagged_event(data: &[u8]) -> Option<String> {
    let tagged = data.get(8..).and_then(longest_text);
    tagged.or_else(|| longest_text(data))
}

/// The longest run of printable text, in UTF-8 or UTF-16LE, of four or more characters.
fn longest_text(data: &[u8]) -> Option<String> {
    let narrow = String::from_utf8_lossy(data).into_owned();
    let candidates = [
        narrow,
        utf16(data),
        utf16(data.get(1..).unwrap_or_default()),
    ];
    let is_text = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '\u{fffd}';
    let runs = candidates
        .iter()
        .flat_map(|text| text.split(|c| !is_text(c)))
        .filter(|run| run.len() >= 4);
    // The first of the longest: `max_by_key` would take the last.
    runs.reduce(|best, run| if run.len() > best.len() { run } else { best })
        .map(str::to_owned)
}

fn utf16(data: &[u8]) -> String {
    let (units, _) = data.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    String::from_utf16_lossy(&units)
}

fn shortened(text: &str) -> String {
    let printable = |c: char| match c {
        ' ' | '!'..='~' => c,
        _ => '.',
    };
    let mut short: String = text.chars().take(LONGEST).map(printable).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push_str("...");
    }
    short
}
