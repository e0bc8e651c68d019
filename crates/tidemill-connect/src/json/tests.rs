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

/// What the oracle makes of a record: the row, `Err` when the record is bad, `None` when it has no opinion.
fn oracle(record: &[u8], schema: &Schema) -> Option<Result<Vec<String>, String>> {
    let value: Value = match serde_json::from_slice(record) {
        Ok(value) => value,
        // It reads every number into a double; we read only those asked for.
        Err(e) if e.to_string().contains("out of range") || e.to_string().contains("recursion") => return None,
        Err(e) => return Some(Err(e.to_string())),
    };
    let Value::Object(object) = value else { return Some(Err("no object".to_owned())) };
    // Its doubles are not always the nearest ones, so those are parsed anew from their text.
    let texts: HashMap<String, &RawValue> = serde_json::from_slice(record).unwrap_or_default();
    let mut row = Vec::new();
    for field in schema.fields() {
        let value = object.get(field.name()).unwrap_or(&Value::Null);
        let text = match (field.data_type(), value) {
            (_, Value::Null) => Some("null".to_owned()),
            (DataType::Boolean, Value::Bool(b)) => Some(b.to_string()),
            (DataType::UInt8, Value::Number(n)) => n.as_u64().and_then(|n| u8::try_from(n).ok()).map(|n| n.to_string()),
            (DataType::Int32, Value::Number(n)) => {
                n.as_i64().and_then(|n| i32::try_from(n).ok()).map(|n| n.to_string())
            }
            (DataType::Int64, Value::Number(n)) => n.as_i64().map(|n| n.to_string()),
            (DataType::Float64, Value::Number(_)) => {
                texts.get(field.name()).and_then(|raw| raw.get().parse::<f64>().ok()).map(|x| format!("{x:?}"))
            }
            (DataType::Utf8 | DataType::Utf8View, Value::String(s)) => Some(format!("{s:?}")),
            (DataType::Timestamp(..), Value::String(s)) => instant(s).map(|t| t.to_string()),
            _ => None,
        };
        match text {
            Some(text) => row.push(text),
            None => return Some(Err(format!("{} mistyped", field.name()))),
        }
    }
    Some(Ok(row))
}

/// The instant that a text means: its shape is checked here, its value found by the model's own parser.
fn instant(text: &str) -> Option<i64> {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let time = match shape.strip_prefix("0000-00-00") {
        Some("") => "",
        Some(rest) => rest.strip_prefix(['T', ' '])?,
        None => return None,
    };
    let zone = time.trim_start_matches(['0', ':', '.']);
    let known = matches!(zone, "" | "Z") || zone.strip_prefix(['+', '-']) == Some("00:00");
    let clock = time.strip_suffix(zone)?;
    let (clock, digits) = clock.split_once('.').map_or((clock, None), |(clock, digits)| (clock, Some(digits)));
    let shaped = match clock {
        "" => time.is_empty(),
        "00:00" => digits.is_none(),
        "00:00:00" => digits.is_none_or(|d| (1..=9).contains(&d.len()) && !d.contains([':', '.'])),
        _ => false,
    };
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest.get(..digits.map_or(0, str::len)).unwrap_or(""));
    let offset = text.get(text.len() - zone.len()..)?;
    // The parser knows leap seconds and offsets of more than a day, which we refuse; and it truncates.
    if !known || !shaped || text.get(17..19) == Some("60") || offset.get(1..3).is_some_and(|hours| hours > "23") {
        return None;
    }
    let whole = if fraction.is_empty() { text.to_owned() } else { text.replacen(&format!(".{fraction}"), "", 1) };
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let instant = tidemill_model::Timestamp::parse(&whole).ok()?.0 + micros;
    (-62_135_596_800_000_000..=253_402_300_799_999_999).contains(&instant).then_some(instant)
}

fn orders() -> SchemaRef {
    schema_of(&[
        ("order_id", DataType::Int64),
        ("n", DataType::Int32),
        ("tiny", DataType::UInt8),
        ("amount", DataType::Float64),
        ("currency", DataType::Utf8),
        ("region", DataType::Utf8View),
        ("open", DataType::Boolean),
        ("created_at", micros()),
    ])
}

/// Random text, with everything in it that a string may hold.
fn random_text(random: &mut fastrand::Rng) -> String {
    let length = random.usize(0..24);
    (0..length)
        .map(|_| match random.u8(0..12) {
            0 => '"',
            1 => '\\',
            2 => char::from(random.u8(0..32)),
            3 => 'ü',
            4 => '世',
            5 => '😀',
            _ => char::from(random.u8(32..127)),
        })
        .collect()
}

