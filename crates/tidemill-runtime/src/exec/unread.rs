//! [`unread`]: whether a source has rows that an epoch did not read.
//!
//! **Invariant:** it reads at most one batch of each split and changes nothing.

use tidemill_checkpoint::SourceProgress;
use tidemill_model::{Result, SplitId};

use crate::{Boundedness, Pull, SourceNode, Split};

/// Rows that an epoch did not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// More rows in a split that it knows, or a split that it does not know: the next run reads them.
    Rows(SplitId),
    /// A split that a bounded source found after its first listing: no run of this state reads it.
    After(SplitId),
}

/// The first split of a source with rows beyond its progress; `None` when everything that is there was read.
///
/// # Errors
/// Whatever the source answers.
pub fn unread(node: &SourceNode, progress: Option<&SourceProgress>) -> Result<Option<Unread>> {
    let context = |e: tidemill_model::Error| e.context(format!("reading {}", node.dataset));
    let nothing = SourceProgress::default();
    let progress = progress.unwrap_or(&nothing);
    // As the board has it: a bounded source is what it was at its first listing.
    let frozen = node.source.boundedness() == Boundedness::Bounded && !progress.splits.is_empty();
    for split in node.source.list_splits().map_err(context)? {
        match progress.splits.get(&split.id) {
            None if frozen => return Ok(Some(Unread::After(split.id))),
            None => return Ok(Some(Unread::Rows(split.id))),
            Some(read) if read.finished => {}
            Some(read) => {
                if has_rows(node, &split, read.offset.as_ref()).map_err(context)? {
                    return Ok(Some(Unread::Rows(split.id)));
                }
            }
        }
    }
    Ok(None)
}

fn has_rows(node: &SourceNode, split: &Split, offset: Option<&tidemill_model::Offset>) -> Result<bool> {
    let mut reader = node.source.open(split, offset, &node.hints)?;
    reader.bound_to_present()?;
    Ok(matches!(reader.next()?, Pull::Rows(_)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;
    use bytes::Bytes;
    use tidemill_checkpoint::SplitProgress;
    use tidemill_model::{Error, Offset};

    use super::*;
    use crate::{Payload, Positions, ReadHints, Records, Source, SourceBatch, SplitReader};

    /// Splits of so many rows.
    #[derive(Debug)]
    struct Counting(Boundedness, Vec<u64>);

    struct Reader(u64, u64);

    impl Source for Counting {
        fn boundedness(&self) -> Boundedness {
            self.0
        }

        fn list_splits(&self) -> Result<Vec<Split>> {
            let ids = (0..self.1.len()).map(|i| SplitId::new(i.to_string()));
            Ok(ids
                .map(|id| Split {
                    id,
                    finite: false,
                    min_event_time: None,
                    max_event_time: None,
                    bytes: None,
                    content: None,
                })
                .collect())
        }

        fn open(&self, split: &Split, at: Option<&Offset>, _: &ReadHints) -> Result<Box<dyn SplitReader>> {
            let end = split.id.as_str().parse::<usize>().ok().and_then(|at| self.1.get(at)).copied();
            Ok(Box::new(Reader(at.and_then(Offset::as_number).unwrap_or(0), end.unwrap_or(0))))
        }
    }

    impl SplitReader for Reader {
        fn next(&mut self) -> Result<Pull> {
            if self.0 >= self.1 {
                return Ok(Pull::AtEnd);
            }
            self.0 += 1;
            let payload =
                Payload::Records(Records { data: Bytes::new(), ends: None, positions: Positions::Numbered(0) });
            Ok(Pull::Rows(SourceBatch { payload, resume: Offset::number(self.0), arrived: None, first: None }))
        }

        fn bound_to_present(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn asked(boundedness: Boundedness, rows: &[u64], read: &[(usize, Option<u64>)]) -> Option<Unread> {
        let node = SourceNode {
            dataset: "orders".to_owned(),
            source: Arc::new(Counting(boundedness, rows.to_vec())),
            hints: ReadHints::default(),
            decoder: None,
            gate: Arc::new(|| Err(Error::internal("not asked for"))),
            time: None,
            schema: Arc::new(Schema::empty()),
            rules: Arc::default(),
            changes: false,
        };
        let of = |(split, at): &(usize, Option<u64>)| {
            let progress = match at {
                Some(at) => SplitProgress { offset: Some(Offset::number(*at)), ..SplitProgress::default() },
                None => SplitProgress { finished: true, ..SplitProgress::default() },
            };
            (SplitId::new(split.to_string()), progress)
        };
        let progress = SourceProgress { splits: read.iter().map(of).collect(), watermark: None };
        unread(&node, Some(&progress)).expect("answers")
    }

    #[test]
    fn what_was_not_read_is_found() {
        use Boundedness::{Bounded, Unbounded};
        let split = |at: usize| SplitId::new(at.to_string());
        assert_eq!(asked(Unbounded, &[3, 0], &[(0, Some(3)), (1, Some(0))]), None);
        assert_eq!(asked(Unbounded, &[3, 1], &[(0, Some(3)), (1, Some(0))]), Some(Unread::Rows(split(1))));
        assert_eq!(asked(Unbounded, &[3, 1], &[(0, Some(3))]), Some(Unread::Rows(split(1))));
        assert_eq!(asked(Unbounded, &[3], &[(0, None)]), None, "a finished split is not opened");
        assert_eq!(asked(Bounded, &[3, 1], &[(0, None)]), Some(Unread::After(split(1))));
        assert_eq!(asked(Bounded, &[3], &[]), Some(Unread::Rows(split(0))));
    }
}
