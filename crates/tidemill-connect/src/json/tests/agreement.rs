//! Random records, read by the decoder and by serde_json: both must answer alike.

use super::*;

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
pub(super) fn random_text(random: &mut fastrand::Rng) -> String {
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
