//! CSV: what is read, what is refused and why, and round trips.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use tidemill_model::{Kind, Options, Result};
use tidemill_runtime::{Decoded, Format, Positions, Records};

use crate::{format, format_options};

fn orders() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [("id", DataType::Int64), ("x", DataType::Float64), ("s", DataType::Utf8), ("t", time)];
    Arc::new(Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
}

fn csv(options: &[(&'static str, &'static str)]) -> Arc<dyn Format> {
    made(options).expect("made")
}

fn made(options: &[(&'static str, &'static str)]) -> Result<Arc<dyn Format>> {
    let settings = Options::of(options.iter().copied()).resolve("format `csv`", format_options("csv")?)?;
    format("csv", &settings, &orders())
}

fn decode(options: &[(&'static str, &'static str)], text: &str) -> Result<Decoded> {
    let records = Records { data: Bytes::from(text.to_owned()), ends: None, positions: Positions::Bytes(0) };
    csv(options).decoder(orders())?.decode(&records)
}

/// The rows as text, NULL as `-`.
fn shown(batch: &RecordBatch) -> Vec<String> {
    let column = |i: usize| batch.column(i).as_any();
    (0..batch.num_rows())
        .map(|row| {
            let id =
                column(0).downcast_ref::<Int64Array>().filter(|a| a.is_valid(row)).map(|a| a.value(row).to_string());
            let x =
                column(1).downcast_ref::<Float64Array>().filter(|a| a.is_valid(row)).map(|a| a.value(row).to_string());
            let s = column(2)
                .downcast_ref::<StringArray>()
                .filter(|a| a.is_valid(row))
                .map(|a| format!("{:?}", a.value(row)));
            let t = column(3).downcast_ref::<TimestampMicrosecondArray>().filter(|a| a.is_valid(row));
            let t = t.map(|a| a.value(row).to_string());
            [id, x, s, t].map(|cell| cell.unwrap_or_else(|| "-".to_owned())).join(" ")
        })
        .collect()
}

#[test]
fn reads_what_files_hold() {
    let cases = [
        ("1,2.5,a,1970-01-01T00:00:01Z", "1 2.5 \"a\" 1000000"),
        ("+7,.5, b ,1970-01-01", "7 0.5 \" b \" 0"),
        (" 007 ,5.,\"\", 1970-01-01 00:00:02 ", "7 5 \"\" 2000000"),
        ("-0,-inf,,", "0 -inf - -"),
        ("1,1,,1970-01-01 ", "1 1 - 0"),
        (",NaN,\"say \"\"hi\"\", you\",", "- NaN \"say \\\"hi\\\", you\" -"),
        ("\"3\",\"4e2\",é,\"1970-01-01\"\r", "3 400 \"é\" 0"),
        ("-000,000.25,\"\"\"\",", "0 0.25 \"\\\"\" -"),
    ];
    for (line, expected) in cases {
        let decoded = decode(&[], &format!("id,x,s,t\n{line}\n")).expect("decodes");
        assert_eq!(
            (shown(&decoded.batch), decoded.bad.len()),
            (vec![expected.to_owned()], 0),
            "{line}: {:?}",
            decoded.bad
        );
    }
}

#[test]
fn says_what_is_wrong_and_keeps_the_others() {
    let cases = [
        ("x,1,a,", "id is not a BIGINT: expected a whole number at byte 0, found `x`"),
        ("1.5,1,a,", "id is not a BIGINT: expected a whole number at byte 0, found `1.5`"),
        ("1,.,a,", "x is not a DOUBLE: expected a number at byte 2, found `.`"),
        ("1,2,a,noon", "t is not a TIMESTAMP: expected a time such as 2026-01-31T14:30:00Z at byte 6, found `noon`"),
        ("1,2,a", "unreadable CSV: expected 4 values, found 3"),
        ("1,2,Smith, John,", "unreadable CSV: expected 4 values, found 5"),
        ("1,2,a\"b,", "unreadable CSV: expected quotes around the whole value, not at byte 5, found `\"b,`"),
        ("1,2,\"a\"b,", "unreadable CSV: expected a delimiter behind the closing quotes at byte 7, found `b,`"),
        (
            "1,2,\"a",
            "line break inside quotes: the quotes opened at byte 4 are not closed on this line; files of csv are read line by line, so use json or parquet for text with line breaks",
        ),
    ];
    for (line, expected) in cases {
        let decoded = decode(&[], &format!("id,x,s,t\n1,1,a,\n{line}\n\n2,2,b,\n")).expect("decodes");
        assert_eq!(shown(&decoded.batch), ["1 1 \"a\" -", "2 2 \"b\" -"], "{line}");
        assert_eq!(decoded.ordinals, Some(vec![0, 2]));
        let bad = decoded.bad.first().expect("bad");
        assert_eq!(format!("{}: {}", bad.reason, bad.detail), expected);
        assert_eq!((bad.ordinal, bad.position, bad.raw.as_ref()), (1, 16, line.as_bytes()));
    }
}

