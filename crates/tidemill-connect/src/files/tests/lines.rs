//! Reading lines, and finding files.

use std::io::Cursor;

use tidemill_model::{Kind, Offset, SplitId};
use tidemill_runtime::{Boundedness, Payload, Positions, Source, Split, SplitReader};

use super::super::lines::{LineReader, Span};
use super::{Rig, drain, hints, ids, read_all, resumes_everywhere, spec};

/// The text that a reader gives, with each block's position checked against `whole`.
fn text_of(reader: &mut LineReader, whole: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for batch in drain(reader) {
        let Payload::Records(records) = batch.payload else { panic!("lines are records") };
        let Positions::Bytes(at) = records.positions else { panic!("positions in files are bytes") };
        let at = usize::try_from(at).expect("small");
        assert_eq!(records.data, whole[at..at + records.data.len()], "the position is where the block begins");
        assert_eq!(batch.resume.as_number(), Some((at + records.data.len()) as u64));
        text.extend_from_slice(&records.data);
    }
    text
}

fn reader(text: &[u8], start: u64, end: u64, inside: bool) -> LineReader {
    let input = Cursor::new(text.get(start as usize..).unwrap_or_default().to_vec());
    LineReader::new("f".to_owned(), Box::new(input), Span { start, inside, end }, None)
}

#[test]
fn however_a_file_is_divided_each_line_is_read_once() {
    for text in ["a\nbb\n\nccc\n", "a\nbb\nno break at the end", "\n\na\n", "one line", "", "aaaaaaaaaaaaaaaa\nb"] {
        let whole = text.as_bytes();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        for size in 1..=whole.len() as u64 + 1 {
            let mut found = Vec::new();
            let mut start = 0;
            while start <= whole.len() as u64 {
                let part = text_of(&mut reader(whole, start, start + size, start > 0), whole);
                found.extend(
                    String::from_utf8(part).expect("text").lines().map(str::to_owned).filter(|l| !l.is_empty()),
                );
                start += size;
            }
            assert_eq!(found, lines, "ranges of {size} in {text:?}");
        }
    }
}

fn many_orders(rows: i64) -> String {
    (0..rows)
        .map(|n| format!("{{\"id\":{n},\"region\":\"{}\",\"amount\":{n}.5}}\n", "x".repeat((n % 90) as usize)))
        .collect()
}

#[test]
fn lines_resume_after_every_block() {
    let rig = Rig::new();
    rig.write("in/orders.jsonl", many_orders(60_000));
    let options = [("path", "in/")];
    let source = rig.source(&options).expect("a source");
    let splits = source.list_splits().expect("lists");
    assert_eq!(splits.len(), 1);
    assert_eq!((splits[0].id.as_str(), splits[0].finite), ("orders.jsonl", true));
    let blocks = resumes_everywhere(&*source, &splits[0], &spec(&options));
    assert!(blocks > 3, "{blocks} blocks");
    let first = many_orders(1).len() as u64;
    let mut reader = source.open(&splits[0], None, &hints()).expect("opens");
    reader.stop_at(&Offset::number(first)).expect("an offset");
    assert_eq!(drain(&mut *reader).len(), 1, "a block is cut where it shall end");
    assert_eq!(ids(&read_all(&rig, &options)), (0..60_000).collect::<Vec<_>>());
}

#[test]
fn a_line_longer_than_a_block_is_one_record() {
    let rig = Rig::new();
    let long = format!("{{\"id\":1,\"region\":\"{}\"}}\n{{\"id\":2}}", "y".repeat(5 << 20));
    rig.write("long.jsonl", long);
    assert_eq!(ids(&read_all(&rig, &[("path", "long.jsonl")])), [1, 2]);
}

