//! Changes written, and read as serde_json reads them.

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use serde_json::Value;
use tidemill_runtime::{Decoded, Positions, Records, changelog_schema};

use super::*;

#[test]
fn each_change_is_a_record_with_both_sides() {
    let rows = Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new("note", DataType::Utf8, true)]);
    let schema = changelog_schema(&rows);
    let numbers = |of: [i64; 3]| -> ArrayRef { Arc::new(Int64Array::from(of.to_vec())) };
    let text = |of: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringArray::from(of.to_vec())) };
    let columns = vec![
        numbers([1, 2, 3]),
        text([Some("a"), Some("new"), None]),
        numbers([1, 2, 3]),
        text([Some("a"), Some("old"), None]),
        text([Some("c"), Some("u"), Some("d")]),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("changes");
    let format = DebeziumFormat::make(&Settings::default(), &Arc::new(rows)).expect("a format");
    let mut encoder = format.encoder(schema).expect("an encoder");
    let mut out = Vec::new();
    encoder.encode(&batch, &mut out, None).expect("encodes");
    assert_eq!(
        String::from_utf8(out).expect("text"),
        "{\"before\":null,\"after\":{\"k\":1,\"note\":\"a\"},\"op\":\"c\"}\n\
         {\"before\":{\"k\":2,\"note\":\"old\"},\"after\":{\"k\":2,\"note\":\"new\"},\"op\":\"u\"}\n\
         {\"before\":{\"k\":3,\"note\":null},\"after\":null,\"op\":\"d\"}\n"
    );
    let (mut parts, mut ends) = (Vec::new(), Vec::new());
    encoder.encode(&batch, &mut parts, Some(&mut ends)).expect("encodes");
    assert_eq!((ends.len(), parts.len()), (3, ends[2] as usize));
}

/// A decoder of rows `{k, note}`.
fn decoder(keyed: bool) -> Box<dyn Decoder> {
    let rows = Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new("note", DataType::Utf8, true)]);
    let rows = Arc::new(rows);
    let format = DebeziumFormat::make(&Settings::default(), &rows).expect("a format");
    format.change_decoder(rows, keyed).expect("a decoder")
}

/// Weight, key and note of a row.
type Row = (i64, Option<i64>, Option<String>);

fn rows(decoded: &Decoded) -> Vec<Row> {
    let keys = decoded.batch.column(0).as_primitive::<Int64Type>();
    let notes = decoded.batch.column(1).as_string::<i32>();
    let weight = |row| decoded.weights.as_ref().map_or(1, |weights| weights.value(row));
    let all = keys.iter().zip(notes).enumerate();
    all.map(|(row, (key, note))| (weight(row), key, note.map(str::to_owned))).collect()
}

fn lines(text: &str) -> Records {
    Records { data: text.as_bytes().to_vec().into(), ends: None, positions: Positions::Bytes(0) }
}

/// A record, and what it says with a key and without one.
type Case = (String, Result<Vec<Row>, String>, Result<Vec<Row>, String>);

