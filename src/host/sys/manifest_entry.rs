//! The lines of a manifest, one by one ([`manifest`](super::manifest) has their form).

use std::io::{BufRead, Read};

use crate::host::error::{Context, Error, Result};

/// The fields of a line, by their number.
pub(super) const KIND: usize = 0;
pub(super) const MODE: usize = 1;
pub(super) const SIZE: usize = 2;
pub(super) const HASH: usize = 3;
pub(super) const PATH: usize = 4;
const TARGET: usize = 5;

/// The longest line: two paths of 4095 bytes, of which each byte has four in the manifest.
const LONGEST_LINE: u64 = 2 * 4 * 4095 + 256;

/// A name in a volume, as its manifest has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The path as the manifest has it.
    pub(crate) written: String,
    /// The path in the volume; `.` for its root. No part of it leads out of the volume.
    pub(crate) path: Vec<u8>,
    pub(crate) is: Is,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Directory {
        mode: u32,
    },
    File {
        mode: u32,
        size: u64,
        hash: blake3::Hash,
    },
    /// A further name of the file at that path.
    Further(Vec<u8>),
    SymbolicLink(Vec<u8>),
}

/// The entries of a manifest. A line of another form is an error: the manifest may be that of a hostile node.
pub(crate) struct Entries<R> {
    reader: R,
    is_begun: bool,
}

impl<R: BufRead> Entries<R> {
    pub(crate) fn of(reader: R) -> Self {
        Self { reader, is_begun: false }
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        if !self.is_begun {
            self.is_begun = true;
            if self.line()?.as_deref() != Some(super::manifest::HEADER.trim_end()) {
                return Err(unknown("its first line is another one"));
            }
        }
        self.line()?.map(|line| Entry::parse(&line).ok_or_else(|| unknown(&line))).transpose()
    }

    fn line(&mut self) -> Result<Option<String>> {
        let mut bytes = vec![];
        let mut bounded = (&mut self.reader).take(LONGEST_LINE);
        bounded.read_until(b'\n', &mut bytes).context(|| "read the manifest")?;
        match bytes.pop() {
            None => Ok(None),
            Some(b'\n') => String::from_utf8(bytes).map(Some).map_err(|_| unknown("it is no UTF-8")),
            Some(_) => Err(unknown("a line of it has no end")),
        }
    }
}

fn unknown(line: &str) -> Error {
    let line: String = line.chars().take(200).collect();
    Error::corrupt("the manifest of the copied volume", line)
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let written = field(line, PATH).to_owned();
        let (path, target) = (unescape(&written), unescape(field(line, TARGET)));
        let mode = || u32::from_str_radix(field(line, MODE), 8).ok().filter(|mode| *mode <= 0o7777);
        let is = match field(line, KIND) {
            "d" => Is::Directory { mode: mode()? },
            "f" => Is::File {
                mode: mode().filter(|mode| mode & 0o6000 == 0)?,
                size: field(line, SIZE).parse().ok()?,
                hash: blake3::Hash::from_hex(field(line, HASH)).ok()?,
            },
            "h" if is_inside(&target) => Is::Further(target),
            "l" if !target.is_empty() && !target.contains(&0) => Is::SymbolicLink(target),
            _ => return None,
        };
        let is_root = path == b"." && matches!(is, Is::Directory { .. });
        (is_root || is_inside(&path)).then_some(Self { written, path, is })
    }
}

/// True for the path of a name beneath the root, by way of no `.`, no `..` and no empty name.
fn is_inside(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0))
}

pub(super) fn field(line: &str, number: usize) -> &str {
    line.split('\t').nth(number).unwrap_or_default()
}

/// The bytes of an escaped path.
pub(crate) fn unescape(name: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (vec![], name);
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let byte = escaped.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match (escaped.strip_prefix('x'), byte) {
            (Some(_), Some(byte)) => {
                bytes.push(byte);
                &escaped[3..]
            }
            _ => {
                bytes.push(b'\\');
                escaped.strip_prefix('\\').unwrap_or(escaped)
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &str) -> Result<Vec<Entry>> {
        let text = format!("{}{}", super::super::manifest::HEADER, lines.replace(' ', "\t"));
        let mut entries = Entries::of(text.as_bytes());
        std::iter::from_fn(|| entries.next().transpose()).collect()
    }

    #[test]
    fn e2_each_line_is_understood() {
        let hash = blake3::hash(b"x");
        let entries =
            parse(&format!("d 2770 - - .\nf 0640 1 {hash} a\\x0a\nh - - - b a\\x0a\nl - - - l /etc\n"));
        let is: Vec<_> = entries.unwrap().into_iter().map(|entry| (entry.path, entry.is)).collect();
        assert_eq!(
            is,
            [
                (b".".to_vec(), Is::Directory { mode: 0o2770 }),
                (b"a\n".to_vec(), Is::File { mode: 0o640, size: 1, hash }),
                (b"b".to_vec(), Is::Further(b"a\n".to_vec())),
                (b"l".to_vec(), Is::SymbolicLink(b"/etc".to_vec())),
            ]
        );
    }

    /// S12. A manifest comes from another node, which may be broken.
    #[test]
    fn e2_a_hostile_line_is_refused() {
        let hash = blake3::hash(b"x");
        for line in [
            "d 0755 - - ..".to_owned(),
            "d 0755 - - a/../b".to_owned(),
            "d 0755 - - /etc".to_owned(),
            "d 0755 - - a//b".to_owned(),
            "d 0755 - - a\\x00b".to_owned(),
            "d 17777 - - a".to_owned(),
            format!("f 4755 1 {hash} su"),
            format!("f 0755 -1 {hash} a"),
            "f 0755 1 00 a".to_owned(),
            "h - - - a ../b".to_owned(),
            "h - - - a".to_owned(),
            "l - - - a".to_owned(),
            "c 0644 - - null".to_owned(),
            String::new(),
        ] {
            assert!(matches!(parse(&format!("{line}\n")), Err(Error::Corrupt { .. })), "{line}");
        }
        assert!(parse("d 0755 - - a").is_err(), "without an end");
        assert!(
            parse(&format!("d 0755 - - {}\n", "a".repeat(LONGEST_LINE as usize))).is_err(),
            "without bound"
        );
        assert!(Entries::of(&b"reservoir manifest 2\n"[..]).next().is_err());
    }
}
