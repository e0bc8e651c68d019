//! Tests of the generator: the same rows for ever, the shares asked for, resuming anywhere, and the truth.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::Value;
use tidemill_model::{Clock, Kind, Offset, Options, Settings, Timestamp};
use tidemill_runtime::{
    Boundedness, Connector, DatasetSpec, Environment, Payload, Positions, Pull, ReadHints, Source, SplitReader,
};

use super::config::OPTIONS;
use super::{CURRENCIES, Class, Fate, GeneratorConnector, OrdersModel, REGIONS, Truth};

#[derive(Debug, Default)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Every fault, often enough to be seen among some ten thousand rows.
const FAULTS: &[(&str, &str)] = &[
    ("null_share", "0.01"),
    ("duplicate_share", "0.02"),
    ("invalid_share", "0.01"),
    ("malformed_share", "0.005"),
    ("disorder", "10 seconds"),
    ("late_share", "0.002"),
    ("late_by", "10 minutes"),
    ("events_per_second", "116"),
];

const ROWS: u64 = 40_000;

fn settings(options: &[(&str, &str)]) -> Settings {
    Options::of(options.iter().copied()).resolve("connector `generator`", OPTIONS).expect("options")
}

fn faulty() -> OrdersModel {
    OrdersModel::of(&settings(FAULTS)).expect("a model")
}

fn spec(options: &[(&str, &str)]) -> DatasetSpec {
    DatasetSpec {
        name: "orders".to_owned(),
        schema: Arc::new(arrow::datatypes::Schema::empty()),
        event_time: None,
        settings: settings(options),
        format: None,
    }
}

fn source(options: &[(&str, &str)], clock: &Arc<TestClock>) -> Arc<dyn Source> {
    let env = Environment { project: "p".into(), state: "s".into(), clock: clock.clone(), stores: Default::default() };
    GeneratorConnector.source(&spec(options), &env).expect("a source")
}

/// All records up to the end, and the offset after each batch with how many came before it.
fn drain(reader: &mut dyn SplitReader) -> (Vec<Vec<u8>>, Vec<(usize, Offset)>) {
    let (mut records, mut offsets) = (Vec::new(), Vec::new());
    while let Pull::Rows(batch) = reader.next().expect("rows") {
        let Payload::Records(block) = batch.payload else { unreachable!("records") };
        assert!(matches!(block.positions, Positions::Numbered(_)));
        let mut begin = 0;
        for end in block.ends.expect("ends") {
            records.push(block.data[begin..end as usize].to_vec());
            begin = end as usize;
        }
        assert_eq!(begin, block.data.len());
        offsets.push((records.len(), batch.resume));
    }
    (records, offsets)
}

pub(super) fn all_records(options: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let source = source(options, &Arc::default());
    let splits = source.list_splits().expect("splits");
    let each: Vec<_> = splits
        .iter()
        .map(|split| drain(&mut *source.open(split, None, &ReadHints::default()).expect("opens")).0.into_iter())
        .collect();
    // Row i is the next one of split i modulo their number.
    let mut each = each;
    let mut records = Vec::new();
    'rows: loop {
        for split in &mut each {
            match split.next() {
                Some(record) => records.push(record),
                None => break 'rows,
            }
        }
    }
    assert!(each.iter_mut().all(|split| split.next().is_none()), "splits share the rows evenly");
    records
}

/// The error of these options.
pub(super) fn config_error(options: &[(&str, &str)]) -> tidemill_model::Error {
    let state = "s".into();
    let env =
        Environment { project: "p".into(), state, clock: Arc::<TestClock>::default(), stores: Default::default() };
    GeneratorConnector.source(&spec(options), &env).expect_err("refused")
}

#[test]
fn content_never_changes() {
    let records = all_records(&[FAULTS, &[("rows", "20000")]].concat());
    let crc = records.iter().fold(0, |crc, record| crc32c::crc32c_append(crc, record));
    assert_eq!(std::str::from_utf8(&records[0]), Ok(FIRST));
    // Whoever changes this number changes the data of every example and every benchmark.
    assert_eq!(crc, CONTENT, "content changed");
}