#[test]
fn each_record_gives_the_rows_that_it_changes_or_says_why_not() {
    let row = |weight, key, note: &str| (weight, Some(key), Some(note.to_owned()));
    let (came, went) = (|key, note| row(1, key, note), |key, note| row(-1, key, note));
    let (a, b) = (r#"{"k":1,"note":"a"}"#, r#"{"k":1,"note":"b"}"#);
    let why = "without a PRIMARY KEY on the table a change brings the row that it takes back (in Postgres: REPLICA IDENTITY FULL)";
    let ok = |rows: Vec<Row>| Ok(rows);
    // Record, what it is with a key and without one.
    let cases: Vec<Case> = vec![
        (format!(r#"{{"before":null,"after":{a},"op":"c"}}"#), ok(vec![came(1, "a")]), ok(vec![came(1, "a")])),
        (format!(r#"{{"op":"r","after":{a}}}"#), ok(vec![came(1, "a")]), ok(vec![came(1, "a")])),
        (
            format!(r#"{{"before":{a},"after":{b},"op":"u","ts_ms":17,"source":{{"lsn":[1,{{"x":"}}"}}]}}}}"#),
            ok(vec![came(1, "b")]),
            ok(vec![went(1, "a"), came(1, "b")]),
        ),
        (format!(r#"{{"before":{a},"after":null,"op":"d"}}"#), ok(vec![went(1, "a")]), ok(vec![went(1, "a")])),
        (
            format!(
                r#" {{ "schema" : {{"fields":[]}} , "payload" : {{"op" : "c", "after" : {a} , "before":null}} }} "#
            ),
            ok(vec![came(1, "a")]),
            ok(vec![came(1, "a")]),
        ),
        (
            r#"{"before":{"k":1},"after":null,"op":"d"}"#.to_owned(),
            ok(vec![(-1, Some(1), None)]),
            ok(vec![(-1, Some(1), None)]),
        ),
        ("null".to_owned(), ok(vec![]), ok(vec![])),
        (r#"{"schema":null,"payload":null}"#.to_owned(), ok(vec![]), ok(vec![])),
        (
            format!(r#"{{"before":null,"after":{b},"op":"u"}}"#),
            ok(vec![came(1, "b")]),
            Err(format!("no `before`: op is \"u\" and `before` is null; {why}")),
        ),
        (
            r#"{"before":null,"after":null,"op":"d"}"#.to_owned(),
            Err("no `before`: op is \"d\" and `before` is null; a deletion says there which key goes".to_owned()),
            Err(format!("no `before`: op is \"d\" and `before` is null; {why}")),
        ),
    ];
    let both = |text: &str| -> Result<Vec<Row>, String> { Err(text.to_owned()) };
    let bad = [
        (r#"{"op":"c"}"#, "no `after`: op is \"c\" and `after` is null; the row as it is now is expected there"),
        (r#"{"op":"c","after":7}"#, "`after` is no row: expected an object at byte 18, found `7}`"),
        (
            r#"{"op":"t"}"#,
            "a table was truncated: op is \"t\", which takes back all rows at once and is not followed; delete them one by one, or begin a new topic",
        ),
        (r#"{"op":"x"}"#, "unknown change: op is \"x\"; expected \"c\", \"r\", \"u\" or \"d\""),
        (r#"{"k":1}"#, "no change: expected the fields `op`, `before` and `after`, at the top or in `payload`"),
        (r#"{"op":"c","after":{"k":1}"#, "unreadable JSON: expected `,` or `}` at byte 25, where the record ends"),
        (
            r#"{"op":"c","after":{"k":"x"}}"#,
            "k is not a BIGINT: in `after`: expected a whole number at byte 5, found `\"x\"`",
        ),
    ];
    let bad = bad.map(|(record, text)| (record.to_owned(), both(text), both(text)));
    let cases: Vec<_> = cases.into_iter().chain(bad).collect();
    for keyed in [true, false] {
        let expected = |case: &Case| {
            if keyed { case.1.clone() } else { case.2.clone() }
        };
        for case in &cases {
            let decoded = decoder(keyed).decode(&lines(&case.0)).expect("decodes");
            let found = match decoded.bad.as_slice() {
                [] => Ok(rows(&decoded)),
                [bad] => Err(format!("{}: {}", bad.reason, bad.detail)),
                several => panic!("{several:?}"),
            };
            assert_eq!(found, expected(case), "{} keyed {keyed}", case.0);
        }
        // All of them as one block: each keeps its place, and the good ones are unharmed.
        let text: Vec<&str> = cases.iter().map(|case| case.0.as_str()).collect();
        let decoded = decoder(keyed).decode(&lines(&text.join("\n"))).expect("decodes");
        let all: Vec<Row> = cases.iter().filter_map(|case| expected(case).ok()).flatten().collect();
        assert_eq!(rows(&decoded), all);
        let ordinals: Vec<u32> = (0_u32..)
            .zip(&cases)
            .flat_map(|(number, case)| std::iter::repeat_n(number, expected(case).map_or(0, |rows| rows.len())))
            .collect();
        assert_eq!(decoded.ordinals, Some(ordinals));
        let refused: Vec<u32> =
            (0_u32..).zip(&cases).filter(|(_, case)| expected(case).is_err()).map(|(number, _)| number).collect();
        assert_eq!(decoded.bad.iter().map(|bad| bad.ordinal).collect::<Vec<_>>(), refused);
        for bad in &decoded.bad {
            assert_eq!(bad.raw, cases[bad.ordinal as usize].0.as_bytes());
        }
    }
}

#[test]
fn a_record_gives_all_of_its_rows_or_none() {
    let record = r#"{"before":{"k":1,"note":"a"},"after":{"k":1,"note":2},"op":"u"}"#;
    let decoded = decoder(false).decode(&lines(record)).expect("decodes");
    assert_eq!((rows(&decoded), decoded.bad.len()), (vec![], 1));
    assert_eq!(decoded.bad[0].detail, "in `after`: expected a string at byte 14, found `2`");
}

/// What serde_json makes of a record.
fn by_serde(record: &[u8], keyed: bool) -> Option<Vec<Row>> {
    if record.trim_ascii() == b"null" {
        return Some(Vec::new());
    }
    let mut value: Value = serde_json::from_slice(record).ok()?;
    if value.get("op").is_none() && value.get("payload").is_some() {
        value = value["payload"].take();
    }
    if value.is_null() {
        return Some(Vec::new());
    }
    let row = |side: &str, weight: i64| -> Option<Row> {
        let row = value.get(side)?.as_object()?;
        let key = match row.get("k") {
            None | Some(Value::Null) => None,
            Some(key) => Some(key.as_i64()?),
        };
        let note = match row.get("note") {
            None | Some(Value::Null) => None,
            Some(note) => Some(note.as_str()?.to_owned()),
        };
        Some((weight, key, note))
    };
    match value.get("op")?.as_str()? {
        "c" | "r" => Some(vec![row("after", 1)?]),
        "u" if keyed => Some(vec![row("after", 1)?]),
        "u" => Some(vec![row("before", -1)?, row("after", 1)?]),
        "d" => Some(vec![row("before", -1)?]),
        _ => None,
    }
}

#[test]
fn made_up_records_read_as_serde_json_reads_them() {
    let mut random = fastrand::Rng::with_seed(11);
    let side = |random: &mut fastrand::Rng| match random.u8(0..8) {
        0 => "null".to_owned(),
        1 => "[1]".to_owned(),
        2 => format!("{{\"note\":\"x\\u00e9\",\"k\":{}}}", random.i64(-9..9)),
        3 => "{\"k\":1.5}".to_owned(),
        4 => "{ }".to_owned(),
        _ => format!("{{\"k\":{},\"note\":\"n{}\",\"more\":[{{}}]}}", random.i64(..), random.u8(..)),
    };
    for keyed in [true, false] {
        let mut decoder = decoder(keyed);
        for _ in 0..400 {
            let records: Vec<Vec<u8>> = (0..random.usize(1..30))
                .map(|_| {
                    let op = ["c", "r", "u", "d", "t", ""][random.usize(0..6)];
                    let mut fields = vec![format!("\"op\":\"{op}\"")];
                    fields.push(format!("\"before\":{}", side(&mut random)));
                    fields.push(format!("\"after\": {}", side(&mut random)));
                    fields.push("\"source\":{\"t\":[1,2,{\"a\":\"\\\"}\"}]}".to_owned());
                    random.shuffle(&mut fields);
                    fields.truncate(random.usize(2..=4));
                    let mut record = format!("{{{}}}", fields.join(","));
                    if random.u8(0..4) == 0 {
                        record = format!("{{\"schema\":{{}},\"payload\":{record}}}");
                    }
                    let mut record = record.into_bytes();
                    match random.u8(0..12) {
                        0 => record = b"null".to_vec(),
                        1 => record.truncate(random.usize(1..=record.len())),
                        2 => {
                            let at = random.usize(0..record.len());
                            record[at] = b"{}[],:\"x1"[random.usize(0..9)];
                        }
                        _ => {}
                    }
                    record
                })
                .collect();
            let (mut data, mut ends) = (Vec::new(), Vec::new());
            for record in &records {
                data.extend_from_slice(record);
                ends.push(data.len() as u32);
            }
            let records_in = Records { data: data.into(), ends: Some(ends), positions: Positions::Numbered(0) };
            let decoded = decoder.decode(&records_in).expect("decodes");
            let expected: Vec<Option<Vec<Row>>> = records.iter().map(|record| by_serde(record, keyed)).collect();
            let bad: Vec<u32> = decoded.bad.iter().map(|bad| bad.ordinal).collect();
            let refused: Vec<u32> =
                (0_u32..).zip(&expected).filter(|(_, rows)| rows.is_none()).map(|(number, _)| number).collect();
            let told = || records.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect::<Vec<_>>();
            assert_eq!(bad, refused, "{:#?}", told());
            assert_eq!(rows(&decoded), expected.into_iter().flatten().flatten().collect::<Vec<_>>(), "{:#?}", told());
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let schema = Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new("note", DataType::Utf8, true)]);
    let changes = changelog_schema(&schema);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 1, 1])),
        Arc::new(StringArray::from(vec![Some("a"), None, None])),
        Arc::new(Int64Array::from(vec![1, 1, 1])),
        Arc::new(StringArray::from(vec![Some("a"), Some("a"), None])),
        Arc::new(StringArray::from(vec!["c", "u", "d"])),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&changes), columns).expect("changes");
    let format = DebeziumFormat::make(&Settings::default(), &Arc::new(schema)).expect("a format");
    let (mut data, mut ends) = (Vec::new(), Vec::new());
    format.encoder(changes).expect("an encoder").encode(&batch, &mut data, Some(&mut ends)).expect("encodes");
    let records = Records { data: data.into(), ends: Some(ends), positions: Positions::Numbered(0) };
    let a = || Some("a".to_owned());
    let decoded = decoder(false).decode(&records).expect("decodes");
    assert_eq!(rows(&decoded), [(1, Some(1), a()), (-1, Some(1), a()), (1, Some(1), None), (-1, Some(1), None)]);
    let decoded = decoder(true).decode(&records).expect("decodes");
    assert_eq!(rows(&decoded), [(1, Some(1), a()), (1, Some(1), None), (-1, Some(1), None)]);
}
