//! Text for people: bars, tables, sizes, and colours on a terminal.

use std::io::IsTerminal;

use crate::api::Size;

/// True if text is coloured.
#[derive(Clone, Copy)]
pub(super) struct Paint(bool);

/// Width of a bar, in characters.
const BAR: u64 = 20;

impl Paint {
    /// Colours for standard output: only on a terminal, and not if `NO_COLOR` is set (no-color.org).
    pub fn stdout() -> Self {
        let no = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(std::io::stdout().is_terminal() && !no && !dumb)
    }

    /// No colours.
    pub fn plain() -> Self {
        Self(false)
    }

    fn code(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn good(self, text: &str) -> String {
        self.code("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.code("31", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.code("33", text)
    }

    pub fn bold(self, text: &str) -> String {
        self.code("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.code("2", text)
    }

    /// `██████░░░░  29%`: only 100 % fills the bar, and only zero leaves the bar empty.
    pub fn bar(self, part: u64, whole: u64) -> String {
        let share = |of: u64| match whole {
            0 => 0,
            _ => u64::try_from(u128::from(part) * u128::from(of) / u128::from(whole))
                .unwrap_or(u64::MAX)
                .min(of),
        };
        let cells = share(BAR).max(u64::from(part > 0 && whole > 0)) as usize;
        let percent = share(100);
        let bar = format!("{}{}", "█".repeat(cells), "░".repeat(BAR as usize - cells));
        let bar = match percent {
            95.. => self.bad(&bar),
            80.. => self.warn(&bar),
            _ => self.good(&bar),
        };
        format!("{bar} {percent:>3}%")
    }
}

/// Bytes for people: in the exact form of all other sizes if that has at most four digits, or else `~` and three digits,
/// rounded down. So a request for the free space that is shown succeeds.
pub(super) fn human(bytes: u64) -> String {
    let exact = Size::from_bytes(bytes);
    if exact.as_str().bytes().filter(u8::is_ascii_digit).count() <= 4 {
        return exact.as_str().to_owned();
    }
    let (shift, unit) = [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")]
        .into_iter()
        .find(|(shift, _)| bytes >> shift > 0)
        .unwrap_or((0, ""));
    let (whole, hundredths) = (bytes >> shift, ((u128::from(bytes) * 100) >> shift) % 100);
    match whole {
        0..10 => format!("~{whole}.{hundredths:02}{unit}"),
        10..100 => format!("~{whole}.{}{unit}", hundredths / 10),
        _ => format!("~{whole}{unit}"),
    }
}

/// Width of a text on a terminal, without its colour codes.
fn width(text: &str) -> usize {
    let (mut width, mut escape) = (0, false);
    for c in text.chars() {
        match (escape, c) {
            (false, '\x1b') => escape = true,
            (true, 'm') => escape = false,
            (true, _) => {}
            (false, _) => width += 1,
        }
    }
    width
}

/// A table with three spaces between columns, in the form of kubectl's tables.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest =
        |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| width(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, column) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(column - width(cell) + 3));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t4_bars_sizes_and_tables_have_kubectls_form() {
        let bar = |part, whole| Paint::plain().bar(part, whole);
        assert_eq!(bar(1, 2), "██████████░░░░░░░░░░  50%");
        assert_eq!(bar(1, 1000), "█░░░░░░░░░░░░░░░░░░░   0%", "a little is not nothing");
        assert_eq!(bar(999, 1000), "███████████████████░  99%", "nearly all is not all");
        assert_eq!(bar(0, 0), "░░░░░░░░░░░░░░░░░░░░   0%");
        assert_eq!(bar(u64::MAX, 1), "████████████████████ 100%");
        for (bytes, text) in [
            (0, "0"),
            (1 << 30, "1Gi"),
            (1088 << 20, "1088Mi"),
            (1500, "1500"),
            (15_823_949_824, "~14.7Gi"),
            ((7 << 30) - 1, "~6.99Gi"),
            ((100 << 30) - 1, "~99.9Gi"),
            (u64::MAX, "~15.9Ei"),
        ] {
            assert_eq!(human(bytes), text);
        }
        let red = Paint(true).bad("x");
        let rows = [vec![red, "b".into()], vec!["long".into(), "c".into()]];
        assert_eq!(table(&rows), "\x1b[31mx\x1b[0m      b\nlong   c\n");
    }
}
