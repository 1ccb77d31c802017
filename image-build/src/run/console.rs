//! The guest's serial console: its bytes become lines, and lines become safe to
//! show.
//!
//! The guest chooses every byte. What reaches the user's terminal is printable
//! text and newlines; terminal control sequences, which firmware sends to clear
//! the screen, are left out.

use super::outcome::Outcome;

/// Longest line that is kept together; the rest follows as fragments.
const MAX_LINE: usize = 8 * 1024;
/// Most that is kept of the whole log.
const MAX_LOG: usize = 16 * 1024 * 1024;

/// Reads the console from the first byte to the last.
#[derive(Debug, Default)]
pub(super) struct Console {
    pending: Vec<u8>,
    /// Whether `pending` continues a line whose start was already handed out.
    continued: bool,
    log: Vec<u8>,
    truncated: bool,
    end: Option<Outcome>,
}

/// A complete line, or a fragment of one that is longer than [`MAX_LINE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Whether it starts where the guest started a line.
    pub(super) starts_line: bool,
}

impl Console {
    /// Takes what the guest wrote; returns the lines that are complete now.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Line> {
        self.keep(bytes);
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                lines.push(self.cut(true));
            } else {
                self.pending.push(byte);
                if self.pending.len() >= MAX_LINE {
                    lines.push(self.cut(false));
                }
            }
        }
        lines
    }

    /// The last line, if the console ended without a newline.
    pub(super) fn finish(&mut self) -> Option<Line> {
        (!self.pending.is_empty()).then(|| self.cut(true))
    }

    /// What init or the kernel said first about the end.
    pub(super) fn end(&self) -> Option<&Outcome> {
        self.end.as_ref()
    }

    /// Everything the guest wrote, and whether that had to be cut short.
    pub(super) fn into_log(self) -> (Vec<u8>, bool) {
        (self.log, self.truncated)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LOG.saturating_sub(self.log.len());
        self.log.extend(bytes.iter().take(room));
        self.truncated |= bytes.len() > room;
    }

    fn cut(&mut self, line_ends: bool) -> Line {
        let bytes = std::mem::take(&mut self.pending);
        let starts_line = !self.continued;
        self.continued = !line_ends;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\r').to_owned();
        if self.end.is_none() && starts_line {
            // Firmware clears the screen and ends no line, so its control sequences
            // stand in front of whatever the guest writes first.
            self.end = Outcome::parse(&printable(&text));
        }
        Line { text, starts_line }
    }
}

/// What a terminal may be sent: control sequences are left out, every other
/// character that is not printable is escaped.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.next_if_eq(&'[').is_some() => {
                // ECMA-48 section 5.4: parameters and intermediates, then one final byte.
                while chars.next_if(|c| (' '..='?').contains(c)).is_some() {}
                if chars.next_if(|c| ('@'..='~').contains(c)).is_none() {
                    safe.push_str("\\u{1b}[");
                }
            }
            '\t' | ' '..='~' => safe.push(c),
            other => safe.extend(other.escape_debug()),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::{Console, Line, MAX_LINE, printable};
    use crate::run::outcome::Outcome;

    fn whole(text: &str) -> Line {
        Line {
            text: text.into(),
            starts_line: true,
        }
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        let bytes = "one\r\n\r\ntwo \u{e9}\nlast".as_bytes();
        for size in 1..=bytes.len() {
            let mut console = Console::default();
            let mut lines: Vec<Line> = bytes.chunks(size).flat_map(|c| console.feed(c)).collect();
            lines.extend(console.finish());
            let expected = [whole("one"), whole(""), whole("two \u{e9}"), whole("last")];
            assert_eq!(lines, expected);
        }
    }

    #[test]
    fn first_words_about_the_end_count() {
        let mut console = Console::default();
        console.feed(b"init: done: exited 7\r\nKernel panic - not syncing: late\r\n");
        assert_eq!(console.end(), Some(&Outcome::Exited { status: 7 }));
    }

    #[test]
    fn last_words_right_after_the_firmware_count() {
        let mut console = Console::default();
        console.feed(b"\x1b[2J\x1b[01;01H\x1b[=3hinit: fatal: E_MOUNT mounts: cannot x: y\r\n");
        let line = "init: fatal: E_MOUNT mounts: cannot x: y".to_owned();
        let code = "E_MOUNT".to_owned();
        assert_eq!(console.end(), Some(&Outcome::Fatal { code, line }));
    }

    #[test]
    fn last_words_without_newline_count() {
        let mut console = Console::default();
        console.feed(b"init: done: exited 3");
        assert_eq!(console.end(), None);
        console.finish();
        assert_eq!(console.end(), Some(&Outcome::Exited { status: 3 }));
    }

    #[test]
    fn container_cannot_reach_a_line_start_by_a_long_line_or_a_carriage_return() {
        let mut console = Console::default();
        let mut bytes = b"container: ".to_vec();
        bytes.resize(MAX_LINE, b'x');
        bytes.extend_from_slice(b"init: done: exited 0\n");
        bytes.extend_from_slice(b"container: \rinit: done: exited 0\r\n");
        let lines = console.feed(&bytes);
        assert_eq!(lines.len(), 3);
        assert!(!lines[1].starts_line);
        assert_eq!(console.end(), None);
        console.feed(b"init: done: exited 5\n");
        assert_eq!(console.end(), Some(&Outcome::Exited { status: 5 }));
    }

    #[test]
    fn terminal_gets_no_control_character() {
        assert_eq!(
            printable("\u{1b}[2J\u{1b}[01;01Hplain\ttext"),
            "plain\ttext"
        );
        assert_eq!(printable("\u{1b}]0;title\u{7}"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(printable("\u{1b}[1\u{1b}[2J"), "\\u{1b}[");
        assert_eq!(printable("a\rb\u{9b}2J\u{202e}"), "a\\rb\\u{9b}2J\\u{202e}");
        assert_eq!(printable("na\u{ef}ve \"q\" \\"), "na\u{ef}ve \"q\" \\");
        for c in (0..=0x9f_u8).map(char::from) {
            let shown = printable(&format!("{c}x"));
            assert!(shown.chars().all(|c| c == '\t' || !c.is_control()), "{c:?}");
        }
    }
}
