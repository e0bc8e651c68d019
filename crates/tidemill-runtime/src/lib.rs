//! The contracts of sources, formats, operators and sinks, and the stream executor that drives them.
//!
//! **Invariant:** this crate does not know DataFusion, SQL or any connector. The engine drives and pulls; a connector
//! never sees barriers, commands or clocks.

mod batch;
mod changelog;
mod connector;
mod dead_letter;
mod error_limit;
pub mod exec;
mod format;
mod gate;
mod graph;
mod intake;
pub mod ipc;
mod late_row;
mod lineage;
mod looked_up;
mod memory;
mod operator;
mod part;
mod rewrites;
mod route;
mod row_text;
mod sink;
mod source;
mod stored;
mod view_log;

pub use batch::Batch;
pub use changelog::{BEFORE, OP, changed_schema, changelog_schema};
pub use connector::{Connector, DatasetSpec, Environment};
pub use dead_letter::{
    DeadLetter, Filed, STATEMENT, dead_letter_batch, dead_letter_schema, letters_as_table, row_as_json, rows_as_json,
};
pub use error_limit::ErrorLimit;
pub use format::{BadRecord, Decoded, Decoder, Encoder, Format};
pub use gate::{Accepted, Gate};
pub use graph::{DecoderFactory, Edge, GateFactory, Graph, Node, NodeId, NodeKind, Route, SourceNode, SourceTime};
pub use intake::{Intake, Taken};
pub use late_row::{LateRow, late_batch, late_schema};
pub use looked_up::{AtOnce, Background, LookedUp, Rows, Threads, Version, Versions};
pub use memory::{ColdFile, ColdReader, ColdWriter, Parked, Share, StateMemory, bytes_of};
pub use operator::{EpochEnd, Operator, OperatorFactory, Output, Reentrance, StateChunk};
pub use part::TablePart;
pub use rewrites::Rewrites;
pub use row_text::RowText;
pub use sink::{Committable, Sink, SinkCommitter, SinkTarget, SinkWriter, WriteMode};
pub use source::{
    Boundedness, ColumnBounds, Needed, Payload, Positions, Pull, ReadHints, Records, Source, SourceBatch, Split,
    SplitReader,
};
pub use stored::Stored;
pub use view_log::{GONE, WEIGHT, standing_rows};