const FIRST: &str = r#"{"order_id":null,"customer_id":2047,"product_id":161,"amount":68.8387,"currency":"USD","region":"eu-central","created_at":"2026-01-01T00:00:09.207Z"}"#;
const CONTENT: u32 = 479_608_918;

#[test]
fn shares_and_shapes_are_as_asked() {
    let model = faulty();
    let truth = Truth::of(&model, ROWS);
    let near = |count: u64, share: f64| {
        let expected = share * ROWS as f64;
        (count as f64 - expected).abs() < 5.0 * expected.sqrt()
    };
    assert!(near(truth.malformed, 0.005), "{}", truth.malformed);
    assert!(near(truth.duplicates, 0.02), "{}", truth.duplicates);
    assert!(near(truth.null_ids, 0.01), "{}", truth.null_ids);
    assert!(near(truth.non_positive, 0.01), "{}", truth.non_positive);

    let mut customers: HashMap<i64, u32> = HashMap::new();
    let mut ids = HashSet::new();
    let (mut late, mut newest, mut amounts) = (0_u64, 0_i64, 0_i128);
    for i in 0..ROWS {
        let record = model.record(i);
        let at = record.order.created_at;
        assert!(at >= model.start() && at < model.event_time_at(i + 1), "row {i} at {at}");
        assert_eq!(at.0 % 1000, 0);
        // A watermark of the model's disorder holds back for all but the very late rows.
        if at.0 < newest - 10_000_000 {
            late += 1;
            assert!(!matches!(record.fate, Fate::Duplicate(_)), "a duplicate is never late");
        }
        newest = newest.max(at.0);
        match record.fate {
            Fate::Duplicate(of) => {
                assert!(of < i);
                let original = model.record(of);
                assert_eq!((original.fate, original.order), (Fate::Original, record.order));
            }
            Fate::Original => assert!(record.order.order_id.is_none_or(|id| ids.insert(id)), "an id of its own"),
            Fate::Malformed(_) => {}
        }
        *customers.entry(record.order.customer_id).or_default() += 1;
        amounts += i128::from(record.order.amount);
        assert!((1..=10_100).contains(&record.order.customer_id) && (1..=1_010).contains(&record.order.product_id));
    }
    assert!(near(late, 0.002 * 0.975), "{late}");
    let first_hundred: u32 = (1..=100).filter_map(|customer| customers.get(&customer)).sum();
    assert!(f64::from(first_hundred) > 0.08 * ROWS as f64, "few customers order much: {first_hundred}");
    let mean = amounts as f64 / 10_000.0 / ROWS as f64;
    assert!((45.0..60.0).contains(&mean), "about e^4 on average: {mean}");
}

#[test]
fn records_say_what_the_model_says() {
    let model = faulty();
    let records = all_records(&[FAULTS, &[("rows", "20000"), ("splits", "3")]].concat());
    assert_eq!(records.len(), 20_000);
    let mut faults = HashSet::new();
    for (i, record) in (0..).zip(&records) {
        let expected = model.record(i);
        let parsed: Result<Value, _> = serde_json::from_slice(record);
        if let Fate::Malformed(fault) = expected.fate {
            assert!(parsed.is_err(), "{}", String::from_utf8_lossy(record));
            faults.insert(fault);
            continue;
        }
        let parsed = parsed.expect("JSON");
        let order = expected.order;
        assert_eq!(parsed["order_id"].as_i64(), order.order_id);
        assert_eq!(parsed["customer_id"].as_i64(), Some(order.customer_id));
        assert_eq!(parsed["product_id"].as_i64(), Some(order.product_id));
        let amount = parsed["amount"].as_f64().expect("a number");
        assert_eq!((amount * 10_000.0).round() as i64, order.amount);
        let currency = parsed["currency"].as_str().expect("a currency");
        assert_eq!(currency.to_uppercase(), CURRENCIES[order.currency as usize]);
        assert_eq!(parsed["region"].as_str(), Some(REGIONS[order.region as usize]));
        let at = Timestamp::parse(parsed["created_at"].as_str().expect("a time")).expect("a time");
        assert_eq!(at, order.created_at);
    }
    assert_eq!(faults.len(), 4, "every way of being malformed");
}

