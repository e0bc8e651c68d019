//! The catalog with two connectors that open nothing: what is checked, and what comes out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill_model::{Clock, Error, Kind, OptionKind, OptionSpec, Result, Settings, Timestamp};
use tidemill_runtime::{
    Connector, DatasetSpec, Decoder, Encoder, Environment, Format, Sink, SinkTarget, Source, TablePart, WriteMode,
};

use super::{Catalog, Formats, Registry, Side};
use crate::language::{Config, Project, Script, render};

#[derive(Debug)]
struct Midnight;

impl Clock for Midnight {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// A connector that knows two columns and counts how often it was asked for them.
#[derive(Debug, Default)]
struct Lake {
    asked: AtomicU32,
}

impl Connector for Lake {
    fn name(&self) -> &'static str {
        "lake"
    }

    fn doc(&self) -> &'static str {
        "A lake."
    }

    fn options(&self) -> &'static [OptionSpec] {
        const OPTIONS: &[OptionSpec] = &[
            OptionSpec::required("path", OptionKind::Text, "Where."),
            OptionSpec::optional("idle", OptionKind::Span, Some("9 seconds"), "Its own default."),
        ];
        OPTIONS
    }

    fn discover_schema(&self, spec: &DatasetSpec, _: &Environment) -> Result<SchemaRef> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if spec.settings.text("path") == Some("nowhere") {
            return Err(Error::new(Kind::Config, "C040", "nothing there"));
        }
        Ok(columns(&["id", "v"]))
    }

    fn source(&self, spec: &DatasetSpec, _: &Environment) -> Result<Arc<dyn Source>> {
        Err(Error::new(Kind::Config, "C999", format!("read {} columns", spec.schema.fields().len())))
    }

    fn sink(&self, spec: &DatasetSpec, _: &SinkTarget, _: &Environment) -> Result<Arc<dyn Sink>> {
        Err(Error::new(Kind::Config, "C999", format!("write {} columns", spec.schema.fields().len())))
    }
}

fn columns(names: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>()))
}

#[derive(Debug)]
struct Nothing;

impl Format for Nothing {
    fn decoder(&self, _: SchemaRef) -> Result<Box<dyn Decoder>> {
        Err(Error::internal("not here"))
    }

    fn encoder(&self, _: SchemaRef) -> Result<Box<dyn Encoder>> {
        Err(Error::internal("not here"))
    }
}

fn format_options(_: &str) -> Result<&'static [OptionSpec]> {
    const OPTIONS: &[OptionSpec] = &[OptionSpec::optional("header", OptionKind::Boolean, Some("true"), "A header.")];
    Ok(OPTIONS)
}

fn make_format(_: &str, settings: &Settings, _: &SchemaRef) -> Result<Arc<dyn Format>> {
    assert!(settings.is("header"), "the format's defaults are there");
    Ok(Arc::new(Nothing))
}

fn catalog(sql: &str) -> Result<(Catalog, Arc<Lake>)> {
    let root = PathBuf::from("/shop");
    let config = Config::parse(&root, "", &|_| None)?;
    let project = Project::parse(root.clone(), config, &[Script::new("t.sql", sql)])?;
    let env = Environment {
        state: root.join(".tidemill"),
        project: root,
        clock: Arc::new(Midnight),
        stores: BTreeMap::new(),
    };
    let lake = Arc::new(Lake::default());
    let formats = Formats { names: vec!["csv"], columnar: vec!["parquet"], options: format_options, make: make_format };
    let registry = Registry { connectors: vec![Arc::clone(&lake) as Arc<dyn Connector>], formats, tables: Vec::new() };
    Catalog::new(project, registry, env).map(|catalog| (catalog, lake))
}

#[test]
fn options_are_those_of_the_dataset_the_format_and_the_connector() {
    let sql = "CREATE TABLE t (id BIGINT) WITH (connector = 'lake', path = 'p', format = 'csv') HISTORY WITH (connector = 'lake', path = 'old', format = 'parquet')";
    let (catalog, _) = catalog(sql).map_err(|e| render(&e, false)).expect("a catalog");
    let live = catalog.spec("t", Side::Live).expect("a spec");
    assert_eq!((live.settings.text("write"), live.settings.text("idle")), (Some("append"), Some("9 seconds")));
    assert!(live.format.is_some());
    let past = catalog.spec("t", Side::History).expect("a spec");
    assert_eq!((past.settings.text("path"), past.format.is_none()), (Some("old"), true));
    assert_eq!(catalog.connector_of("t", Side::History).ok(), Some("lake"));
    assert_eq!(catalog.spec("tt", Side::Live).expect_err("none").caret_label(), "did you mean `t`?");
}

#[test]
fn history_is_live_when_there_is_none() {
    let (catalog, _) = catalog("CREATE TABLE t (id BIGINT) WITH (connector = 'lake', path = 'p')").expect("a catalog");
    assert_eq!(catalog.settings("t", Side::History).expect("settings").text("path"), Some("p"));
}

