//! The source of a copy: the files of a sealed volume, on this node or on another one (E2).

use crate::host::error::Result;

/// A part of a sealed volume. Paths are as in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// The manifest.
    Manifest,
    /// A directory, which has no bytes.
    Directory(&'a str),
    /// The bytes of a file, beginning with the byte `from`.
    File {
        /// The path of the file.
        path: &'a str,
        /// The first byte.
        from: u64,
    },
}

/// The beginning of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The number of bytes that follow.
    pub bytes: u64,
    /// The owner of the file.
    pub uid: u32,
    /// The group of the file.
    pub gid: u32,
}

/// The files of a sealed volume. Nothing that a source sends is believed: each file is compared with the manifest, and the
/// manifest with the digest.
pub trait Source {
    /// Asks for a part. What is left of the part before is not read any more.
    fn open(&mut self, asked: Asked<'_>) -> Result<Sent>;

    /// The next bytes of the part; 0 after the last one.
    fn read(&mut self, into: &mut [u8]) -> Result<usize>;

    /// Nothing more is asked for, so that the source can serve others.
    fn end(&mut self) {}
}
