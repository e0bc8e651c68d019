//! [`Reentry`]: dead letters that enter again, all in one epoch.
//!
//! The job goes on from the newest manifest as any other, but its sources give letters in the place of records: raw bytes
//! through the decoder and the gate as they are now, rows that an expression failed on at the step that they failed in.
//! Offsets and time stay where they are, so a row whose window has closed is late, and nothing else changes. The epoch
//! that holds the results marks the letters; what fails again is a letter of that epoch.
//!
//! **Invariant:** there is one epoch. Death before its manifest leaves every letter as it was, death after it none of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tidemill_checkpoint::{Checkpoints, Letters, Manifest, reentered};
use tidemill_model::{Epoch, Error, Kind, Offset, Result, SplitId, Timestamp, Trigger};

use super::exchange::lock;
use super::job::Job;
use super::rebuild::DEAD_BYTES;
use crate::{
    Accepted, Batch, Boundedness, DeadLetter, Decoder, Edge, ErrorLimit, Filed, Gate, Graph, Node, NodeId, NodeKind,
    Payload, Positions, Pull, ReadHints, Records, RowText, Source, SourceBatch, SourceNode, Split, SplitReader,
};

/// Bytes of letters in one batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// And how many.
const BATCH_ROWS: usize = 8192;

/// The letters that enter again.
#[derive(Debug, Clone, Default)]
pub struct Reentry {
    /// Where they do.
    pub entries: Vec<Entry>,
    /// Which they are, to be marked.
    pub letters: Letters,
    /// How many of them were counted, by dataset and reason.
    pub counted: BTreeMap<String, BTreeMap<String, u64>>,
}

/// Letters that enter at one node.
#[derive(Debug, Clone)]
pub struct Entry {
    /// A source; or an operator that says what a row must have to [enter again](crate::OperatorFactory::reentrance).
    pub node: String,
    /// The letters.
    pub letters: Vec<Entering>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Entering {
    /// Its dataset.
    pub dataset: String,
    /// Where its record was read, or the statement that failed.
    pub split: String,
    /// And its position there.
    pub position: u64,
    /// What enters.
    pub raw: Bytes,
    /// How often it has entered before.
    pub attempts: u64,
}

/// What the epoch must know of the letters beside its rows.
pub(crate) struct Reentering {
    /// Source node of the job to the step that it stands for, if it stands for one, and its letters.
    at: BTreeMap<String, (Option<String>, Arc<Vec<Entering>>)>,
    /// Of the letters of steps, by dataset and bytes: how often each has entered before.
    tried: Mutex<BTreeMap<(String, Bytes), Vec<u64>>>,
    letters: Letters,
    counted: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Reentering {
    /// Puts the letters in the place of what the job's sources read.
    ///
    /// # Errors
    /// Internal, when letters enter where none can.
    pub(crate) fn of(job: &mut Job, reentry: Reentry) -> Result<Reentering> {
        let mut at = BTreeMap::new();
        let mut tried: BTreeMap<(String, Bytes), Vec<u64>> = BTreeMap::new();
        let mut by_node: BTreeMap<String, Arc<Vec<Entering>>> =
            reentry.entries.into_iter().map(|entry| (entry.node, Arc::new(entry.letters))).collect();
        for node in &mut job.graph.nodes {
            let NodeKind::Source(source) = &mut node.kind else { continue };
            let letters = by_node.remove(&node.name).unwrap_or_default();
            source.source = Arc::new(Pile(Arc::clone(&letters)));
            source.time = None;
            if let (None, Some(schema)) = (&source.decoder, source.hints.schema.clone()) {
                let read: Vec<usize> = (0..schema.fields().len()).collect();
                source.decoder = Some(Arc::new(move || Ok(Box::new(RowText::new(&schema, &read)) as Box<dyn Decoder>)));
            }
            at.insert(node.name.clone(), (None, letters));
        }
        for (step, letters) in by_node {
            let name = format!("letters of {step}");
            for letter in letters.iter() {
                tried.entry((letter.dataset.clone(), letter.raw.clone())).or_default().push(letter.attempts);
            }
            enter(&mut job.graph, &step, &name, &letters)?;
            at.insert(name, (Some(step), letters));
        }
        job.trigger = Trigger::Once;
        job.limits.epoch_rows = u64::MAX;
        job.limits.dead_bytes = DEAD_BYTES;
        // They have failed before, so how many do says nothing of the query.
        job.errors = ErrorLimit::None;
        Ok(Reentering { at, tried: Mutex::new(tried), letters: reentry.letters, counted: reentry.counted })
    }

    /// Whether a source node of the job stands for a step.
    pub(crate) fn is_of_step(&self, source: &str) -> bool {
        self.at.get(source).is_some_and(|(step, _)| step.is_some())
    }

    /// A record that a source of the job refused, as the letter that it was.
    pub(crate) fn again(&self, source: &str, letter: DeadLetter) -> Filed {
        let found = self.at.get(source);
        let before = found.and_then(|(_, letters)| letters.get(usize::try_from(letter.position).ok()?));
        let (Some((step, _)), Some(before)) = (found, before) else { return Filed::from(letter) };
        let letter = DeadLetter { split: before.split.clone(), position: before.position, ..letter };
        Filed { letter, step: step.clone(), attempts: before.attempts + 1 }
    }

    /// A row that failed in a step, as the letter that it was if it was one.
    pub(crate) fn failed(&self, filed: Filed) -> Filed {
        let key = (filed.letter.dataset.clone(), filed.letter.raw.clone());
        let before = lock(&self.tried).get_mut(&key).and_then(Vec::pop);
        Filed { attempts: before.map_or(0, |attempts| attempts + 1), ..filed }
    }

    /// Writes the marks of an epoch, and answers its manifest.
    pub(crate) fn record(&self, store: &Checkpoints, record: &Manifest, drafted: Manifest) -> Result<Manifest> {
        store.write_replayed(drafted.epoch, &self.letters)?;
        Ok(reentered(record, drafted, &self.counted))
    }
}

/// The error of letters that do not fit into one epoch.
pub(crate) fn too_many(epoch: Epoch) -> Error {
    Error::new(Kind::Config, "C180", "more than 1 GiB of the letters failed again, which does not fit into one epoch")
        .fact("replay fewer at a time: choose them with --dataset, --reason or --where")
        .fact(format!("nothing was changed: epoch {epoch} stands"))
}

/// Adds a source of letters before a step, in front of all nodes, since edges go to later ones only.
fn enter(graph: &mut Graph, step: &str, name: &str, letters: &Arc<Vec<Entering>>) -> Result<()> {
    let nowhere = || Error::internal(format!("no letter can enter at `{step}`"));
    let place = graph.nodes.iter().position(|node| node.name == step).ok_or_else(nowhere)?;
    let NodeKind::Operator(factory) = &graph.nodes[place].kind else { return Err(nowhere()) };
    let reentrance = factory.reentrance().ok_or_else(nowhere)?;
    let edges = graph.nodes.iter().flat_map(|node| &node.outputs);
    let route = edges.filter(|edge| edge.to.0 == place && edge.input == 0).map(|edge| edge.route.clone()).next();
    let route = route.ok_or_else(nowhere)?;
    for edge in graph.nodes.iter_mut().flat_map(|node| &mut node.outputs) {
        edge.to.0 += 1;
    }
    let dataset = letters.first().map(|letter| letter.dataset.clone()).unwrap_or_default();
    let (schema, read) = (reentrance.schema, reentrance.read);
    let rows: SchemaRef = Arc::clone(&schema);
    let source = SourceNode {
        dataset,
        source: Arc::new(Pile(Arc::clone(letters))),
        hints: ReadHints::default(),
        decoder: Some(Arc::new(move || Ok(Box::new(RowText::new(&schema, &read)) as Box<dyn Decoder>))),
        gate: Arc::new(|| Ok(Box::new(Open) as Box<dyn Gate>)),
        time: None,
        schema: rows,
        rules: Arc::new(String::new()),
        changes: false,
    };
    let outputs = vec![Edge { to: NodeId(place + 1), input: 0, route }];
    graph.nodes.insert(0, Node { name: name.to_owned(), kind: NodeKind::Source(source), outputs });
    Ok(())
}

/// Letters as a source: one split, or none when there are none.
struct Pile(Arc<Vec<Entering>>);

impl fmt::Debug for Pile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} letters", self.0.len())
    }
}

