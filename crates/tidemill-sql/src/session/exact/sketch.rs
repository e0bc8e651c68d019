//! [`Sketch`]: counts of values in buckets that grow by a constant factor (DDSketch, VLDB 2019), without collapsing.
//!
//! **Invariant:** a bucket's count is the number of values in it, so merging adds, taking back subtracts, and no order
//! matters. A quantile is within 1 % of a value that has its rank.

use std::collections::BTreeMap;

/// The greatest relative error.
const ERROR: f64 = 0.01;
/// Buckets of magnitudes lie in about −75,000 to 36,000; this makes their numbers positive, so that a sign fits.
const SHIFT: i32 = 1 << 20;
const INFINITE: i32 = 1 << 22;
const NOT_A_NUMBER: i32 = i32::MAX;

/// Numbers by bucket; the order of buckets is that of the numbers in them, NaN the greatest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sketch {
    buckets: BTreeMap<i32, u64>,
    count: u64,
}

fn growth() -> f64 {
    (1.0 + ERROR) / (1.0 - ERROR)
}

fn bucket_of(value: f64) -> i32 {
    if value.is_nan() {
        return NOT_A_NUMBER;
    }
    if value == 0.0 {
        return 0;
    }
    let magnitude = value.abs();
    let bucket =
        if magnitude.is_infinite() { INFINITE } else { SHIFT + (magnitude.ln() / growth().ln()).ceil() as i32 };
    if value < 0.0 { -bucket } else { bucket }
}

fn value_of(bucket: i32) -> f64 {
    if bucket == NOT_A_NUMBER {
        return f64::NAN;
    }
    let magnitude = match bucket.abs() {
        0 => return 0.0,
        INFINITE => f64::INFINITY,
        // In the middle of the bucket's bounds by their relative distances.
        shifted => 2.0 * growth().powi(shifted - SHIFT) / (growth() + 1.0),
    };
    if bucket < 0 { -magnitude } else { magnitude }
}

impl Sketch {
    /// Adds a value.
    pub(super) fn add(&mut self, value: f64) {
        self.add_to(bucket_of(value), 1);
    }

    /// Adds values that lie in a bucket.
    pub(super) fn add_to(&mut self, bucket: i32, count: u64) {
        *self.buckets.entry(bucket).or_insert(0) += count;
        self.count += count;
    }

    /// Takes a value back.
    pub(super) fn remove(&mut self, value: f64) {
        let bucket = bucket_of(value);
        if let Some(count) = self.buckets.get_mut(&bucket) {
            *count = count.saturating_sub(1);
            self.count = self.count.saturating_sub(1);
            if *count == 0 {
                self.buckets.remove(&bucket);
            }
        }
    }

    /// About the value below which the share `quantile` of the others lies; `None` of no values.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * (self.count.checked_sub(1)? as f64);
        let mut below = 0_u64;
        for (bucket, count) in &self.buckets {
            below += count;
            if below as f64 > rank {
                return Some(value_of(*bucket));
            }
        }
        self.buckets.keys().next_back().map(|bucket| value_of(*bucket))
    }

    /// The buckets in order, with their counts.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        self.buckets.iter().map(|(bucket, count)| (*bucket, *count))
    }

    /// How many buckets.
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_one_percent() {
        for scale in [1e-300, 1e-3, 1.0, 1e6, 1e290] {
            let values: Vec<f64> = (-500..1_500).map(|i| f64::from(i) * scale).collect();
            let mut sketch = Sketch::default();
            values.iter().for_each(|value| sketch.add(*value));
            for quantile in [0.0, 0.1, 0.25, 0.5, 0.95, 1.0] {
                let exact = values[(quantile * (values.len() - 1) as f64).floor() as usize];
                let got = sketch.quantile(quantile).expect("values");
                assert!((got - exact).abs() <= 0.0101 * exact.abs(), "{quantile} of {scale}: {got} for {exact}");
            }
        }
    }

    #[test]
    fn order_and_grouping_do_not_matter_and_values_can_be_taken_back() {
        let values = [3.0, -7.5, 0.0, 1e300, f64::NEG_INFINITY, 3.0, f64::NAN, 0.1, -0.0];
        let mut all = Sketch::default();
        values.iter().for_each(|value| all.add(*value));
        let mut parts = Sketch::default();
        values.iter().rev().chain([&42.0]).for_each(|value| parts.add(*value));
        parts.remove(42.0);
        assert_eq!(all, parts);
        assert_eq!(all.quantile(0.0), Some(f64::NEG_INFINITY));
        assert!(all.quantile(1.0).expect("values").is_nan());
        assert_eq!(Sketch::default().quantile(0.5), None);
    }
}
