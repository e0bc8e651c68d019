//! What a view shows at any epoch is the answer over exactly the rows that the epoch's manifest says were read.
//!
//! **Invariant:** rows of a prefix are read back from the topics by the manifest's offsets alone, and answered by the oracle.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int64Type, Schema};
use tidemill::Workspace;
use tidemill_checkpoint::{Manifest, SourceProgress};
use tidemill_model::{Epoch, Result};
use tidemill_runtime::{Payload, Pull, ReadHints};
use tidemill_sql::Side;
use tidemill_testkit::{Multiset, Rng};
use tokio::runtime::Runtime;

use super::case::Case;
use super::execution::ask;
use super::oracle::{self, Tables};

/// Looks at a running pipeline from outside, as a reader of its view does.
pub(crate) struct Watcher<'a> {
    pub(crate) case: &'a Case,
    pub(crate) runtime: &'a Runtime,
    pub(crate) workspace: &'a Workspace,
    pub(crate) lookups: &'a Tables,
    /// The columns of the answer.
    pub(crate) columns: Vec<String>,
    /// The newest epoch that was looked at.
    pub(crate) seen: Epoch,
    /// How many epochs were compared.
    pub(crate) compared: u64,
    /// The first that was wrong.
    pub(crate) wrong: Option<String>,
}

impl Watcher<'_> {
    /// Compares the newest epoch, if it is another than the last time and the dice say so.
    pub(crate) fn look(&mut self, random: &mut Rng) -> Result<()> {
        let Some(manifest) = self.workspace.checkpoints("p").latest()? else { return Ok(()) };
        if manifest.epoch == self.seen || self.wrong.is_some() {
            return Ok(());
        }
        self.seen = manifest.epoch;
        if random.bool() {
            self.wrong = self.compare(&manifest)?;
            self.compared += 1;
        }
        Ok(())
    }

    fn compare(&self, manifest: &Manifest) -> Result<Option<String>> {
        let mut tables = self.lookups.clone();
        let mut read = BTreeMap::new();
        for input in &self.case.inputs {
            let none = SourceProgress::default();
            let (rows, weights) =
                below(self.workspace, &input.table, manifest.sources.get(&input.table).unwrap_or(&none))?;
            read.insert(input.table.clone(), rows.num_rows());
            let rows = if input.changes.is_some() { stand(&rows, &weights) } else { rows };
            tables.insert(input.table.clone(), rows);
        }
        let expected = oracle::answer(self.runtime, self.case, &tables).expect("the oracle answered before");
        let shown = ask(self.runtime, self.workspace, &format!("SELECT {} FROM result", self.columns.join(", ")))?;
        let rows = |batches: &[RecordBatch]| Multiset::of(batches, &self.case.tolerances).expect("rows can be shown");
        let difference = rows(&shown).difference(&rows(&expected));
        Ok(difference.map(|difference| format!("epoch {} over {read:?}: {difference}", manifest.epoch)))
    }
}

/// The rows of a topic below the offsets on record, and whether each comes or goes.
fn below(workspace: &Workspace, table: &str, progress: &SourceProgress) -> Result<(RecordBatch, Vec<i64>)> {
    let spec = workspace.catalog.spec(table, Side::Live)?;
    let source = workspace.catalog.source(table, Side::Live)?;
    let mut decoder = spec.format.as_ref().expect("topics have a format").decoder(spec.schema.clone())?;
    let (mut batches, mut weights) = (Vec::new(), Vec::new());
    for split in source.list_splits()? {
        let Some(offset) = progress.splits.get(&split.id).and_then(|split| split.offset.as_ref()) else { continue };
        let mut reader = source.open(&split, None, &ReadHints::default())?;
        reader.stop_at(offset)?;
        while let Pull::Rows(rows) = reader.next()? {
            let Payload::Records(records) = rows.payload else { panic!("topics give records") };
            let decoded = decoder.decode(&records)?;
            match decoded.weights {
                Some(of) => weights.extend(of.values()),
                None => weights.extend(vec![1; decoded.batch.num_rows()]),
            }
            batches.push(decoded.batch);
        }
    }
    // What may not be NULL is refused later, by whoever reads the table.
    let fields = spec.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let loose = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok((concat_batches(&loose, &batches).expect("one schema"), weights))
}

/// The rows that stand after changes by the first column: of each key the last one, unless it goes.
fn stand(rows: &RecordBatch, weights: &[i64]) -> RecordBatch {
    let keys = rows.column(0).as_primitive::<Int64Type>();
    let gone = rows.column_by_name("gone").map(|gone| gone.as_boolean());
    let mut standing = BTreeMap::new();
    for ((row, key), weight) in (0_u32..).zip(keys.values()).zip(weights) {
        let goes = *weight < 0 || gone.is_some_and(|gone| gone.is_valid(row as usize) && gone.value(row as usize));
        if goes {
            standing.remove(key);
        } else {
            standing.insert(*key, row);
        }
    }
    take_record_batch(rows, &UInt32Array::from_iter_values(standing.into_values())).expect("rows")
}
