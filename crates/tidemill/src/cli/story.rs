//! [`Story`]: what the demo found, told to people or as one JSON object.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tidemill_runtime::exec::Latencies;

use super::numbers::{cents, duration, grouped, rate, shell};
use super::output::Output;

/// Orders and their revenue in cents, as one of the modes has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Total {
    pub(crate) rows: u64,
    pub(crate) cents: i128,
}

/// A mode: how it ran, where its result is, and what it is.
#[derive(Debug, Clone)]
pub(crate) struct Mode {
    pub(crate) name: &'static str,
    pub(crate) trigger: String,
    pub(crate) target: &'static str,
    pub(crate) total: Total,
}

/// What the demo found.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) truth: Total,
    /// How many records the generator made.
    pub(crate) records: u64,
    pub(crate) modes: Vec<Mode>,
    /// Dead letters by reason.
    pub(crate) dead: BTreeMap<String, u64>,
    /// How many records should have become dead letters.
    pub(crate) dead_truth: u64,
    /// Arrival in the first topic to visible in the view.
    pub(crate) latencies: Latencies,
    pub(crate) took: Duration,
    pub(crate) folder: PathBuf,
    /// The newest and largest groups of the report, a line each, for people.
    pub(crate) sample: String,
}

impl Story {
    /// Whether every mode has exactly the truth and every bad record is a dead letter.
    pub(crate) fn agrees(&self) -> bool {
        let dead: u64 = self.dead.values().sum();
        self.modes.iter().all(|mode| mode.total == self.truth) && dead == self.dead_truth
    }

    fn per_second(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64().max(1e-3)
    }

    pub(crate) fn tell(&self, address: Option<std::net::SocketAddr>, stay: bool, output: &Output) {
        if output.is_human() {
            self.for_people(address, stay, output);
        } else {
            output.value(&self.as_json());
        }
    }

    fn for_people(&self, address: Option<std::net::SocketAddr>, stay: bool, output: &Output) {
        let row = |mode: &str, trigger: &str, target: &str, total: Total| {
            let (rows, revenue) = (grouped(total.rows), cents(total.cents));
            output.line(format!("  {mode:<12} {trigger:<16} {target:<24} {rows:>9} {revenue:>15}"));
        };
        let (rows, revenue) = ("ORDERS", "REVENUE");
        output.line(format!("  {:<12} {:<16} {:<24} {rows:>9} {revenue:>15}", "MODE", "TRIGGER", "TARGET"));
        for mode in &self.modes {
            row(mode.name, &mode.trigger, mode.target, mode.total);
        }
        row("truth", "", "the generator", self.truth);
        if self.agrees() {
            output.line("= All modes agree with the truth, to the row and to the cent.");
        } else {
            output.line("x The modes do not agree with the truth: this is a defect of Tidemill, please report it.");
        }
        let reasons: Vec<String> =
            self.dead.iter().map(|(reason, rows)| format!("{reason} {}", grouped(*rows))).collect();
        let dead: u64 = self.dead.values().sum();
        let reasons = if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") };
        output.line(format!("  dead letters  {}: {reasons}", grouped(dead)));
        let quantile = |share: f64| self.latencies.quantile(share).map_or_else(|| "-".to_owned(), duration);
        output.line(format!(
            "  speed         {} orders/s; arrival to visible p50 {}, p99 {}",
            rate(self.per_second()),
            quantile(0.5),
            quantile(0.99),
        ));
        output.line("  the report, by revenue:");
        output.line(self.sample.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"));
        let folder = shell(&self.folder);
        output.line("Next:");
        output.line(format!("  tidemill -C {folder} query \"SELECT * FROM revenue_per_minute LIMIT 5\""));
        output.line(format!(
            "  tidemill -C {folder} dead-letters revenue     and of ingest, which refuses what is no JSON"
        ));
        match (stay, address) {
            (true, Some(address)) => {
                output.line(format!("  http://{address}/v1/views/revenue_per_minute?region=eu-west   Ctrl-C ends"));
            }
            _ => output.line("  tidemill demo --stay                         keeps a server up to ask over HTTP"),
        }
        output.line("  tidemill init --example orders my-orders     the same files, yours to change");
    }

    fn as_json(&self) -> Value {
        let total = |total: Total| json!({"rows": total.rows, "revenue": exact(total.cents)});
        let mut modes = Map::new();
        for mode in &self.modes {
            modes.insert(mode.name.replace('-', "_"), total(mode.total));
        }
        let millis = |share: f64| self.latencies.quantile(share).map(|latency| latency.as_secs_f64() * 1e3);
        json!({
            "truth": total(self.truth),
            "modes": modes,
            "dead_letters": self.dead,
            "agree": self.agrees(),
            "records": self.records,
            "seconds": self.took.as_secs_f64(),
            "orders_per_second": self.per_second(),
            "latency_ms": {"p50": millis(0.5), "p99": millis(0.99)},
            "folder": self.folder.display().to_string(),
        })
    }
}

/// Cents as a JSON number with two decimals: below 2^53 cents nothing is lost.
fn exact(cents: i128) -> Value {
    let text =
        format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
    text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number)
}