#[test]
fn a_large_file_has_several_splits_that_together_are_the_file() {
    let rig = Rig::new();
    let line = format!("{{\"id\":7,\"region\":\"{}\"}}\n", "z".repeat(4000));
    let rows = (130 << 20) / line.len();
    rig.write("in/big.jsonl", line.repeat(rows));
    let source = rig.source(&[("path", "in")]).expect("a source");
    let splits = source.list_splits().expect("lists");
    let names: Vec<&str> = splits.iter().map(|split| split.id.as_str()).collect();
    assert_eq!(names, ["big.jsonl", "big.jsonl@67108864-134217728", "big.jsonl@134217728-201326592"]);
    assert_eq!(splits.iter().filter_map(|split| split.bytes).sum::<u64>(), (line.len() * rows) as u64);
    let mut read = 0;
    for split in &splits {
        for batch in drain(&mut *source.open(split, None, &hints()).expect("opens")) {
            let Payload::Records(records) = batch.payload else { panic!("lines are records") };
            assert_eq!(records.data.len() % line.len(), 0, "only whole lines");
            read += records.data.len();
        }
    }
    assert_eq!(read, line.len() * rows);
}

#[test]
fn csv_is_read_behind_its_header_from_every_offset() {
    let rig = Rig::new();
    let rows: String = (0..80_000).map(|n| format!("{n},eu,2026-01-01T00:00:00Z,{n}.25\n")).collect();
    rig.write("in/a.csv", format!("id,region,at,amount\n{rows}"));
    let options = [("path", "in/*.csv"), ("format", "csv")];
    let source = rig.source(&options).expect("a source");
    let splits = source.list_splits().expect("lists");
    assert!(resumes_everywhere(&*source, &splits[0], &spec(&options)) > 1);
    assert_eq!(ids(&read_all(&rig, &options)), (0..80_000).collect::<Vec<_>>());
}

#[test]
fn globs_and_folders_find_what_is_meant_and_nothing_hidden() {
    let rig = Rig::new();
    for name in
        ["d/a.jsonl", "d/x/b.jsonl", "d/x/y/c.json", "d/_staging/s.jsonl", "d/.h.jsonl", "d/x/_t.jsonl", "e.jsonl"]
    {
        rig.write(name, "{}\n");
    }
    rig.write("odd[1].jsonl", "{}\n");
    let absolute = rig.path("d/**/*.jsonl").display().to_string();
    let url = format!("file://{}/", rig.path("d/x").display());
    for (path, expected) in [
        ("d", vec!["a.jsonl", "x/b.jsonl", "x/y/c.json"]),
        ("d/**/*.jsonl", vec!["a.jsonl", "x/b.jsonl"]),
        ("d/*.jsonl", vec!["a.jsonl"]),
        ("d/*/b.jsonl", vec!["x/b.jsonl"]),
        ("*.jsonl", vec!["e.jsonl", "odd[1].jsonl"]),
        ("d/x/b.jsonl", vec!["b.jsonl"]),
        ("odd[1].jsonl", vec!["odd[1].jsonl"]),
        (absolute.as_str(), vec!["a.jsonl", "x/b.jsonl"]),
        (url.as_str(), vec!["b.jsonl", "y/c.json"]),
    ] {
        let source = rig.source(&[("path", path)]).expect("a source");
        let found: Vec<String> =
            source.list_splits().expect("lists").iter().map(|split| split.id.to_string()).collect();
        assert_eq!(found, expected, "{path}");
        for split in source.list_splits().expect("lists") {
            assert_eq!(drain(&mut *source.open(&split, None, &hints()).expect("opens")).len(), 1, "{path}");
        }
    }
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let rig = Rig::new();
    std::fs::create_dir(rig.path("empty")).expect("a folder");
    for (path, bounded, refused) in [
        ("gone.jsonl", "false", true),
        ("gone", "false", true),
        ("gone/", "false", false),
        ("gone/*.jsonl", "false", false),
        ("empty", "false", false),
        ("gone/", "true", true),
        ("gone/*.jsonl", "true", true),
        ("empty", "true", true),
    ] {
        let source = rig.source(&[("path", path), ("bounded", bounded)]).expect("a source");
        match source.list_splits() {
            Ok(splits) => assert!(!refused && splits.is_empty(), "{path}"),
            Err(error) => {
                assert!(refused, "{path}: {error}");
                assert_eq!((error.kind(), error.code()), (Kind::Config, "C315"));
                assert!(error.message().contains(path) && !error.facts().is_empty(), "{error}");
            }
        }
    }
}