impl Source for Pile {
    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        let split = Split {
            id: SplitId::new("letters"),
            finite: true,
            min_event_time: None,
            max_event_time: None,
            bytes: None,
            content: None,
        };
        Ok(if self.0.is_empty() { Vec::new() } else { vec![split] })
    }

    fn open(&self, _: &Split, _: Option<&Offset>, _: &ReadHints) -> Result<Box<dyn SplitReader>> {
        Ok(Box::new(Taking { letters: Arc::clone(&self.0), next: 0 }))
    }
}

/// Takes letters off the pile; the position of each is its place in it.
struct Taking {
    letters: Arc<Vec<Entering>>,
    next: usize,
}

impl SplitReader for Taking {
    fn next(&mut self) -> Result<Pull> {
        let first = self.next;
        let (mut data, mut ends) = (Vec::new(), Vec::new());
        while let Some(letter) = self.letters.get(self.next) {
            if ends.len() == BATCH_ROWS || !data.is_empty() && data.len() + letter.raw.len() > BATCH_BYTES {
                break;
            }
            data.extend_from_slice(&letter.raw);
            ends.push(u32::try_from(data.len()).map_err(|_| Error::internal("a letter of more than 4 GiB"))?);
            self.next += 1;
        }
        if ends.is_empty() {
            return Ok(Pull::Finished);
        }
        let records =
            Records { data: Bytes::from(data), ends: Some(ends), positions: Positions::Numbered(first as u64) };
        let resume = Offset::number(self.next as u64);
        Ok(Pull::Rows(SourceBatch { payload: Payload::Records(records), resume, arrived: None, first: None }))
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Lets every row through: those of a step passed their gate when they were read.
struct Open;

impl Gate for Open {
    fn accept(&mut self, batch: Batch) -> Result<Accepted> {
        Ok(Accepted { batch, dead: Vec::new(), newest: None, dropped: 0, warned: 0, before_start: 0 })
    }

    fn set_horizon(&mut self, _: Option<(Timestamp, Timestamp)>) {}
}
