//! What a program prints becomes lines for people: without colours, a progress bar as its last state, nothing longer than
//! anybody reads.

/// Longest line, in bytes of UTF-8; what is longer is cut and marked.
const LONGEST: usize = 4096;

/// What follows a line that was cut.
const CUT: &str = " … (cut)";

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The line so far, since the last carriage return.
    raw: Vec<u8>,
    /// What stood on this line before the carriage return.
    before: Vec<u8>,
    /// Bytes of `raw` that were not kept.
    cut: bool,
    /// A carriage return came: a line feed ends the line, anything else overwrites it.
    returned: bool,
}

impl Lines {
    /// Takes bytes, and gives the lines that they end. Lines without a visible character are left out.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.extend(self.finish()),
                b'\r' => self.returned = true,
                _ => {
                    if self.returned {
                        self.overwrite();
                    }
                    if self.raw.len() < 2 * LONGEST {
                        self.raw.push(*byte);
                    } else {
                        self.cut = true;
                    }
                }
            }
        }
        lines
    }

    /// Ends the line that stands unfinished.
    pub fn finish(&mut self) -> Option<String> {
        let line = self.unfinished();
        *self = Self::default();
        line
    }

    /// The line that is not finished yet, as it stands: the state of a progress bar.
    pub fn unfinished(&self) -> Option<String> {
        clean(&self.raw, self.cut).or_else(|| clean(&self.before, false))
    }

    fn overwrite(&mut self) {
        self.returned = false;
        self.cut = false;
        // A bar that is wiped out with spaces leaves what it said last.
        if clean(&self.raw, false).is_some() {
            self.before = std::mem::take(&mut self.raw);
        }
        self.raw.clear();
    }
}

/// The text without escape sequences and control characters. None: nothing visible is left.
fn clean(raw: &[u8], cut: bool) -> Option<String> {
    let text = String::from_utf8_lossy(raw);
    let mut line = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                // Parameters, then one final character.
                Some('[') => while rest.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // A title or a link: until BEL or ESC \.
                Some(']') => {
                    while let Some(c) = rest.next() {
                        if c == '\u{7}' || c == '\u{1b}' && rest.next_if_eq(&'\\').is_some() {
                            break;
                        }
                    }
                }
                // Character sets take one more.
                Some('(' | ')') => {
                    rest.next();
                }
                _ => {}
            },
            '\t' => line.push(c),
            c if c.is_control() => {}
            c => line.push(c),
        }
    }
    let kept = line.trim_end().len();
    line.truncate(kept);
    if line.trim_start().is_empty() {
        return None;
    }
    if cut || line.len() > LONGEST {
        let end = (0..=LONGEST.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
        line.push_str(CUT);
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = lines.take(text.as_bytes());
        found.extend(lines.finish());
        found
    }

    #[test]
    fn lines_end_with_either_kind_of_line_break_and_empty_ones_are_left_out() {
        assert_eq!(lines("one\ntwo\r\n\n  \nthree"), ["one", "two", "three"]);
        assert_eq!(lines("    indented  \n"), ["    indented"]);
    }

    #[test]
    fn colours_titles_and_control_characters_are_removed() {
        assert_eq!(
            lines("\u{1b}[1;32mgreen\u{1b}[0m\u{7} \u{1b}]0;title\u{7}text\u{1b}(B!\u{1b}[K\n"),
            ["green text!"]
        );
        assert_eq!(lines("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\\n"), ["link"]);
        // Cut off in the middle of a sequence.
        assert_eq!(lines("a\u{1b}[3"), ["a"]);
    }

    #[test]
    fn a_progress_bar_is_its_last_state() {
        assert_eq!(lines("\r 10%|#  |\r 50%|## |\r100%|###|\ndone\n"), ["100%|###|", "done"].map(|l| l.to_string()));
        // Wiped out at its end.
        assert_eq!(lines("100%|###|\r          \r\n"), ["100%|###|"]);
        let mut open = Lines::default();
        assert!(open.take(b"\r 10%\r 20%").is_empty());
        assert_eq!(open.unfinished().as_deref(), Some(" 20%"));
        open.take(b"\r");
        assert_eq!(open.unfinished().as_deref(), Some(" 20%"));
    }

    #[test]
    fn pieces_of_any_size_give_the_same_lines() {
        let text = "\u{1b}[31mä→\u{1b}[0m\r\n 1%\r 2%\r\nend\n".as_bytes();
        for size in 1..text.len() {
            let mut whole = Lines::default();
            let found: Vec<String> = text.chunks(size).flat_map(|piece| whole.take(piece)).collect();
            assert_eq!(found, ["ä→", " 2%", "end"], "{size}");
        }
    }

    #[test]
    fn long_lines_are_cut_and_memory_is_bounded() {
        let mut lines = Lines::default();
        assert!(lines.take("ä".repeat(1_000_000).as_bytes()).is_empty());
        assert!(lines.raw.capacity() < 4 * LONGEST);
        let line = lines.take(b"\n").remove(0);
        assert!(line.ends_with(CUT) && line.len() <= LONGEST + CUT.len(), "{}", line.len());
        assert_eq!(lines.take(b"next\n"), ["next"]);
    }

    #[test]
    fn what_is_not_text_does_not_hurt() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"a\xff\xfeb\0c\n"), ["a\u{fffd}\u{fffd}bc"]);
    }
}
