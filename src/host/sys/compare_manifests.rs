//! Finds what differs between two manifests (E4).
//!
//! Both are in the same order: the names of a directory in the order of their bytes, its content after itself. So they are
//! read side by side, and their length costs no memory.

use std::cmp::Ordering;
use std::io::BufRead;

use crate::host::error::{Context, Result};
use crate::host::types::Differences;

use super::manifest_entry::{HASH, KIND, MODE, PATH, SIZE, field, unescape};

/// The differences of what was `found` from what is `recorded`.
pub(crate) fn differences(recorded: impl BufRead, found: impl BufRead) -> Result<Differences> {
    let (mut recorded, mut found) = (Lines::of(recorded)?, Lines::of(found)?);
    let mut differences = Differences::default();
    loop {
        let order = match (&recorded.line, &found.line) {
            (None, None) => return Ok(differences),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(recorded), Some(found)) => recorded.place.cmp(&found.place),
        };
        match (order, &recorded.line, &found.line) {
            (Ordering::Less, Some(recorded), _) => {
                differences.add(|| format!("{} is missing", recorded.path()))
            }
            (Ordering::Greater, _, Some(found)) => {
                differences.add(|| format!("{} was not there", found.path()))
            }
            (_, Some(recorded), Some(found)) if recorded.text != found.text => {
                differences.add(|| format!("{} {}", recorded.path(), recorded.unlike(found)));
            }
            _ => {}
        }
        if order.is_le() {
            recorded.next()?;
        }
        if order.is_ge() {
            found.next()?;
        }
    }
}

/// The lines of a manifest after the first one.
struct Lines<R> {
    reader: R,
    line: Option<Line>,
}

struct Line {
    text: String,
    /// The names on the way to the file, as bytes.
    place: Vec<Vec<u8>>,
}

impl<R: BufRead> Lines<R> {
    fn of(reader: R) -> Result<Self> {
        let mut lines = Self { reader, line: None };
        lines.next()?;
        lines.next()?;
        Ok(lines)
    }

    fn next(&mut self) -> Result<()> {
        let mut bytes = vec![];
        let length = self.reader.read_until(b'\n', &mut bytes).context(|| "read the manifest")?;
        self.line = (length > 0).then(|| Line::new(String::from_utf8_lossy(&bytes).trim_end().to_owned()));
        Ok(())
    }
}

impl Line {
    fn new(text: String) -> Self {
        let place = field(&text, PATH).split('/').map(unescape).collect();
        Self { text, place }
    }

    fn path(&self) -> &str {
        field(&self.text, PATH)
    }

    /// The difference from a line with the same path.
    fn unlike(&self, found: &Self) -> String {
        let (was, is) = (&*self.text, &*found.text);
        match (field(was, KIND), field(is, KIND)) {
            (was, is) if was != is => format!("is {} and was {}", kind(is), kind(was)),
            ("l", _) => "leads elsewhere".to_owned(),
            ("h", _) => "is another file".to_owned(),
            _ if field(was, SIZE) != field(is, SIZE) => {
                format!("has {} bytes and had {}", field(is, SIZE), field(was, SIZE))
            }
            _ if field(was, HASH) != field(is, HASH) => "has other bytes".to_owned(),
            _ => format!("has mode {} and had {}", field(is, MODE), field(was, MODE)),
        }
    }
}

fn kind(letter: &str) -> &'static str {
    match letter {
        "d" => "a directory",
        "f" => "a file",
        "l" => "a symbolic link",
        "h" => "a further name of a file",
        _ => "something unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sys::manifest::escape;

    fn found(recorded: &str, found: &str) -> Differences {
        let text = |lines: &str| format!("reservoir manifest 1\n{}", lines.replace(' ', "\t"));
        differences(text(recorded).as_bytes(), text(found).as_bytes()).unwrap()
    }

    /// E4: manifests are beside the data, where nobody vouches for a byte. Any two can be compared, and both ways alike.
    #[test]
    fn fuzz_manifests() {
        let lines = b"reservoir manifest 1\nd\t0755\t-\t-\t.\nf\t0644\t3\taa\ta\\x0a/x\nl\t-\t-\t-\tl\tto\n";
        let seed = [&lines[..], b"\0", lines, b"h\t-\t-\t-\tz\ta\\\\\n"].concat();
        crate::fuzz::fuzz("manifests", &[&seed], |bytes| {
            let half = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len() / 2);
            let (one, other) = bytes.split_at(half);
            let found = differences(one, other).unwrap();
            assert_eq!(found.count, differences(other, one).unwrap().count);
            assert_eq!(differences(one, one).unwrap(), Differences::default());
            assert_eq!(found.count.min(5), found.first.len() as u64);
            assert_eq!(unescape(&escape(bytes)), bytes);
            // Without the names of files.
            let end = |line: &String| line.rsplit(' ').take(2).map(crate::fuzz::words).collect::<Vec<_>>();
            (found.count.min(8), found.first.iter().map(end).collect::<Vec<_>>())
        });
    }

    #[test]
    fn e4_each_difference_is_named() {
        let recorded =
            "d 0755 - - .\nd 0755 - - a\nf 0644 3 aa a/x\nf 0644 3 bb a.b\nl - - - l to\nf 0644 1 cc z\n";
        assert_eq!(found(recorded, recorded), Differences::default());
        let now =
            "d 0700 - - .\nd 0755 - - a\nf 0644 4 ab a/x\nf 0644 2 dd a/y\nf 0644 3 bc a.b\nl - - - l out\n";
        let differences = found(recorded, now);
        assert_eq!(differences.count, 6);
        assert_eq!(
            differences.first,
            [
                ". has mode 0700 and had 0755",
                "a/x has 4 bytes and had 3",
                "a/y was not there",
                "a.b has other bytes",
                "l leads elsewhere"
            ]
        );
        assert_eq!(found("d 0755 - - a\n", "f 0644 0 00 a\n").first, ["a is a file and was a directory"]);
        assert_eq!(found("f 0644 0 00 a\n", "").first, ["a is missing"]);
    }

    /// The order is that of the bytes of names, not that of their escaped forms.
    #[test]
    fn e4_escaped_names_keep_their_order() {
        for name in [&b"a\\b"[..], b"\xff\n", b"x41", b"\\x41", "\u{85}\u{e9}".as_bytes(), b""] {
            assert_eq!(unescape(&escape(name)), name);
        }
        let (odd, plain) = ("f 0644 0 00 \\x0a\n", "f 0644 0 00 A\n");
        assert_eq!(found(&format!("{odd}{plain}"), plain).first, ["\\x0a is missing"]);
        assert_eq!(found(&format!("{odd}{plain}"), odd).first, ["A is missing"]);
        assert_eq!(unescape("\\xz\u{e9}"), "\\xz\u{e9}".as_bytes(), "of a damaged manifest");
    }
}
