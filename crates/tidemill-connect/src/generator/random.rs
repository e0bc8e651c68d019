//! [`Draws`]: the random numbers of one row (splitmix64), independent of those of its neighbours.
//!
//! **Invariant:** the numbers depend on the seed, the row and their order only.

/// The step of splitmix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finisher of splitmix64.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The random numbers of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws(u64);

impl Draws {
    /// The numbers of `row`. `seed` has gone through [`mix`] once.
    pub(super) fn of(seed: u64, row: u64) -> Draws {
        Draws(mix(seed ^ row.wrapping_mul(0xd6e8_feb8_6659_fd93)))
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }
}

/// The upper half of a number.
pub(super) fn high(number: u64) -> u64 {
    number >> 32
}

/// The lower half of a number.
pub(super) fn low(number: u64) -> u64 {
    number & 0xffff_ffff
}

/// A number below `limit`, from 32 random bits.
pub(super) fn below(limit: u64, bits: u64) -> u64 {
    ((u128::from(limit) * u128::from(bits)) >> 32) as u64
}

/// A share from 0 to 1, to compare 32 random bits with: exactly none at 0 and all at 1.
pub(super) fn threshold(share: f64) -> u64 {
    (share * 4_294_967_296.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::Draws;

    #[test]
    fn the_numbers_are_the_same_for_ever() {
        let mut draws = Draws(0);
        // The first outputs of splitmix64 with seed 0, as published with it.
        assert_eq!([draws.next(), draws.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }
}
