//! [`Work`]: what runs of intervals would take, for people and for programs: what they read, what of their targets they
//! write anew, and what their operators may hold in memory.
//!
//! **Invariant:** what is not known is no zero, and what may turn out less says so.

use serde_json::{Value, json};
use tidemill_checkpoint::Manifest;
use tidemill_model::{Error, Interval, Result};
use tidemill_runtime::Rewrites;
use tidemill_sql::batch::{Amount, Anew, Forecast, Foretold, forecast};

use super::numbers::{bytes, counted, grouped};
use crate::Workspace;

/// What runs would take.
pub(super) struct Work {
    runs: usize,
    found: Forecast,
    /// How many bytes the operators of one run may hold.
    memory: usize,
}

impl Work {
    /// That of these runs of a pipeline, in this order. Nothing is run, created or locked.
    ///
    /// # Errors
    /// Plan, as a run would answer.
    pub(super) fn of(
        workspace: &Workspace,
        pipeline: &str,
        record: Option<&Manifest>,
        runs: &[(Interval, Anew)],
    ) -> Result<Work> {
        let resources = workspace.resources();
        let found = match runs {
            [] => Forecast { reads: Vec::new(), rewrites: Vec::new() },
            runs => forecast(&workspace.catalog, pipeline, &resources, record, runs)?,
        };
        Ok(Work { runs: runs.len(), found, memory: resources.memory })
    }

    /// For how many runs it is.
    pub(super) fn runs(&self) -> u64 {
        self.runs as u64
    }

    /// A line for each dataset; none when nothing is to be run.
    pub(super) fn lines(&self) -> Vec<String> {
        if self.runs == 0 {
            return Vec::new();
        }
        let reads = self.found.reads.iter().map(|read| said(read, read_words));
        let anew = |target: &&Foretold<Option<Rewrites>>| !matches!(&target.found, Ok(Some(of)) if of.files == 0);
        let rewrites = self.found.rewrites.iter().filter(anew);
        let mut rewrites: Vec<String> = rewrites.map(|target| said(target, rewrite_words)).collect();
        if rewrites.is_empty() && !self.found.rewrites.is_empty() {
            rewrites.push("nothing that is there".to_owned());
        }
        let memory =
            format!("at most {} for the operators of each run, which then spill or fail", bytes(self.memory as u64));
        let labelled = |label: &str, text: String| format!("{label:<10}{text}");
        let reads = reads.map(|text| labelled("reads", text));
        let rewrites = rewrites.into_iter().map(|text| labelled("rewrites", text));
        reads.chain(rewrites).chain([labelled("memory", memory)]).collect()
    }

    /// The same for programs: what is not known is null, beside the reason.
    pub(super) fn as_json(&self) -> Value {
        let unknown = |error: &Error| error.message().to_owned();
        let reads = self.found.reads.iter().map(|read| {
            let of = read.found.as_ref().ok();
            json!({
                "dataset": read.dataset,
                "splits": of.map(|of| of.splits),
                "splits_of_unknown_size": of.map(|of| of.unsized_splits),
                "new_splits": of.map(|of| of.new_splits),
                "reads_at_least": of.map(|of| of.least_reads),
                "reads_at_most": of.map(|of| of.most_reads),
                "bytes_at_least": of.map(|of| of.least_bytes),
                "bytes_at_most": of.map(|of| of.most_bytes),
                "unknown": read.found.as_ref().err().map(unknown),
            })
        });
        let rewrites = self.found.rewrites.iter().map(|target| {
            let of = target.found.as_ref().ok().and_then(Option::as_ref);
            let why = match &target.found {
                Ok(Some(_)) => None,
                Ok(None) => Some(UNTOLD.to_owned()),
                Err(error) => Some(unknown(error)),
            };
            json!({
                "target": target.dataset,
                "files": of.map(|of| of.files),
                "rewrites": of.map(|of| of.times),
                "bytes": of.map(|of| of.bytes),
                "at_most": of.map(|of| of.at_most),
                "unknown": why,
            })
        });
        json!({
            "intervals": self.runs,
            "reads": reads.collect::<Vec<_>>(),
            "rewrites": rewrites.collect::<Vec<_>>(),
            "operator_memory_at_most": self.memory,
        })
    }
}

