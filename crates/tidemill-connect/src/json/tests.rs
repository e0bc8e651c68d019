//! JSON against `serde_json` as the oracle, on seeded records that are well-formed, odd, and broken; and round trips.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType, UInt8Type,
};
use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use tidemill_model::{Kind, Options};
use tidemill_runtime::{Decoded, Decoder, Format, Positions, Records};

use crate::{format, format_options};

mod agreement;

use agreement::random_text;

fn json(options: &[(&'static str, &'static str)]) -> Arc<dyn Format> {
    let specs = format_options("json").expect("known");
    let settings = Options::of(options.iter().copied()).resolve("format `json`", specs).expect("resolves");
    format("json", &settings, &Arc::new(Schema::empty())).expect("made")
}

fn schema_of(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

fn lines(text: impl Into<Vec<u8>>) -> Records {
    Records { data: Bytes::from(text.into()), ends: None, positions: Positions::Bytes(0) }
}

fn framed(records: &[Vec<u8>], first: u64) -> Records {
    let mut ends = Vec::new();
    let mut data = Vec::new();
    for record in records {
        data.extend_from_slice(record);
        ends.push(u32::try_from(data.len()).expect("small"));
    }
    Records { data: Bytes::from(data), ends: Some(ends), positions: Positions::Numbered(first) }
}

/// A row of a batch as JSON values, by way of arrow's own accessors.
fn row(batch: &RecordBatch, row: usize) -> Vec<String> {
    batch.columns().iter().map(|column| cell(column, row)).collect()
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".to_owned();
    }
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => format!("{:?}", column.as_string::<i32>().value(row)),
        DataType::Utf8View => format!("{:?}", column.as_string_view().value(row)),
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().value(row).to_string(),
        DataType::Timestamp(..) => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        other => unreachable!("no test uses {other}"),
    }
}

fn decode(options: &[(&'static str, &'static str)], schema: &SchemaRef, text: &str) -> Decoded {
    json(options).decoder(Arc::clone(schema)).expect("decoder").decode(&lines(text)).expect("decodes")
}

/// Each record alone, then behind another that teaches the decoder its shape: both must answer alike.
fn check(options: &[(&'static str, &'static str)], kind: DataType, cases: &[(&str, Result<&str, &str>)]) {
    let schema = schema_of(&[("a", kind)]);
    for (token, expected) in cases {
        for taught in [false, true] {
            let teacher = if taught { "{\"a\":null}\n" } else { "" };
            let decoded = decode(options, &schema, &format!("{teacher}{{\"a\":{token}}}\n"));
            let last = decoded.batch.num_rows().checked_sub(1).map(|last| row(&decoded.batch, last).remove(0));
            let bad = decoded.bad.first().map(|bad| format!("{}: {}", bad.reason, bad.detail));
            match expected {
                Ok(value) => assert_eq!((last.as_deref(), bad), (Some(*value), None), "{token}"),
                Err(words) => assert_eq!(bad.as_deref(), Some(*words), "{token}"),
            }
        }
    }
}

#[test]
fn says_what_is_wrong_with_a_value() {
    check(
        &[],
        DataType::Int64,
        &[
            ("1", Ok("1")),
            ("-0", Ok("0")),
            ("9223372036854775807", Ok("9223372036854775807")),
            (
                "9223372036854775808",
                Err(
                    "a is not a BIGINT: expected a whole number within the range at byte 5, found `9223372036854775808`",
                ),
            ),
            ("1.0", Err("a is not a BIGINT: expected a whole number at byte 5, found `1.0`")),
            ("\"1\"", Err("a is not a BIGINT: expected a whole number at byte 5, found `\"1\"`")),
            ("01", Err("unreadable JSON: expected `,` or `}` at byte 6, found `1}`")),
            ("", Err("unreadable JSON: expected a value at byte 5, found `}`")),
            ("1}x", Err("unreadable JSON: expected the end of the record at byte 7, found `x}`")),
            ("nulL", Err("unreadable JSON: expected a value at byte 5, found `nulL}`")),
        ],
    );
    check(
        &[],
        DataType::Utf8,
        &[
            ("\"\\ud83d\\ude00\"", Ok("\"😀\"")),
            ("\"\\ud83d\"", Err("unreadable JSON: expected a valid escape at byte 6, found `\\ud83d\"}`")),
            ("\"\\x\"", Err("unreadable JSON: expected a valid escape at byte 6, found `\\x\"}`")),
            (
                "\"a\tb\"",
                Err("unreadable JSON: expected an escape in place of a control character at byte 7, found `\tb\"}`"),
            ),
            ("\"a", Err("unreadable JSON: expected a closing quote at byte 8, where the record ends")),
            ("7", Err("a is not a VARCHAR: expected a string at byte 5, found `7`")),
        ],
    );
    check(
        &[],
        micros(),
        &[
            ("\"1970-01-01T00:00:00.000001Z\"", Ok("1")),
            ("\"1970-01-01T00:00:00\\u005a\"", Ok("0")),
            (
                "1767225600",
                Err("a is not a TIMESTAMP: expected a time such as 2026-01-31T14:30:00Z at byte 5, found `1767225600`"),
            ),
            (
                "\"yesterday\"",
                Err(
                    "a is not a TIMESTAMP: expected a time such as 2026-01-31T14:30:00Z at byte 5, found `\"yesterday\"`",
                ),
            ),
        ],
    );
    check(
        &[],
        DataType::Decimal128(10, 2),
        &[
            ("0.1", Ok("10")),
            ("-12345678.9e0", Ok("-1234567890")),
            ("0.001", Err("a is not a DECIMAL(10, 2): expected a number of no more digits at byte 5, found `0.001`")),
            ("\"0.1\"", Err("a is not a DECIMAL(10, 2): expected a number at byte 5, found `\"0.1\"`")),
        ],
    );
    check(
        &[],
        DataType::Float64,
        &[
            ("1e308", Ok("1e308")),
            ("1e309", Err("a is not a DOUBLE: expected a number within the range at byte 5, found `1e309`")),
        ],
    );
}