#[test]
fn the_truth_is_what_reading_the_records_gives() {
    let records = all_records(&[FAULTS, &[("rows", "40000")]].concat());
    let (mut malformed, mut nulls, mut invalid, mut valid) = (0, 0, 0, 0);
    let mut sums: HashMap<(String, String), (u64, i128, i128)> = HashMap::new();
    for record in &records {
        let Ok(order) = serde_json::from_slice::<Value>(record) else {
            malformed += 1;
            continue;
        };
        nulls += u64::from(order["order_id"].is_null());
        let text = order["amount"].to_string();
        let (whole, decimals) = text.split_once('.').expect("decimals");
        let units: i128 = format!("{whole}{decimals:0<4}").parse().expect("a number");
        if units <= 0 {
            invalid += 1;
            continue;
        }
        valid += u64::from(!order["order_id"].is_null());
        let key = |name: &str| order[name].as_str().expect("text").to_owned();
        let sum = sums.entry((key("region"), key("currency").to_uppercase())).or_default();
        *sum = (sum.0 + 1, sum.1 + units, sum.2 + (units + 50) / 100);
    }
    let truth = Truth::of(&faulty(), ROWS);
    let counts = (truth.records, truth.malformed, truth.null_ids, truth.non_positive, truth.valid);
    assert_eq!(counts, (ROWS, malformed, nulls, invalid, valid));
    let groups = truth.groups(|_| true);
    assert_eq!(groups.len(), sums.len());
    for (region, currency, tally) in groups {
        let sum = sums[&(region.to_owned(), currency.to_owned())];
        assert_eq!((tally.rows, tally.amount, tally.rounded), sum, "{region} {currency}");
    }
    let distinct = truth.total(|class| class == Class { null_id: false, duplicate: false });
    assert!(distinct.rows < truth.valid && distinct.rows > truth.valid - truth.duplicates - 1);
    let mut by_split = [ROWS / 8; 8];
    assert_eq!(Truth::of_splits(&faulty(), &by_split), truth);
    by_split[3] -= 1;
    assert_eq!(Truth::of_splits(&faulty(), &by_split).records, ROWS - 1);
}

#[test]
fn resuming_after_any_batch_gives_exactly_the_rest() {
    for model in ["orders", "customers", "products"] {
        let source = source(&[("model", model), ("rows", "30011"), ("splits", "2")], &Arc::default());
        assert_eq!(source.boundedness(), Boundedness::Bounded);
        let splits = source.list_splits().expect("splits");
        assert!(splits.iter().all(|split| split.finite));
        let mut total = 0;
        for split in &splits {
            let (all, offsets) = drain(&mut *source.open(split, None, &ReadHints::default()).expect("opens"));
            total += all.len();
            assert_eq!(offsets.len(), 2);
            let anywhere = [(0, Offset::number(0)), (1, Offset::number(1)), (9_999, Offset::number(9_999))];
            for (read, offset) in offsets.into_iter().chain(anywhere) {
                let mut reader = source.open(split, Some(&offset), &ReadHints::default()).expect("opens");
                assert_eq!(drain(&mut *reader).0, all[read..]);
                assert!(matches!(reader.next(), Ok(Pull::Finished)));
                let mut reader = source.open(split, None, &ReadHints::default()).expect("opens");
                reader.stop_at(&offset).expect("an offset");
                assert_eq!(drain(&mut *reader).0, all[..read]);
            }
        }
        assert_eq!(total, 30_011);
    }
}

