//! [`KeyPartitioner`]: which partition a row goes to by its key.
//!
//! **Invariant:** the same key text goes to the same partition as with Kafka's Java client: murmur2, sign bit off, modulo.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use tidemill_model::{Error, Result};

/// Kafka's murmur2 over bytes.
pub(super) fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut h: u32 = 0x9747_b28c ^ length;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = super::frame::u32_at(word, 0).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// Sends rows to partitions by a key column's text form.
#[derive(Debug)]
pub(super) struct KeyPartitioner {
    column: usize,
    partitions: u32,
}

impl KeyPartitioner {
    /// By this column of every batch.
    pub(super) fn new(column: usize, partitions: u32) -> KeyPartitioner {
        KeyPartitioner { column, partitions }
    }

    /// Pushes the partition of each row to `to`; rows without a key go to `keyless`.
    pub(super) fn assign(&self, rows: &RecordBatch, keyless: u32, to: &mut Vec<u32>) -> Result<()> {
        let column = rows.column(self.column);
        let place = |text: &[u8]| (murmur2(text) & 0x7fff_ffff) % self.partitions;
        match column.data_type() {
            DataType::Int64 => {
                let mut digits = itoa::Buffer::new();
                let keys = column.as_primitive::<Int64Type>();
                to.extend(keys.iter().map(|key| key.map_or(keyless, |key| place(digits.format(key).as_bytes()))));
            }
            DataType::Utf8 => {
                let keys = column.as_string::<i32>();
                to.extend(keys.iter().map(|key| key.map_or(keyless, |key| place(key.as_bytes()))));
            }
            other => {
                let text = cast(column, &DataType::Utf8).map_err(|error| {
                    Error::internal(format!("a key of type {other} has no text form")).because(error)
                })?;
                to.extend(text.as_string::<i32>().iter().map(|key| key.map_or(keyless, |key| place(key.as_bytes()))));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyPartitioner, murmur2};
    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use std::sync::Arc;

    /// From the test of Kafka's own `Utils.murmur2`.
    #[test]
    fn murmur2_is_kafkas() {
        let cases: [(&str, i32); 7] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), expected, "{text}");
        }
    }

    #[test]
    fn a_number_and_its_text_share_a_partition() {
        let numbers = Int64Array::from(vec![Some(7), Some(-12), None]);
        let texts = StringArray::from(vec![Some("7"), Some("-12"), None]);
        let rows =
            RecordBatch::try_from_iter([("n", Arc::new(numbers) as _), ("t", Arc::new(texts) as _)]).expect("batch");
        let (mut by_number, mut by_text) = (Vec::new(), Vec::new());
        KeyPartitioner::new(0, 8).assign(&rows, 5, &mut by_number).expect("assigns");
        KeyPartitioner::new(1, 8).assign(&rows, 5, &mut by_text).expect("assigns");
        assert_eq!(by_number, by_text);
        assert_eq!(by_number[2], 5);
    }
}
