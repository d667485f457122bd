//! Random numbers that can be repeated after a failure.

/// Pseudo-random numbers. The test prints their seed, and `RESERVOIR_TEST_SEED` sets it.
pub struct Random(u64);

impl Random {
    pub fn new(what: &str) -> Self {
        let given = std::env::var("RESERVOIR_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(now);
        println!("{what}: RESERVOIR_TEST_SEED={seed}");
        Self(seed)
    }

    /// A generator with a seed from another generator.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from `range` (splitmix64).
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (z ^ (z >> 31)) % (range.end - range.start)
    }
}