#[test]
fn rows_come_at_their_rate_also_after_a_restart() {
    let clock = Arc::new(TestClock::default());
    clock.0.store(50_000_000, Ordering::SeqCst);
    let options = [("rows_per_second", "100"), ("splits", "4"), ("rows", "1000")];
    let source = source(&options, &clock);
    let splits = source.list_splits().expect("splits");
    assert!(splits.iter().all(|split| !split.finite), "a stream, though it ends");
    let unpaced = self::source(&[("splits", "4"), ("rows", "1000"), ("events_per_second", "100")], &clock);
    for split in &splits {
        clock.0.store(50_000_000, Ordering::SeqCst);
        let (expected, _) = drain(&mut *unpaced.open(split, None, &ReadHints::default()).expect("opens"));
        let mut reader = source.open(split, None, &ReadHints::default()).expect("opens");
        assert!(matches!(reader.next(), Ok(Pull::AtEnd)));
        let mut found = Vec::new();
        for step in 1..=20_u64 {
            // 37 ms a step and a restart after each: no row is lost, none comes early, none is late.
            clock.0.fetch_add(370_000, Ordering::SeqCst);
            reader.bound_to_present().expect("bound");
            let before = found.len();
            let (records, offsets) = drain(&mut *reader);
            found.extend(records);
            let rows_due = step * 37;
            let number: u64 = split.id.as_str().split('-').nth(1).and_then(|n| n.parse().ok()).expect("a number");
            assert_eq!(found.len() as u64, rows_due.saturating_sub(number).div_ceil(4), "step {step} of {}", split.id);
            if let Some((_, offset)) = offsets.last() {
                assert!(offset.0.contains('@') && found.len() > before);
                reader = source.open(split, Some(offset), &ReadHints::default()).expect("opens");
            }
        }
        clock.0.fetch_add(1_000_000_000, Ordering::SeqCst);
        reader = source.open(split, Some(&Offset(format!("{}@0", found.len()))), &ReadHints::default()).expect("opens");
        found.extend(drain(&mut *reader).0);
        assert_eq!(found, expected, "the same rows as without a rate");
        assert!(matches!(reader.next(), Ok(Pull::Finished)));
    }
}

#[test]
fn a_row_arrives_when_it_is_due() {
    let clock = Arc::new(TestClock::default());
    let source = source(&[("rows_per_second", "10"), ("splits", "1")], &clock);
    assert_eq!(source.boundedness(), Boundedness::Unbounded);
    let splits = source.list_splits().expect("splits");
    let mut reader = source.open(&splits[0], None, &ReadHints::default()).expect("opens");
    clock.0.store(99_999, Ordering::SeqCst);
    assert!(matches!(reader.next(), Ok(Pull::AtEnd)));
    clock.0.store(350_000, Ordering::SeqCst);
    let Ok(Pull::Rows(batch)) = reader.next() else { unreachable!("three rows") };
    assert_eq!(batch.arrived, Some(Timestamp(100_000)));
    assert_eq!(batch.resume, Offset("3@400000".to_owned()));
    // With another rate the saved progress goes on from when the next row was due.
    let faster = self::source(&[("rows_per_second", "1000"), ("splits", "1")], &clock);
    let mut reader = faster.open(&splits[0], Some(&batch.resume), &ReadHints::default()).expect("opens");
    assert!(matches!(reader.next(), Ok(Pull::AtEnd)));
    clock.0.store(402_000, Ordering::SeqCst);
    let Ok(Pull::Rows(batch)) = reader.next() else { unreachable!("three rows") };
    assert_eq!(batch.resume, Offset("6@403000".to_owned()));
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("null_share", "1.5")], "C080"),
        (&[("duplicate_share", "0.7"), ("malformed_share", "0.7")], "C080"),
        (&[("splits", "0")], "C080"),
        (&[("rows_per_second", "0")], "C080"),
        (&[("late_share", "0.1"), ("late_by", "1 second"), ("disorder", "1 minute")], "C081"),
        (&[("model", "customers"), ("null_share", "0.1")], "C082"),
    ];
    let env = Environment {
        project: "p".into(),
        state: "s".into(),
        clock: Arc::<TestClock>::default(),
        stores: Default::default(),
    };
    for (options, code) in cases {
        let error = GeneratorConnector.source(&spec(options), &env).expect_err("refused");
        assert_eq!((error.kind(), error.code()), (Kind::Config, *code), "{options:?}");
    }
    let endless = GeneratorConnector.source(&spec(&[]), &env).expect("a source");
    let split = endless.list_splits().expect("splits").remove(0);
    let mut reader = endless.open(&split, None, &ReadHints::default()).expect("opens");
    assert_eq!(reader.bound_to_present().expect_err("no end").code(), "C084");
    for offset in ["x", "3@", "@3", "-1"] {
        let error = endless.open(&split, Some(&Offset(offset.to_owned())), &ReadHints::default()).err();
        assert_eq!(error.map(|error| error.kind()), Some(Kind::Corrupt), "{offset}");
    }
    let schema = GeneratorConnector.discover_schema(&spec(&[("model", "products")]), &env).expect("columns");
    assert_eq!(
        schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ["product_id", "category"]
    );
}

