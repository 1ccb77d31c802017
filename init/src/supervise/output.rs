//! The container's output on its way to the console.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Longest line, in bytes of the container's output; a longer one is cut into
/// lines of this length.
const MAX_LINE: usize = 4096;

/// Cuts the output into lines. Each starts with `container: ` and has no control
/// character except tab, so the container can neither forge a line of init's nor
/// command the terminal of whoever reads it.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes more output and gives each line that is complete to `sink`.
    pub(super) fn push(&mut self, output: &[u8], sink: &mut impl FnMut(&str)) {
        for &byte in output {
            if byte == b'\n' {
                self.end_line(sink);
                continue;
            }
            if self.partial.len() == MAX_LINE {
                self.end_line(sink);
            }
            self.partial.push(byte);
        }
    }

    /// Gives what is left after the last line to `sink`.
    pub(super) fn finish(mut self, sink: &mut impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.end_line(sink);
        }
    }

    fn end_line(&mut self, sink: &mut impl FnMut(&str)) {
        sink(&format!("container: {}", escape(&self.partial)));
        self.partial.clear();
    }
}

/// The text, with control characters and what is not UTF-8 as `\xNN`.
fn escape(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() && character != '\t' {
                push_bytes(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(character);
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _written: core::fmt::Result = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, MAX_LINE, escape};
    use alloc::string::String;
    use alloc::vec::Vec;

    fn lines(outputs: &[&[u8]]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut sink = |line: &str| seen.push(String::from(line));
        let mut lines = Lines::default();
        for output in outputs {
            lines.push(output, &mut sink);
        }
        lines.finish(&mut sink);
        seen
    }

    #[test]
    fn lines_are_put_together_and_the_last_one_is_not_lost() {
        assert_eq!(
            lines(&[b"on", b"e\n\ntwo\nthr", b"ee"]),
            [
                "container: one",
                "container: ",
                "container: two",
                "container: three"
            ]
        );
        assert_eq!(lines(&[b"one\n"]), ["container: one"]);
        assert!(lines(&[b""]).is_empty());
    }

    #[test]
    fn a_line_of_inits_cannot_be_forged() {
        for output in [
            &b"x\rinit: done"[..],
            b"x\ninit: done",
            b"x\x0binit: done",
            b"init: done",
        ] {
            let seen = lines(&[output]);
            assert!(
                seen.iter().all(|line| line.starts_with("container: ")),
                "{seen:?}"
            );
            assert!(
                seen.iter().all(|line| !line.contains(['\r', '\n', '\x0b'])),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn terminal_commands_are_shown_and_not_obeyed() {
        assert_eq!(escape(b"\x1b[2J\x07\x7f"), "\\x1b[2J\\x07\\x7f");
        // U+009B is the one-character form of ESC [.
        assert_eq!(escape("\u{9b}2J".as_bytes()), "\\xc2\\x9b2J");
        assert_eq!(escape(b"a\tb"), "a\tb");
    }

    #[test]
    fn text_stays_text_and_other_bytes_are_shown() {
        assert_eq!(escape("grüße".as_bytes()), "grüße");
        assert_eq!(escape(b"\xff\xc3"), "\\xff\\xc3");
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let seen = lines(&[&[b'a'; MAX_LINE + 1]]);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].len(), "container: ".len() + MAX_LINE);
        assert_eq!(seen[1], "container: a");
        assert_eq!(lines(&[&[b'a'; MAX_LINE], b"\n"]).len(), 1);
    }
}
