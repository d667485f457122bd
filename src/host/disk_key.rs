//! The key of a disk. A signature with the key proves that the signer has read the disk (A7).

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::host::error::{Error, Result};

/// The key pair of a disk.
pub(super) struct DiskKey {
    pair: Ed25519KeyPair,
    /// The public key, hexadecimal.
    pub(super) public: String,
    /// This process has made the key.
    pub(super) is_new: bool,
    /// The disk's NodeDisk has had the public key, signed with the key.
    pub(super) attested: bool,
}

impl DiskKey {
    /// Makes a key; returns its stored form, too.
    pub(super) fn make() -> Result<(Self, String)> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| {
            Error::UnusableDevice("the kernel gave no random numbers: see its log".to_owned())
        })?;
        let stored = hex(&seed);
        Ok((Self { is_new: true, ..Self::parse(&stored, false)? }, stored))
    }

    /// Reads the stored form of a key.
    pub(super) fn parse(stored: &str, attested: bool) -> Result<Self> {
        let byte =
            |i: usize| stored.get(2 * i..2 * i + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let seed: Option<Vec<u8>> = (0..32).map(byte).collect();
        let pair = seed.and_then(|seed| Ed25519KeyPair::from_seed_unchecked(&seed).ok());
        let pair =
            pair.ok_or_else(|| Error::corrupt("the key of the disk", "it is not 64 hexadecimal digits"))?;
        let public = hex(pair.public_key().as_ref());
        Ok(Self { pair, public, is_new: false, attested })
    }

    /// The signature of a text, hexadecimal.
    pub(super) fn sign(&self, text: &str) -> String {
        hex(self.pair.sign(text.as_bytes()).as_ref())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