/// The text as a JSON string, each character escaped or not as the dice fall.
fn random_string(text: &str, random: &mut fastrand::Rng) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' | '\0'..='\u{1f}' => match (char, random.bool()) {
                ('"', true) => out.push_str("\\\""),
                ('\\', true) => out.push_str("\\\\"),
                ('\n', true) => out.push_str("\\n"),
                ('\t', true) => out.push_str("\\t"),
                _ => out.push_str(&format!("\\u{:04x}", char as u32)),
            },
            '/' if random.bool() => out.push_str("\\/"),
            _ if random.u8(0..20) == 0 => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
            _ => out.push(char),
        }
    }
    out.push('"');
    out
}

fn random_number(random: &mut fastrand::Rng) -> String {
    match random.u8(0..8) {
        0 => random.i64(..).to_string(),
        1 => random.i32(..).to_string(),
        2 => random.u8(..).to_string(),
        3 => format!("{:?}", f64::from_bits(random.u64(..) & !(1 << 62))),
        4 => format!("{}.{:02}", random.u32(0..1000), random.u8(0..100)),
        5 => format!("-{}e{}", random.u32(1..1000), random.i32(-20..20)),
        6 => random.u64(..).to_string(),
        _ => "0".to_owned(),
    }
    .replace("NaN", "1")
    .replace("inf", "2")
}

fn random_time(random: &mut fastrand::Rng) -> String {
    let fraction = match random.u8(0..3) {
        0 => String::new(),
        1 => format!(".{:03}", random.u32(0..1000)),
        _ => format!(".{:0w$}", random.u32(0..10), w = random.usize(1..10)),
    };
    let zone = match random.u8(0..4) {
        0 => String::new(),
        1 => format!("{}{:02}:{:02}", if random.bool() { '+' } else { '-' }, random.u8(0..24), random.u8(0..60)),
        _ => "Z".to_owned(),
    };
    let between = if random.bool() { 'T' } else { ' ' };
    let (month, day) = (random.u8(1..13), random.u8(1..32));
    let (hour, minute, second) = (random.u8(0..24), random.u8(0..60), random.u8(0..60));
    format!("\"2026-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}{fraction}{zone}\"")
}

/// Any value, nested up to `depth`.
fn random_value(random: &mut fastrand::Rng, depth: usize) -> String {
    let kinds = if depth == 0 { 6 } else { 8 };
    match random.u8(0..kinds) {
        0 => "null".to_owned(),
        1 => "true".to_owned(),
        2 => "false".to_owned(),
        3 => random_number(random),
        4 => random_time(random),
        5 => {
            let text = random_text(random);
            random_string(&text, random)
        }
        6 => {
            let items: Vec<String> = (0..random.usize(0..4)).map(|_| random_value(random, depth - 1)).collect();
            format!("[{}]", items.join(" , "))
        }
        _ => {
            let items: Vec<String> =
                (0..random.usize(0..4)).map(|i| format!("\"k{i}\" :{}", random_value(random, depth - 1))).collect();
            format!("{{{}}}", items.join(", "))
        }
    }
}

/// A record of some style: its fields, their order, the blanks between them.
fn random_record(random: &mut fastrand::Rng, style: u8) -> Vec<u8> {
    let mut fields: Vec<(&str, String)> = vec![
        ("order_id", random.i64(..).to_string()),
        ("n", random.i32(-1000..1000).to_string()),
        ("tiny", random.u8(..).to_string()),
        ("amount", format!("{}.{:04}", random.u32(0..100_000), random.u32(0..10_000))),
        ("currency", "\"USD\"".to_owned()),
        ("region", format!("\"region-{}\"", random.u32(..))),
        ("open", random.bool().to_string()),
        ("created_at", random_time(random)),
        ("extra", random_value(random, 2)),
    ];
    if style >= 1 {
        // Some odd values, also of the wrong type.
        for _ in 0..random.usize(0..3) {
            let i = random.usize(0..fields.len());
            fields[i].1 = random_value(random, 1);
        }
        let text = random_text(random);
        fields[4].1 = random_string(&text, random);
    }
    if style >= 2 {
        fields.retain(|_| random.u8(0..10) > 0);
        if random.u8(0..10) == 0 {
            let again = fields.get(random.usize(0..fields.len().max(1))).cloned();
            fields.extend(again.map(|(name, _)| (name, random_number(random))));
        }
    }
    if style >= 3 {
        random.shuffle(&mut fields);
    }
    let (separator, colon) = match style {
        0 | 1 => (",", ":"),
        2 => (", ", ": "),
        _ => (" ,\t", " : "),
    };
    let body: Vec<String> = fields
        .iter()
        .map(|(name, value)| {
            let name =
                if style >= 3 && random.u8(0..8) == 0 { random_string(name, random) } else { format!("\"{name}\"") };
            format!("{name}{colon}{value}")
        })
        .collect();
    format!("{{{}}}", body.join(separator)).into_bytes()
}