#[test]
fn new_files_are_found_only_while_unbounded() {
    let rig = Rig::new();
    rig.write("in/a.jsonl", "{\"id\":1}\n");
    let follow = rig.source(&[("path", "in")]).expect("a source");
    let once = rig.source(&[("path", "in"), ("bounded", "true")]).expect("a source");
    assert_eq!((follow.boundedness(), once.boundedness()), (Boundedness::Unbounded, Boundedness::Bounded));
    let count = |source: &dyn Source| source.list_splits().expect("lists").len();
    assert_eq!((count(&*follow), count(&*once)), (1, 1));
    rig.write("in/b.jsonl", "{\"id\":2}\n");
    rig.write("in/empty.jsonl", "");
    assert_eq!((count(&*follow), count(&*once)), (2, 1));
    let arrived = |name: &str| {
        let split = follow.list_splits().expect("lists").into_iter().find(|split| split.id.as_str() == name);
        let mut reader = follow.open(&split.expect("listed"), None, &hints()).expect("opens");
        drain(&mut *reader).iter().all(|batch| batch.arrived.is_some())
    };
    assert_eq!((arrived("a.jsonl"), arrived("b.jsonl")), (false, true), "only what came while running has an arrival");
}

#[test]
fn a_file_that_changes_is_reported() {
    let rig = Rig::new();
    rig.write("in/a.jsonl", "{\"id\":1}\n");
    let source = rig.source(&[("path", "in")]).expect("a source");
    let splits = source.list_splits().expect("lists");
    rig.write("in/a.jsonl", "{\"id\":1}\n{\"id\":2}\n");
    assert_eq!(source.list_splits().expect_err("changed").code(), "C323");
    rig.write("in/a.jsonl", "{}\n");
    let far = Offset::number(9);
    let error = source.open(&splits[0], Some(&far), &hints()).err().expect("shrunk");
    assert_eq!((error.kind(), error.code()), (Kind::Corrupt, "X310"));
}

#[test]
fn compressed_files_and_columns_of_the_path_are_refused() {
    let rig = Rig::new();
    rig.write("z/a.jsonl.gz", [0x1f, 0x8b]);
    let error = rig.source(&[("path", "z")]).expect("a source").list_splits().expect_err("refused");
    assert_eq!(error.code(), "C324");
    rig.write("h/region=eu/a.jsonl", "{\"id\":1}\n");
    rig.write("h/region=us/b.jsonl", "{\"id\":1,\"region\":\"us\"}\n");
    let source = rig.source(&[("path", "h")]).expect("a source");
    let open = |name: &str| {
        let split = Split {
            id: SplitId::new(name),
            finite: true,
            min_event_time: None,
            max_event_time: None,
            bytes: None,
            content: None,
        };
        source.open(&split, None, &hints()).map(|_: Box<dyn SplitReader>| ())
    };
    assert_eq!(open("region=eu/a.jsonl").expect_err("only in the path").code(), "C322");
    open("region=us/b.jsonl").expect("the record has it too");
}

#[test]
fn a_format_and_known_columns_are_needed() {
    use tidemill_runtime::Connector;
    let rig = Rig::new();
    rig.write("in/a.jsonl", "{\"id\":1}\n");
    let mut none = spec(&[("path", "in")]);
    none.format = None;
    assert_eq!(super::Files::default().source(&none, &rig.env()).expect_err("no format").code(), "C310");
    let error = super::Files::default().discover_schema(&spec(&[("path", "in")]), &rig.env()).expect_err("no columns");
    assert_eq!((error.kind(), error.code()), (Kind::Config, "C321"));
}