/// Why nothing is known of a target that answers nothing.
const UNTOLD: &str = "its connector does not tell";

fn said<T>(foretold: &Foretold<T>, words: impl Fn(&str, &T) -> String) -> String {
    match &foretold.found {
        Ok(found) => words(&foretold.dataset, found),
        Err(error) => format!("– of {}: {}", foretold.dataset, error.message()),
    }
}

fn read_words(dataset: &str, of: &Amount) -> String {
    if of.splits == 0 {
        return format!("nothing of {dataset}");
    }
    let (least, most) = (bytes(of.least_bytes), bytes(of.most_bytes));
    let how_much = match of.least_bytes {
        _ if of.unsized_splits == of.splits => "–".to_owned(),
        _ if least == most => most,
        0 => format!("at most {most}"),
        _ => format!("at least {least}, at most {most}"),
    };
    let sizes = match of.unsized_splits {
        0 => String::new(),
        n if n == of.splits => ", whose size is not known".to_owned(),
        n => format!(", {} of unknown size beside them", grouped(n)),
    };
    let often = match of.new_splits {
        0 => often("read", of.splits, of.most_reads, of.least_reads < of.most_reads),
        n if n == of.splits => ", all new: the first run learns their times".to_owned(),
        n => format!(", {} of them new: the first run learns their times", grouped(n)),
    };
    format!("{how_much} in {} of {dataset}{sizes}{often}", counted(of.splits, "split"))
}

fn rewrite_words(target: &str, of: &Option<Rewrites>) -> String {
    let Some(of) = of else { return format!("– of {target}: {UNTOLD}") };
    let most = if of.at_most { "at most " } else { "" };
    let often = often("written", of.files, of.times, of.at_most);
    format!("{most}{} in {} of {target}{often}", bytes(of.bytes), counted(of.files, "file"))
}

/// How often all of them together are read or written, when that is more than once each.
fn often(done: &str, of: u64, times: u64, at_most: bool) -> String {
    if times <= of {
        return String::new();
    }
    format!(", {done} {}{}", if at_most { "up to " } else { "" }, counted(times, "time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(splits: u64, (least_reads, most_reads): (u64, u64), (least_bytes, most_bytes): (u64, u64)) -> Amount {
        Amount { splits, unsized_splits: 0, new_splits: 0, least_reads, most_reads, least_bytes, most_bytes }
    }

    #[test]
    fn what_is_read_says_how_sure_it_is() {
        let cases = [
            (amount(1, (1, 1), (2048, 2048)), "2.0 KiB in 1 split of t"),
            (amount(1, (6, 6), (12_288, 12_288)), "12 KiB in 1 split of t, read 6 times"),
            (amount(48, (0, 96), (0, 4096)), "at most 4.0 KiB in 48 splits of t, read up to 96 times"),
            (
                Amount { new_splits: 3, ..amount(3, (3, 9), (1024, 4096)) },
                "at least 1.0 KiB, at most 4.0 KiB in 3 splits of t, all new: the first run learns their times",
            ),
            (
                Amount { new_splits: 1, ..amount(3, (0, 9), (0, 4096)) },
                "at most 4.0 KiB in 3 splits of t, 1 of them new: the first run learns their times",
            ),
            (amount(0, (0, 0), (0, 0)), "nothing of t"),
            (Amount { unsized_splits: 2, ..amount(2, (2, 2), (0, 0)) }, "– in 2 splits of t, whose size is not known"),
            (
                Amount { unsized_splits: 1, ..amount(2, (2, 2), (7, 7)) },
                "7 B in 2 splits of t, 1 of unknown size beside them",
            ),
        ];
        for (of, words) in cases {
            assert_eq!(read_words("t", &of), words);
        }
    }

    #[test]
    fn what_is_written_anew_says_whether_it_may_be_less() {
        let of = |files, times, bytes, at_most| Some(Rewrites { files, times, bytes, at_most });
        assert_eq!(rewrite_words("t", &of(1, 1, 10, false)), "10 B in 1 file of t");
        assert_eq!(
            rewrite_words("t", &of(12, 1_200, 1 << 20, true)),
            "at most 1.0 MiB in 12 files of t, written up to 1,200 times"
        );
        assert_eq!(rewrite_words("t", &None), "– of t: its connector does not tell");
    }
}
