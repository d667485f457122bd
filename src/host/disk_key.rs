//! The key of a disk. A signature with the key proves that the signer has read the disk (A7).

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::host::error::{Error, Result};

/// Makes a private key, in its stored form.
pub(super) fn make() -> Result<String> {
    let mut seed = [0; 32];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| Error::corrupt("the random numbers of the kernel", "none came"))?;
    Ok(hex(&seed))
}

/// The public key of a stored private key.
pub(super) fn public(stored: &str) -> Result<String> {
    Ok(hex(parse(stored)?.public_key().as_ref()))
}

/// Signs a text with a stored private key.
pub(super) fn sign(stored: &str, text: &str) -> Result<String> {
    Ok(hex(parse(stored)?.sign(text.as_bytes()).as_ref()))
}

fn parse(stored: &str) -> Result<Ed25519KeyPair> {
    let byte = |i: usize| stored.get(2 * i..2 * i + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let seed: Option<Vec<u8>> = (0..32).map(byte).collect();
    let pair = seed.and_then(|seed| Ed25519KeyPair::from_seed_unchecked(&seed).ok());
    pair.ok_or_else(|| Error::corrupt("the key of the disk", "it is not 64 hexadecimal digits"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