#[test]
fn a_header_must_name_the_declared_columns() {
    let good = decode(&[], "\u{feff}ID, x ,\"s\",t\r\n1,1,a,\n").expect("decodes");
    assert_eq!(good.batch.num_rows(), 1);
    for header in ["id,s,x,t", "id,x,s", "id,x,s,t,more", "1,1,a,"] {
        let error = decode(&[], &format!("{header}\n1,1,a,\n")).expect_err("refused");
        assert_eq!((error.kind(), error.code()), (Kind::Config, "C062"), "{header}");
    }
    let without = decode(&[("header", "false")], "1,1,a,\n").expect("decodes");
    assert_eq!(without.batch.num_rows(), 1);
    // Only the beginning of a file has one.
    let later = Records { data: Bytes::from_static(b"1,1,a,\n"), ends: None, positions: Positions::Bytes(9) };
    let decoded = csv(&[]).decoder(orders()).expect("decoder").decode(&later).expect("decodes");
    assert_eq!(decoded.batch.num_rows(), 1);
}

#[test]
fn a_projection_keeps_to_the_declared_places() {
    let some = Arc::new(orders().project(&[3, 0]).expect("projects"));
    let records =
        Records { data: Bytes::from_static(b"1,no,a,1970-01-01\n"), ends: None, positions: Positions::Bytes(5) };
    let decoded = csv(&[]).decoder(some).expect("decoder").decode(&records).expect("decodes");
    let id = decoded.batch.column(1).as_any().downcast_ref::<Int64Array>().expect("ids");
    assert_eq!((decoded.batch.schema().field(0).name().as_str(), id.value(0)), ("t", 1));
    let other = Arc::new(Schema::new(vec![Field::new("y", DataType::Int64, true)]));
    assert_eq!(csv(&[]).decoder(other).err().map(|e| e.kind()), Some(Kind::Plan));
}

#[test]
fn what_is_written_is_read_back() {
    for (delimiter, time) in [(",", "iso"), ("tab", "epoch_s"), (";", "epoch_ms"), ("|", "epoch_us")] {
        let options = [("delimiter", delimiter), ("timestamp_format", time)];
        let mut random = fastrand::Rng::with_seed(9);
        let texts: Vec<Option<String>> = (0..500)
            .map(|_| {
                let letters = [',', ';', '|', '\t', '"', '\n', '\r', ' ', 'a', 'é'];
                random
                    .bool()
                    .then(|| (0..random.usize(0..6)).map(|_| letters[random.usize(0..letters.len())]).collect())
            })
            .collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter((0..500).map(|_| random.bool().then(|| random.i64(..))))),
            Arc::new(Float64Array::from_iter((0..500).map(|i| match i % 4 {
                0 => Some(f64::INFINITY),
                1 => None,
                _ => Some(f64::from_bits(random.u64(..)) * 1.0).filter(|x| !x.is_nan()),
            }))),
            Arc::new(StringArray::from(texts)),
            Arc::new(TimestampMicrosecondArray::from_iter(
                (0..500).map(|_| random.bool().then(|| random.i64(-1 << 50..1 << 50))),
            )),
        ];
        let batch = RecordBatch::try_new(orders(), columns).expect("batch");
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        let mut encoder = csv(&options).encoder(orders()).expect("encoder");
        encoder.encode(&batch, &mut out, Some(&mut ends)).expect("encodes");
        let records = Records { data: out.into(), ends: Some(ends), positions: Positions::Numbered(0) };
        let decoded = csv(&options).decoder(orders()).expect("decoder").decode(&records).expect("decodes");
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad.first());
        assert_eq!(decoded.batch, batch);
    }
}

#[test]
fn a_file_begins_with_its_header() {
    let mut encoder = csv(&[]).encoder(orders()).expect("encoder");
    let mut file = encoder.header();
    assert_eq!(file, b"id,x,s,t\n");
    let rows = decode(&[], "id,x,s,t\n1,2,\"\",\n").expect("decodes");
    encoder.encode(&rows.batch, &mut file, None).expect("encodes");
    assert_eq!(String::from_utf8_lossy(&file), "id,x,s,t\n1,2.0,\"\",\n");
    assert_eq!(csv(&[("header", "false")]).encoder(orders()).expect("encoder").header(), b"");
}

#[test]
fn what_csv_cannot_write_or_mean_is_refused() {
    let one: SchemaRef = Arc::new(Schema::new(vec![Field::new("s", DataType::Utf8, true)]));
    let batch = RecordBatch::try_new(Arc::clone(&one), vec![Arc::new(StringArray::from(vec![Some("a"), None]))]);
    let mut out = Vec::new();
    let mut encoder = csv(&[]).encoder(one).expect("encoder");
    let error = encoder.encode(&batch.expect("batch"), &mut out, None).expect_err("an empty line");
    assert_eq!((error.code(), out.len()), ("D063", 0));
    for delimiter in ["", ",,", "\"", "é", "-", "5"] {
        assert_eq!(made(&[("delimiter", delimiter)]).err().map(|e| e.code()), Some("C061"), "{delimiter}");
    }
}