#[test]
fn columns_are_discovered_once_and_checked() {
    let sql = "CREATE TABLE t (PRIMARY KEY (id)) WITH (connector = 'lake', path = 'p');
        CREATE TABLE u (PRIMARY KEY (idd)) WITH (connector = 'lake', path = 'p');
        CREATE TABLE w (WATERMARK FOR v AS v) WITH (connector = 'lake', path = 'p');
        CREATE TABLE n WITH (connector = 'lake', path = 'nowhere');";
    let (catalog, lake) = catalog(sql).map_err(|e| render(&e, false)).expect("a catalog");
    for _ in 0..2 {
        assert_eq!(catalog.spec("t", Side::Live).expect("a spec").schema, columns(&["id", "v"]));
    }
    assert_eq!(lake.asked.load(Ordering::Relaxed), 1);
    let shown = |name: &str| render(&catalog.source(name, Side::Live).expect_err(name), false);
    assert!(shown("t").contains("read 2 columns"), "{}", shown("t"));
    assert!(shown("u").contains("t.sql:2:38") && shown("u").contains("did you mean `id`?"), "{}", shown("u"));
    assert!(shown("w").contains("cannot be an event time"), "{}", shown("w"));
    assert!(shown("n").contains("nothing there") && shown("n").contains("t.sql:4:22"), "{}", shown("n"));
    let target = SinkTarget {
        pipeline: "p".to_owned(),
        sink: "t".to_owned(),
        schema: columns(&["id"]),
        mode: WriteMode::Append,
        interval: None,
        staging: PathBuf::new(),
    };
    let error = catalog.sink("n", &target).expect_err("opens nothing");
    assert_eq!(error.message(), "write 0 columns", "a target may not exist yet");
}

#[test]
fn bad_options_are_refused_at_their_places() {
    let cases = [
        ("(id BIGINT) WITH (connector = 'lak', path = 'p')", "no connector `lak`", "did you mean `lake`?"),
        ("(id BIGINT) WITH (path = 'p')", "`t` needs the option `connector`", "connectors: lake"),
        ("(id BIGINT) WITH (connector = 'lake')", "`lake` needs the option `path`", "t.sql:1:28"),
        ("(id BIGINT) WITH (connector = 'lake', pth = 'p', path = 'p')", "unknown `lake` option `pth`", "t.sql:1:54"),
        (
            "(id BIGINT) WITH (connector = 'lake', path = 'p', format = 'cvs')",
            "no format `cvs`",
            "formats: csv, parquet",
        ),
        (
            "(id BIGINT) WITH (connector = 'lake', path = 'p', header = 'true')",
            "unknown `lake` option `header`",
            "^^^^^^",
        ),
        ("(id BIGINT) WITH (connector = 'lake', path = 'p', write = 'upsert')", "error[P152]", "needs a PRIMARY KEY"),
        ("(id BIGINT) WITH (connector = 'lake', path = 'p', sequence = 'id')", "error[C023]", "write = 'upsert'"),
        (
            "(id BIGINT, PRIMARY KEY (id)) WITH (connector = 'lake', path = 'p', write = 'upsert', sequence = 'di')",
            "no column `di` in `t`",
            "did you mean `id`?",
        ),
        (
            "(id BIGINT) WITH (connector = 'lake', path = 'p') HISTORY WITH (connector = 'lake')",
            "`lake` needs the option `path`",
            "t.sql:1:74",
        ),
    ];
    for (rest, first, second) in cases {
        let shown = render(&catalog(&format!("CREATE TABLE t {rest}")).expect_err(rest), false);
        assert!(shown.contains(first) && shown.contains(second), "{rest}\n{shown}");
    }
}

#[test]
fn write_modes_need_their_columns() {
    let sql = "CREATE TABLE a (id BIGINT) WITH (connector = 'lake', path = 'p');
        CREATE TABLE u (PRIMARY KEY (id)) WITH (connector = 'lake', path = 'p', write = 'upsert', sequence = 'v');
        CREATE TABLE r (c TIMESTAMP, WATERMARK FOR c AS c) WITH (connector = 'lake', path = 'p', write = 'replace');
        CREATE TABLE s (id BIGINT, v TIMESTAMP) WITH (connector = 'lake', path = 'p', write = 'replace', time_column = 'v');";
    let (catalog, _) = catalog(sql).map_err(|e| render(&e, false)).expect("a catalog");
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let at = |names: &[&str]| {
        Schema::new(names.iter().map(|name| Field::new(*name, time.clone(), true)).collect::<Vec<_>>())
    };
    let mode = |name: &str, output: &[&str]| catalog.write_mode(name, &at(output), None).map_err(|e| render(&e, false));
    assert_eq!(mode("a", &["id"]), Ok(WriteMode::Append));
    let upsert = WriteMode::Upsert { key: vec!["id".to_owned()], sequence: Some("v".to_owned()) };
    assert_eq!(mode("u", &["id", "v"]), Ok(upsert));
    let replace = |column: &str| Ok(WriteMode::Replace { column: column.to_owned(), part: TablePart::default() });
    assert_eq!(mode("r", &["c", "window_start"]), replace("c"));
    assert_eq!(mode("r", &["window_start"]), replace("window_start"));
    assert_eq!(mode("s", &["v", "window_start"]), replace("v"));
    for (name, output, why) in [
        ("u", ["v"], "`id` is the PRIMARY KEY of `u`"),
        ("u", ["id"], "`v` is the sequence of `u`"),
        ("s", ["id"], "`v` is the time_column of `s`"),
        ("r", ["id"], "no column says when its rows happened"),
    ] {
        let shown = mode(name, &output).expect_err("refused");
        assert!(shown.contains(why), "{name}\n{shown}");
    }
    let number = catalog.write_mode("r", &columns(&["c"]), None).expect_err("no time");
    assert_eq!(number.caret_label(), "it is a BIGINT");
}