#[test]
fn epochs_are_numbers_of_their_unit() {
    let far = "a is not a TIMESTAMP: expected a time in the years 1 to 9999 at byte 5, found `";
    check(&[("timestamp_format", "epoch_s")], micros(), &[("1", Ok("1000000")), ("-0.0000015", Ok("-2"))]);
    check(
        &[("timestamp_format", "epoch_ms")],
        micros(),
        &[
            ("1767225600123", Ok("1767225600123000")),
            ("1e3", Ok("1000000")),
            ("253402300800000", Err(&format!("{far}253402300800000`"))),
            ("\"1\"", Err("a is not a TIMESTAMP: expected a number at byte 5, found `\"1\"`")),
        ],
    );
    check(&[("timestamp_format", "epoch_us")], micros(), &[("1", Ok("1")), ("1.9", Ok("1"))]);
}

#[test]
fn bad_records_leave_the_others_unharmed() {
    let schema = schema_of(&[("id", DataType::Int64), ("t", DataType::Utf8)]);
    let text = "\u{feff}{\"id\":1,\"t\":\"a\"}\n\n{\"id\":2,\"t\":\"b\"\r\n \r\n{\"id\":3,\"t\":4}\n{\"t\":\"c\",\"id\":5}\n{\"id\":6,\"t\":\"d\"}";
    let decoded = decode(&[], &schema, text);
    let rows: Vec<Vec<String>> = (0..decoded.batch.num_rows()).map(|i| row(&decoded.batch, i)).collect();
    assert_eq!(rows, [["1", "\"a\""], ["5", "\"c\""], ["6", "\"d\""]]);
    assert_eq!(decoded.ordinals, Some(vec![0, 3, 4]));
    let bad: Vec<(u32, u64, &str, &[u8])> =
        decoded.bad.iter().map(|b| (b.ordinal, b.position, b.reason.as_str(), b.raw.as_ref())).collect();
    assert_eq!(
        bad,
        [
            (1, 21, "unreadable JSON", &b"{\"id\":2,\"t\":\"b\"\r"[..]),
            (2, 41, "t is not a VARCHAR", &b"{\"id\":3,\"t\":4}"[..]),
        ]
    );
    let records = framed(&[b"{\"id\":1}".to_vec(), b"".to_vec(), b"{\"id\":2}\n".to_vec()], 100);
    let decoded = json(&[]).decoder(schema).expect("decoder").decode(&records).expect("decodes");
    assert_eq!((decoded.ordinals, decoded.bad[0].position), (Some(vec![0, 2]), 101));
}

#[test]
fn a_shape_learned_in_frames_does_not_step_over_lines() {
    let schema = schema_of(&[("id", DataType::Int64)]);
    let mut decoder = json(&[]).decoder(schema).expect("decoder");
    let pretty = b"{\n\"id\":\n1\n}".to_vec();
    let decoded = decoder.decode(&framed(&[pretty.clone(), pretty.clone()], 0)).expect("decodes");
    assert_eq!((decoded.batch.num_rows(), decoded.bad.len()), (2, 0));
    let decoded = decoder.decode(&lines(pretty)).expect("decodes");
    assert_eq!((decoded.batch.num_rows(), decoded.bad.len()), (0, 4));
    // Nor does a nested value that nobody asked for.
    let decoded = decoder.decode(&lines("{\"x\":[1],\"id\":1}\n{\"x\":[1,\n2],\"id\":1}\n")).expect("decodes");
    assert_eq!((decoded.batch.num_rows(), decoded.bad.len()), (1, 2));
}