/// The record with some bytes changed, taken out or put in.
fn broken(mut record: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    for _ in 0..random.usize(1..3) {
        let at = random.usize(0..record.len());
        let likely = b"\"\\{}[],:0123456789.eE-+ \tntfu\xFF\xC3\xA9\x01Z";
        let byte = likely[random.usize(0..likely.len())];
        match random.u8(0..4) {
            0 => record[at] = byte,
            1 => record.insert(at, byte),
            2 if record.len() > 1 => {
                record.remove(at);
            }
            _ => record.truncate(at.max(1)),
        }
    }
    record.retain(|byte| *byte != b'\n');
    record
}

/// Decodes and compares each record with the oracle; says how many were compared and how many of them were bad.
fn compare(
    decoder: &mut dyn Decoder,
    schema: &Schema,
    records: &[Vec<u8>],
    block: &Records,
    seed: u64,
) -> (usize, usize) {
    let decoded = decoder.decode(block).expect("decodes");
    let good: Vec<u32> = match &decoded.ordinals {
        Some(ordinals) => ordinals.clone(),
        None => (0..decoded.batch.num_rows() as u32).collect(),
    };
    assert_eq!(good.len(), decoded.batch.num_rows(), "seed {seed}");
    assert_eq!(good.len() + decoded.bad.len(), records.len(), "seed {seed}: every record is answered once");
    let (mut compared, mut bad_ones) = (0, 0);
    for (ordinal, record) in records.iter().enumerate() {
        let text = String::from_utf8_lossy(record);
        let bad = decoded.bad.iter().find(|bad| bad.ordinal as usize == ordinal);
        let ours = good.iter().position(|o| *o as usize == ordinal).map(|i| row(&decoded.batch, i));
        assert!(bad.is_some() != ours.is_some(), "seed {seed}: {text}");
        if let Some(bad) = bad {
            assert_eq!(bad.raw, Bytes::from(record.clone()), "seed {seed}");
        }
        let Some(theirs) = oracle(record, schema) else { continue };
        compared += 1;
        bad_ones += usize::from(theirs.is_err());
        let why = format!("seed {seed}: {text}\n  we: {bad:?}\n  the oracle: {theirs:?}");
        assert_eq!(ours, theirs.ok(), "{why}");
    }
    (compared, bad_ones)
}

#[test]
fn agrees_with_serde_json() {
    let schema = orders();
    let (mut compared, mut bad) = (0, 0);
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        // One decoder for several blocks: what it learned from one must not hurt the next.
        let mut decoder = json(&[]).decoder(Arc::clone(&schema)).expect("decoder");
        let mut framed_decoder = json(&[]).decoder(Arc::clone(&schema)).expect("decoder");
        let wild = random.u8(0..4);
        for _ in 0..3 {
            let records: Vec<Vec<u8>> = (0..random.usize(1..40))
                .map(|_| {
                    let style = if random.u8(0..8) == 0 { random.u8(0..4) } else { wild };
                    let record = random_record(&mut random, style);
                    if random.u8(0..4) == 0 { broken(record, &mut random) } else { record }
                })
                .filter(|record| !record.iter().all(|b| b" \t\r".contains(b)))
                .collect();
            let mut text = records.join(&b"\n"[..]);
            if random.bool() {
                text.push(b'\n');
            }
            let counts = compare(decoder.as_mut(), &schema, &records, &lines(text), seed);
            compared += counts.0;
            bad += counts.1;
            compare(framed_decoder.as_mut(), &schema, &records, &framed(&records, 7), seed);
        }
    }
    assert!(compared > 20_000 && bad > 4_000 && compared - bad > 8_000, "{compared} compared, {bad} bad");
}

#[test]
fn a_projection_finds_the_same_records_bad() {
    let schema = schema_of(&[("currency", DataType::Utf8)]);
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(1000 + seed);
        let mut decoder = json(&[]).decoder(Arc::clone(&schema)).expect("decoder");
        let records: Vec<Vec<u8>> = (0..60)
            .map(|_| {
                let record = random_record(&mut random, 0);
                if random.u8(0..4) == 0 { broken(record, &mut random) } else { record }
            })
            .filter(|record| !record.iter().all(|b| b" \t\r".contains(b)))
            .collect();
        compare(decoder.as_mut(), &schema, &records, &lines(records.join(&b"\n"[..])), seed);
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
