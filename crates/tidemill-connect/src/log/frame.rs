//! [`FrameHeader`]: how a batch of records lies in a segment.
//!
//! A frame is a header of 40 bytes and a body: the end of each record as u32 (little endian, as all numbers here),
//! then the records' bytes, so that reading one is a map to `Records` without touching a record.
//!
//! **Invariant:** the header's CRC covers its own fields, among them the body's CRC; a frame with right CRCs is whole.

use bytes::Bytes;

/// The bytes of a header.
pub(super) const HEADER: usize = 40;

/// The first bytes of every frame; the last of them is the version of the layout.
const MAGIC: [u8; 4] = *b"TMF1";

/// What a frame says of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// The bytes of the body.
    pub(super) body: u32,
    /// The CRC32C of the body.
    pub(super) body_crc: u32,
    /// The offset of the first record.
    pub(super) base: u64,
    /// When the frame was committed, in microseconds since 1970.
    pub(super) timestamp: i64,
    /// How many records.
    pub(super) count: u32,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameFault {
    /// They do not begin as a frame does.
    Magic,
    /// The header's CRC is another.
    Header,
    /// The body's CRC is another.
    Body,
    /// The record ends do not fit the body.
    Ends,
}

impl FrameFault {
    /// The fault in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            FrameFault::Magic => "no frame begins here",
            FrameFault::Header => "the frame's header fails its CRC",
            FrameFault::Body => "the frame's records fail their CRC",
            FrameFault::Ends => "the frame's record ends do not fit its bytes",
        }
    }
}

impl FrameHeader {
    /// The header as bytes.
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.body.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.base.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.count.to_le_bytes());
        // Bytes 36..40 are for attributes to come; zero means none.
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from the first bytes of `bytes`, of which there are at least [`HEADER`].
    pub(super) fn parse(bytes: &[u8]) -> Result<FrameHeader, FrameFault> {
        if bytes.get(..4) != Some(MAGIC.as_slice()) {
            return Err(FrameFault::Magic);
        }
        let fields = bytes.get(8..HEADER).ok_or(FrameFault::Header)?;
        if u32_at(bytes, 4) != crc32c::crc32c(fields) {
            return Err(FrameFault::Header);
        }
        Ok(FrameHeader {
            body: u32_at(bytes, 8),
            body_crc: u32_at(bytes, 12),
            base: u64_at(bytes, 16),
            timestamp: u64_at(bytes, 24).cast_signed(),
            count: u32_at(bytes, 32),
        })
    }

    /// The bytes of header and body.
    pub(super) fn length(self) -> u64 {
        HEADER as u64 + u64::from(self.body)
    }

    /// The offset after the last record.
    pub(super) fn end(self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// Checks a body and splits it into record ends and records.
    pub(super) fn open(self, body: Bytes) -> Result<(Vec<u32>, Bytes), FrameFault> {
        if crc32c::crc32c(&body) != self.body_crc {
            return Err(FrameFault::Body);
        }
        let table = self.count as usize * 4;
        let ends: Vec<u32> = match body.get(..table) {
            Some(table) => table.chunks_exact(4).map(|end| u32_at(end, 0)).collect(),
            None => return Err(FrameFault::Ends),
        };
        let records = body.slice(table..);
        let ordered = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ordered || ends.last().map_or(0, |end| *end as usize) != records.len() {
            return Err(FrameFault::Ends);
        }
        Ok((ends, records))
    }
}

/// The u32 at a byte that exists.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The u64 at a byte that exists.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::{FrameFault, FrameHeader, HEADER};
    use bytes::Bytes;

    #[test]
    fn a_header_survives_and_a_flipped_bit_does_not() {
        let header = FrameHeader { body: 11, body_crc: 7, base: 1 << 40, timestamp: -5, count: 2 };
        let bytes = header.to_bytes();
        assert_eq!(FrameHeader::parse(&bytes), Ok(header));
        for byte in 0..HEADER {
            let mut bent = bytes;
            bent[byte] ^= 0x10;
            assert!(FrameHeader::parse(&bent).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn a_body_is_checked_before_it_is_used() {
        let mut body = Vec::new();
        for end in [1_u32, 3] {
            body.extend_from_slice(&end.to_le_bytes());
        }
        body.extend_from_slice(b"abc");
        let header = FrameHeader { body: 11, body_crc: crc32c::crc32c(&body), base: 0, timestamp: 0, count: 2 };
        let (ends, records) = header.open(Bytes::from(body.clone())).expect("whole");
        assert_eq!((ends, &records[..]), (vec![1, 3], &b"abc"[..]));
        body[9] ^= 1;
        assert_eq!(header.open(Bytes::from(body.clone())), Err(FrameFault::Body));
        let wrong = FrameHeader { body_crc: crc32c::crc32c(&body), count: 1, ..header };
        assert_eq!(wrong.open(Bytes::from(body)), Err(FrameFault::Ends));
    }
}