#[test]
fn what_is_written_is_read_back() {
    let schema = schema_of(&[
        ("id", DataType::Int64),
        ("a \"quoted\" name that is much longer than thirty-two bytes", DataType::Int32),
        ("x", DataType::Float64),
        ("s", DataType::Utf8),
        ("v", DataType::Utf8View),
        ("d", DataType::Decimal128(20, 4)),
        ("b", DataType::Boolean),
        ("t", micros()),
    ]);
    for time in ["iso", "epoch_s", "epoch_ms", "epoch_us"] {
        let mut random = fastrand::Rng::with_seed(5);
        let text: Vec<String> = (0..500)
            .map(|_| {
                let mut record = serde_json::Map::new();
                let mut values = fastrand::Rng::with_seed(random.u64(..));
                let mut put = |name: &str, value: Value| {
                    if fastrand::Rng::with_seed(random.u64(..)).u8(0..10) > 0 {
                        record.insert(name.to_owned(), value);
                    }
                };
                put("id", values.i64(..).into());
                put("a \"quoted\" name that is much longer than thirty-two bytes", values.i32(..).into());
                put("x", (values.f64() * 1e6).into());
                put("b", values.bool().into());
                record.insert("s".to_owned(), random_text(&mut random).into());
                record.insert("v".to_owned(), random_text(&mut random).into());
                Value::Object(record).to_string()
            })
            .collect();
        let mut decoder = json(&[("timestamp_format", time)]).decoder(Arc::clone(&schema)).expect("decoder");
        let first = decoder.decode(&lines(text.join("\n"))).expect("decodes");
        assert!(first.bad.is_empty());
        // Decimals and times come from numbers that the encoder has not seen.
        let mut columns = first.batch.columns().to_vec();
        let times: Vec<Option<i64>> = (0..500).map(|_| random.bool().then(|| random.i64(-1 << 50..1 << 50))).collect();
        columns[7] = Arc::new(arrow::array::TimestampMicrosecondArray::from(times));
        let decimals: Vec<Option<i128>> = (0..500).map(|_| random.bool().then(|| random.i64(..).into())).collect();
        columns[5] =
            Arc::new(arrow::array::Decimal128Array::from(decimals).with_data_type(DataType::Decimal128(20, 4)));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("batch");
        let mut encoder = json(&[("timestamp_format", time)]).encoder(Arc::clone(&schema)).expect("encoder");
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        encoder.encode(&batch, &mut out, None).expect("encodes");
        for line in out.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            serde_json::from_slice::<Value>(line).expect("is JSON to others too");
        }
        let again = decoder.decode(&lines(out)).expect("decodes");
        assert!(again.bad.is_empty(), "{:?}", again.bad.first());
        assert_eq!(again.batch, batch);
        let mut framed = Vec::new();
        encoder.encode(&batch, &mut framed, Some(&mut ends)).expect("encodes");
        let records = Records { data: framed.into(), ends: Some(ends), positions: Positions::Numbered(0) };
        assert_eq!(decoder.decode(&records).expect("decodes").batch, batch);
    }
}

#[test]
fn writes_what_people_expect() {
    let schema = schema_of(&[
        ("id", DataType::Int64),
        ("x", DataType::Float64),
        ("s", DataType::Utf8),
        ("d", DataType::Decimal128(10, 2)),
        ("t", micros()),
    ]);
    let text = "{\"id\":-7,\"x\":1.5,\"s\":\"a\\\"\\u0001\\né\",\"d\":1.5,\"t\":\"2026-01-01T00:00:00.120\"}\n{\"id\":100000000,\"t\":\"2026-01-02\"}\n";
    let decoded = decode(&[], &schema, text);
    let mut out = Vec::new();
    json(&[]).encoder(Arc::clone(&schema)).expect("encoder").encode(&decoded.batch, &mut out, None).expect("encodes");
    let expected = "{\"id\":-7,\"x\":1.5,\"s\":\"a\\\"\\u0001\\né\",\"d\":1.50,\"t\":\"2026-01-01T00:00:00.120Z\"}\n\
                    {\"id\":100000000,\"x\":null,\"s\":null,\"d\":null,\"t\":\"2026-01-02T00:00:00Z\"}\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn what_json_cannot_write_is_an_error_and_nothing_is_written() {
    let schema = schema_of(&[("x", DataType::Float64)]);
    let column: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.0, f64::NAN]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).expect("batch");
    let (mut out, mut ends) = (b"before".to_vec(), vec![6]);
    let mut encoder = json(&[]).encoder(schema).expect("encoder");
    let error = encoder.encode(&batch, &mut out, Some(&mut ends)).expect_err("NaN");
    assert_eq!((error.kind(), out.as_slice(), ends), (Kind::Data, &b"before"[..], vec![6]));
    let binary = schema_of(&[("raw", DataType::Binary)]);
    assert_eq!(json(&[]).decoder(Arc::clone(&binary)).err().map(|e| e.kind()), Some(Kind::Plan));
    assert_eq!(json(&[]).encoder(binary).err().map(|e| e.kind()), Some(Kind::Plan));
}
