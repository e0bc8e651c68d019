//! What is printed, and when.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tempfile::TempDir;
use tidemill_model::{Clock, Epoch, Kind, Settings, Timestamp};
use tidemill_runtime::{
    Batch, Committable, Connector, DatasetSpec, Environment, Sink, SinkTarget, TablePart, WriteMode,
};

use super::Stdout;

#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// A terminal that is looked at afterwards, and that can be closed.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<(Vec<u8>, bool)>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut screen = self.0.lock().expect("unpoisoned");
        if screen.1 {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        screen.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("unpoisoned").0.clone()).expect("text")
    }
}

fn numbers(values: &[i64]) -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).expect("a batch")
}

fn sink(folder: &TempDir, screen: &Screen, mode: WriteMode) -> tidemill_model::Result<Arc<dyn Sink>> {
    let schema = numbers(&[]).schema();
    let spec = DatasetSpec {
        name: "out".to_owned(),
        schema: Arc::clone(&schema),
        event_time: None,
        settings: Settings::default(),
        format: None,
    };
    let target = SinkTarget {
        pipeline: "p".to_owned(),
        sink: "out".to_owned(),
        schema,
        mode,
        interval: None,
        staging: folder.path().join("staging"),
    };
    let env = Environment {
        project: folder.path().to_owned(),
        state: folder.path().to_owned(),
        clock: Arc::new(Still),
        stores: BTreeMap::new(),
    };
    Stdout::to(Arc::new(Mutex::new(screen.clone()))).sink(&spec, &target, &env)
}

fn stage(sink: &dyn Sink, lane: usize, epoch: u64, values: &[i64]) -> Vec<Committable> {
    let mut writer = sink.writer(lane).expect("a writer");
    writer.write(&Batch::inserts(numbers(values))).expect("written");
    writer.prepare(Epoch(epoch)).expect("prepared").into_iter().collect()
}

#[test]
fn rows_are_printed_at_their_commit_and_not_again() {
    let (folder, screen) = (TempDir::new().expect("a folder"), Screen::default());
    let sink = sink(&folder, &screen, WriteMode::Append).expect("a sink");
    let staged = [stage(&*sink, 0, 1, &[1, 2]), stage(&*sink, 1, 1, &[3]), stage(&*sink, 2, 1, &[])].concat();
    assert_eq!(screen.text(), "", "nothing is printed before the commit");
    for _ in 0..2 {
        sink.committer().expect("a committer").commit(Epoch(1), &staged).expect("committed");
        assert_eq!(screen.text(), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    }
}

#[test]
fn what_was_not_committed_is_forgotten() {
    let (folder, screen) = (TempDir::new().expect("a folder"), Screen::default());
    let first = sink(&folder, &screen, WriteMode::Append).expect("a sink");
    let kept = stage(&*first, 0, 1, &[1]);
    stage(&*first, 0, 2, &[2]);
    let again = sink(&folder, &screen, WriteMode::Append).expect("a sink");
    let mut committer = again.committer().expect("a committer");
    committer.abort_after(Epoch(1)).expect("aborted");
    committer.commit(Epoch(1), &kept).expect("committed");
    let rewritten = stage(&*again, 0, 2, &[20]);
    committer.commit(Epoch(2), &rewritten).expect("committed");
    assert_eq!(screen.text(), "{\"n\":1}\n{\"n\":20}\n");
}

#[test]
fn a_closed_terminal_loses_nothing() {
    let (folder, screen) = (TempDir::new().expect("a folder"), Screen::default());
    let sink = sink(&folder, &screen, WriteMode::Append).expect("a sink");
    let staged = stage(&*sink, 0, 1, &[1]);
    screen.0.lock().expect("unpoisoned").1 = true;
    let error = sink.committer().expect("a committer").commit(Epoch(1), &staged).expect_err("closed");
    assert_eq!(error.kind(), Kind::Unavailable);
    screen.0.lock().expect("unpoisoned").1 = false;
    sink.committer().expect("a committer").commit(Epoch(1), &staged).expect("committed");
    assert_eq!(screen.text(), "{\"n\":1}\n");
}

#[test]
fn changes_say_what_they_do() {
    let (folder, screen) = (TempDir::new().expect("a folder"), Screen::default());
    let upsert = WriteMode::Upsert { key: vec!["n".to_owned()], sequence: None };
    let sink = sink(&folder, &screen, upsert).expect("a sink");
    let mut writer = sink.writer(0).expect("a writer");
    writer.write(&Batch { rows: numbers(&[1, 2]), weights: Some(vec![-1, 1].into()) }).expect("written");
    let staged: Vec<Committable> = writer.prepare(Epoch(1)).expect("prepared").into_iter().collect();
    sink.committer().expect("a committer").commit(Epoch(1), &staged).expect("committed");
    assert_eq!(screen.text(), "{\"n\":1,\"_change\":\"delete\"}\n{\"n\":2,\"_change\":\"insert\"}\n");
}

#[test]
fn what_a_terminal_cannot_do_is_refused() {
    let (folder, screen) = (TempDir::new().expect("a folder"), Screen::default());
    let replace = WriteMode::Replace { column: "n".to_owned(), part: TablePart::default() };
    assert_eq!(sink(&folder, &screen, replace).expect_err("refused").code(), "C344");
    let append = sink(&folder, &screen, WriteMode::Append).expect("a sink");
    let retraction = Batch { rows: numbers(&[1]), weights: Some(vec![-1].into()) };
    assert_eq!(append.writer(0).expect("a writer").write(&retraction).expect_err("refused").kind(), Kind::Internal);
}
