//! [`stable_hash`]: a number that a text decides alone, for jitter without randomness.
//!
//! **Invariant:** the same on every machine and in every version of Tidemill; what was planned yesterday is due at the
//! same instant today.

/// FNV-1a of 64 bits over the parts, one after the other, each followed by a zero byte so that `ab`, `c` is not `a`,
/// `bc`.
pub(crate) fn stable_hash(parts: &[&[u8]]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::stable_hash;

    #[test]
    fn the_value_never_changes() {
        // A change here would move the runs of every pipeline.
        assert_eq!(stable_hash(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash(&[b"orders"]), 0xddc0_4b9f_33c6_b224);
        assert_ne!(stable_hash(&[b"ab", b"c"]), stable_hash(&[b"a", b"bc"]));
    }
}