#[test]
fn dimension_rows_are_complete() {
    let customers = all_records(&[("model", "customers")]);
    assert_eq!(customers.len(), 10_000);
    let mut tiers: HashMap<String, u32> = HashMap::new();
    for (i, record) in customers.iter().enumerate() {
        let row: Value = serde_json::from_slice(record).expect("JSON");
        assert_eq!(row["customer_id"].as_u64(), Some(i as u64 + 1));
        assert!(REGIONS.contains(&row["region"].as_str().expect("a region")));
        *tiers.entry(row["tier"].as_str().expect("a tier").to_owned()).or_default() += 1;
    }
    assert!(tiers["bronze"] > 5_700 && tiers["platinum"] < 700 && tiers.len() == 4, "{tiers:?}");
    let products = all_records(&[("model", "products"), ("rows", "200")]);
    let row: Value = serde_json::from_slice(&products[199]).expect("JSON");
    assert_eq!(row["product_id"].as_u64(), Some(200));
    assert!(row["category"].as_str().is_some_and(|category| category.starts_with("cat-")));
}

/// However few columns are wanted, a record that is not JSON is found out, and no other is.
#[test]
fn the_json_format_refuses_exactly_the_malformed() {
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Float64Type, Schema};

    let options = [FAULTS, &[("rows", "40000"), ("splits", "1")]].concat();
    let source = source(&options, &Arc::default());
    let split = source.list_splits().expect("splits").remove(0);
    let json_options = crate::format_options("json").expect("json");
    let json_settings = Options::default().resolve("format", json_options).expect("defaults");
    let model = faulty();
    for columns in [&["order_id"][..], &["amount"], &["amount", "order_id"]] {
        let kind = |name: &str| if name == "amount" { DataType::Float64 } else { DataType::Int64 };
        let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, kind(name), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let format = crate::format("json", &json_settings, &schema).expect("json");
        let mut decoder = format.decoder(schema).expect("a decoder");
        let mut reader = source.open(&split, None, &ReadHints::default()).expect("opens");
        let (mut row, mut bad) = (0, 0);
        while let Pull::Rows(batch) = reader.next().expect("rows") {
            let Payload::Records(block) = batch.payload else { unreachable!("records") };
            let count = block.ends.as_ref().map_or(0, Vec::len) as u64;
            let decoded = decoder.decode(&block).expect("decodes");
            for record in &decoded.bad {
                let fate = model.record(record.position).fate;
                assert!(matches!(fate, Fate::Malformed(_)), "{}", String::from_utf8_lossy(&record.raw));
            }
            if let Some(amounts) = decoded.batch.column_by_name("amount") {
                let good = (row..row + count)
                    .map(|i| model.record(i))
                    .filter(|record| !matches!(record.fate, Fate::Malformed(_)))
                    .map(|record| record.order.amount as f64 / 10_000.0);
                assert!(good.eq(amounts.as_primitive::<Float64Type>().values().iter().copied()), "the nearest doubles");
            }
            row += count;
            bad += decoded.bad.len() as u64;
        }
        assert_eq!((row, bad), (ROWS, Truth::of(&model, ROWS).malformed), "{columns:?}");
    }
}
