//! What a view shows at any epoch is the answer over exactly the rows that the epoch's manifest says were read.
//!
//! **Invariant:** rows of a prefix are read back from the topics by the manifest's offsets alone, and answered by the oracle.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
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
            let rows = below(self.workspace, &input.table, manifest.sources.get(&input.table).unwrap_or(&none))?;
            read.insert(input.table.clone(), rows.num_rows());
            tables.insert(input.table.clone(), rows);
        }
        let expected = oracle::answer(self.runtime, self.case, &tables).expect("the oracle answered before");
        let shown = ask(self.runtime, self.workspace, &format!("SELECT {} FROM result", self.columns.join(", ")))?;
        let rows = |batches: &[RecordBatch]| Multiset::of(batches, &self.case.tolerances).expect("rows can be shown");
        let difference = rows(&shown).difference(&rows(&expected));
        Ok(difference.map(|difference| format!("epoch {} over {read:?}: {difference}", manifest.epoch)))
    }
}

/// The rows of a topic below the offsets on record.
fn below(workspace: &Workspace, table: &str, progress: &SourceProgress) -> Result<RecordBatch> {
    let spec = workspace.catalog.spec(table, Side::Live)?;
    let source = workspace.catalog.source(table, Side::Live)?;
    let mut decoder = spec.format.as_ref().expect("topics have a format").decoder(spec.schema.clone())?;
    let mut batches = Vec::new();
    for split in source.list_splits()? {
        let Some(offset) = progress.splits.get(&split.id).and_then(|split| split.offset.as_ref()) else { continue };
        let mut reader = source.open(&split, None, &ReadHints::default())?;
        reader.stop_at(offset)?;
        while let Pull::Rows(rows) = reader.next()? {
            let Payload::Records(records) = rows.payload else { panic!("topics give records") };
            batches.push(decoder.decode(&records)?.batch);
        }
    }
    Ok(concat_batches(&spec.schema, &batches).expect("one schema"))
}
