//! How fast the formats are: a million orders in memory, decoded and encoded in blocks of 1 MiB, on one thread and on
//! as many as there are cores. `cargo bench -p tidemill-connect --bench decode [json|csv]`

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use tidemill_connect::{format, format_options};
use tidemill_model::{Options, Result};
use tidemill_runtime::{Format, Positions, Records};

const ROWS: u64 = 1_000_000;
const BLOCK: usize = 1 << 20;
const ROUNDS: usize = 5;

fn schema(columns: &[&str]) -> SchemaRef {
    let all = [
        ("order_id", DataType::Int64),
        ("customer_id", DataType::Int64),
        ("product_id", DataType::Int64),
        ("amount", DataType::Float64),
        ("currency", DataType::Utf8),
        ("region", DataType::Utf8),
        ("created_at", DataType::Timestamp(TimeUnit::Microsecond, None)),
    ];
    let fields = all.into_iter().filter(|(name, _)| columns.is_empty() || columns.contains(name));
    Arc::new(Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).collect::<Vec<_>>()))
}

/// The records of the benchmark's generator: one id in a thousand is null, currencies come in three spellings. Where
/// `shapeless`, the order of the fields changes at random, so that no record can be foretold from the one before.
fn orders(csv: bool, shapeless: bool) -> Vec<u8> {
    let regions = ["us-east", "us-west", "eu-west", "eu-central", "ap-south", "ap-northeast", "sa-east", "af-south"];
    let currencies = ["USD", "EUR", "gbp", "Jpy", "INR", "brl"];
    let mut random = fastrand::Rng::with_seed(42);
    let mut out = Vec::new();
    for id in 0..ROWS {
        let order = match (random.u32(0..1000), csv) {
            (0, true) => String::new(),
            (0, false) => "null".to_owned(),
            _ => id.to_string(),
        };
        let customer = (100_000.0 * random.f64() * random.f64()) as u64;
        let (product, amount) = (random.u32(0..10_000), (random.f64() * 4.0 + 1.0).exp());
        let amount = (amount * 10_000.0).round() / 10_000.0;
        let (currency, region) = (currencies[random.usize(0..6)], regions[random.usize(0..8)]);
        let millis = id * 8 + random.u64(0..8);
        let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
        let time = format!("2026-01-01T{hour:02}:{minute:02}:{second:02}.{:03}Z", millis % 1000);
        let written = match (csv, shapeless && random.bool()) {
            (true, _) => writeln!(out, "{order},{customer},{product},{amount:?},{currency},{region},{time}"),
            (false, false) => writeln!(
                out,
                "{{\"order_id\":{order},\"customer_id\":{customer},\"product_id\":{product},\"amount\":{amount:?},\
                 \"currency\":\"{currency}\",\"region\":\"{region}\",\"created_at\":\"{time}\"}}"
            ),
            (false, true) => writeln!(
                out,
                "{{\"created_at\":\"{time}\",\"region\":\"{region}\",\"currency\":\"{currency}\",\"amount\":{amount:?},\
                 \"product_id\":{product},\"customer_id\":{customer},\"order_id\":{order}}}"
            ),
        };
        written.unwrap_or_default();
    }
    out
}

/// The bytes in blocks that end with a line.
fn blocks_of(data: Vec<u8>) -> Vec<Records> {
    let data = Bytes::from(data);
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let limit = (at + BLOCK).min(data.len());
        let end = memchr::memrchr(b'\n', &data[at..limit]).map_or(limit, |n| at + n + 1);
        blocks.push(Records { data: data.slice(at..end), ends: None, positions: Positions::Bytes(at as u64 + 1) });
        at = end;
    }
    blocks
}

/// Runs `work` a few times on so many threads at once, and prints the rows per second of the best round.
fn measure(what: &str, threads: usize, work: impl Fn() -> Result<usize> + Sync) -> Result<()> {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        std::thread::scope(|scope| -> Result<()> {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(&work)).collect();
            work()?;
            for other in others {
                other.join().map_or(Ok(0), |result| result)?;
            }
            Ok(())
        })?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let rows = ROWS as f64 * threads as f64 / best;
    println!("{what:<28} {threads} thread(s) {:>7.2} M rows/s", rows / 1e6);
    Ok(())
}

fn decode_all(format: &dyn Format, schema: &SchemaRef, blocks: &[Records]) -> Result<usize> {
    let mut decoder = format.decoder(Arc::clone(schema))?;
    let mut rows = 0;
    for block in blocks {
        let decoded = decoder.decode(block)?;
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad.first());
        rows += decoded.batch.num_rows();
    }
    assert_eq!(rows as u64, ROWS);
    Ok(rows)
}

fn main() -> Result<()> {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for name in ["json", "csv"].into_iter().filter(|name| chosen.is_empty() || chosen.iter().any(|c| c == name)) {
        let settings = Options::default().resolve("format", format_options(name)?)?;
        let format = format(name, &settings, &schema(&[]))?;
        let blocks = blocks_of(orders(name == "csv", false));
        let bytes: usize = blocks.iter().map(|block| block.data.len()).sum();
        println!("{name}: {ROWS} rows of {:.1} bytes", bytes as f64 / ROWS as f64);
        if name == "json" {
            let shapeless = blocks_of(orders(false, true));
            let all = schema(&[]);
            measure("decode json, any order", 1, || decode_all(format.as_ref(), &all, &shapeless))?;
        }
        for threads in [1, threads] {
            let all = schema(&[]);
            measure(&format!("decode {name}, 7 columns"), threads, || decode_all(format.as_ref(), &all, &blocks))?;
            let three = schema(&["amount", "region", "created_at"]);
            measure(&format!("decode {name}, 3 columns"), threads, || decode_all(format.as_ref(), &three, &blocks))?;
            let mut decoder = format.decoder(Arc::clone(&all))?;
            let batches: Vec<_> = blocks.iter().map(|block| Ok(decoder.decode(block)?.batch)).collect::<Result<_>>()?;
            measure(&format!("encode {name}, 7 columns"), threads, || {
                let mut encoder = format.encoder(Arc::clone(&all))?;
                let mut out = Vec::new();
                for batch in &batches {
                    out.clear();
                    encoder.encode(batch, &mut out, None)?;
                }
                Ok(out.len())
            })?;
        }
    }
    Ok(())
}
