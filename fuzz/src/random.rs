//! Random numbers that an input decides: the same input does the same again.

/// A stream of them.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// That of `bytes` (FNV-1a).
    pub fn of(bytes: &[u8]) -> Self {
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(hash | 1)
    }

    /// One below `end`, which is not 0 (xorshift64*).
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or(0) % end
    }

    /// One of `all`.
    pub fn one<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// `bytes` in blocks: few or many, as it comes.
    pub fn blocks<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut cuts = match self.below(16) {
            0 => vec![],
            1 if bytes.len() < 1000 => (0..bytes.len()).collect(),
            many => (0..many).map(|_| self.below(bytes.len() + 1)).collect(),
        };
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }
}
