//! [`Staging`]: encoded state of an epoch on its way to the checkpoint store: in memory as far as there is room, the rest in
//! one file of the tier.
//!
//! **Invariant:** what one lane stages takes no more memory than its share of a sixteenth of what states may take.

use bytes::Bytes;
use tidemill_model::{Error, Result};

use crate::{ColdFile, ColdReader, ColdWriter, StateMemory};

/// However little memory there is, so many bytes stay in it.
const LEAST_ROOM: usize = 1 << 20;

/// What a lane has staged of the epoch in hand.
#[derive(Debug)]
pub(super) struct Staging {
    memory: StateMemory,
    room: usize,
    here: usize,
    file: Option<ColdWriter>,
}

/// Encoded rows.
#[derive(Debug)]
pub(crate) enum Staged {
    /// In memory.
    Here(Bytes),
    /// In the lane's file, so many bytes from this place.
    There(u64, usize),
}

impl Staging {
    pub(super) fn new(memory: StateMemory, lanes: usize) -> Staging {
        let room = (memory.limit() / 16 / lanes.max(1)).max(LEAST_ROOM);
        Staging { memory, room, here: 0, file: None }
    }

    /// Stages these bytes.
    pub(super) fn add(&mut self, bytes: Bytes) -> Result<Staged> {
        let share = self.memory.share();
        if self.here + bytes.len() <= self.room || !share.is_bounded() {
            self.here += bytes.len();
            return Ok(Staged::Here(bytes));
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(share.file()?),
        };
        let from = file.bytes();
        file.write(&bytes)?;
        Ok(Staged::There(from, bytes.len()))
    }

    /// The epoch is staged: the file, if one was needed.
    pub(super) fn finish(&mut self) -> Result<Option<ColdFile>> {
        self.here = 0;
        self.file.take().map(ColdWriter::finish).transpose()
    }
}

impl Staged {
    /// The bytes; `file` reads what [`Staging::finish`] answered.
    pub(super) fn read(&self, file: Option<&mut ColdReader>) -> Result<Bytes> {
        match (self, file) {
            (Staged::Here(bytes), _) => Ok(bytes.clone()),
            (Staged::There(from, length), Some(file)) => {
                let mut bytes = vec![0; *length];
                file.go_to(*from)?;
                file.fill(&mut bytes)?;
                Ok(Bytes::from(bytes))
            }
            (Staged::There(..), None) => Err(Error::internal("staged state is nowhere")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_lies_in_one_file_and_is_read_in_any_order() {
        let folder = std::env::temp_dir().join("tidemill-staging-parts");
        let memory = StateMemory::open(1, &folder).expect("a budget");
        let mut staging = Staging::new(memory, 2);
        for epoch in 0_u8..3 {
            let parts: Vec<Bytes> = (0_u8..5).map(|part| Bytes::from(vec![epoch * 10 + part; 400_000])).collect();
            let staged: Vec<Staged> = parts.iter().map(|part| staging.add(part.clone()).expect("stages")).collect();
            assert!(matches!(
                staged[..],
                [Staged::Here(_), Staged::Here(_), Staged::There(0, _), Staged::There(400_000, _), _]
            ));
            let file = staging.finish().expect("is staged").expect("a file");
            let mut reader = file.open().expect("opens");
            for at in [4, 2, 0, 3, 1] {
                assert_eq!(staged[at].read(Some(&mut reader)).expect("reads"), parts[at]);
            }
            staged[4].read(None).expect_err("the file is asked for");
        }
        staging.add(Bytes::from_static(b"small")).expect("stages");
        assert!(staging.finish().expect("is staged").is_none());
    }
}
