//! Padmé: sizes that tell little (Nikitin and others, "Reducing Metadata Leakage from Encrypted Files and Communication with
//! PURBs", 2019). A size is rounded up so that only the upper bits of it can differ: by 12 % at most.

/// Nothing is smaller than this, in bytes.
const BYTES_MIN: u64 = 1024;

/// The size that something of `bytes` is padded to.
pub(super) fn padded_bytes(bytes: u64) -> u64 {
    let bytes = bytes.max(BYTES_MIN);
    let exponent = bytes.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    let mask = (1 << (exponent - kept_bits)) - 1;
    bytes.saturating_add(mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_costs_little_and_leaves_few_sizes() {
        let mut sizes = std::collections::BTreeSet::new();
        let mut bytes = 0;
        while bytes < 64 << 20 {
            let padded = padded_bytes(bytes);
            assert!(padded >= bytes && padded_bytes(padded) == padded);
            assert!(bytes < BYTES_MIN || padded - bytes <= bytes * 12 / 100);
            sizes.insert(padded);
            bytes += 997;
        }
        assert!(sizes.len() < 512, "{}", sizes.len());
        assert_eq!(padded_bytes(16 << 20), 16 << 20);
    }
}
