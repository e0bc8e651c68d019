//! `kill -9` of real processes at random instants: generator → log → clean → log, a view, and Delta by key.
//!
//! Each of the three pipelines runs in its own process. One after another is killed, young or old, in the middle of
//! whatever it does, and started again. At the end each target must hold exactly what the generator's model says.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type};
use tidemill::{SystemClock, Workspace};
use tidemill_checkpoint::Counters;
use tidemill_connect::generator::{OrdersModel, Truth};
use tidemill_model::{Clock, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tidemill_sql::{Side, batch};
use tidemill_testkit::{ProjectFolder, Rng};
use tokio::runtime::Runtime;

use crate::{binary, knobs};

/// How many rows come in a second; so many that a commit always has some.
const RATE: u64 = 2_000;
/// The longest time, in milliseconds, between two deaths.
const GAP: u64 = 480;
/// How long everything may take to be read once nobody is killed any more.
const PATIENCE: Duration = Duration::from_secs(180);

const INGEST: &str = "
CREATE PIPELINE ingest WITH (trigger = 'continuous', checkpoint = '40 ms');
CREATE TABLE order_events (
  order_id BIGINT, customer_id BIGINT, product_id BIGINT, amount DECIMAL(14, 4), currency VARCHAR, region VARCHAR,
  created_at TIMESTAMP
) WITH (
  connector = 'generator', model = 'orders', seed = '@seed', rows = '@rows', rows_per_second = '@rate', splits = '1',
  start = '2026-01-01', events_per_second = '50', disorder = '8 seconds',
  null_share = '0.01', invalid_share = '0.02', malformed_share = '0.01');
INSERT INTO raw_orders SELECT * FROM order_events;
";

const REVENUE: &str = "
CREATE PIPELINE revenue WITH (trigger = 'continuous', checkpoint = '60 ms');
CREATE TABLE raw_orders (
  order_id BIGINT NOT NULL, customer_id BIGINT, product_id BIGINT, amount DECIMAL(14, 4), currency VARCHAR,
  region VARCHAR, created_at TIMESTAMP,
  WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds',
  CONSTRAINT amount_not_positive CHECK (amount > 0) ON VIOLATION DEAD LETTER
) WITH (connector = 'log', topic = 'raw-orders', partitions = '4', key = 'order_id', format = 'json');
CREATE VIEW cleaned AS
SELECT order_id, customer_id, CAST(amount AS DECIMAL(12, 2)) AS amount, upper(currency) AS currency, region, created_at
FROM raw_orders;
CREATE TABLE cleaned_orders (
  order_id BIGINT NOT NULL, customer_id BIGINT, amount DECIMAL(12, 2), currency VARCHAR, region VARCHAR,
  created_at TIMESTAMP,
  WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds'
) WITH (connector = 'log', topic = 'cleaned-orders', partitions = '4', key = 'order_id', format = 'json');
INSERT INTO cleaned_orders SELECT * FROM cleaned;
CREATE MATERIALIZED VIEW revenue_per_minute AS
SELECT region, currency, window_start, sum(amount) AS revenue, count(*) AS orders
FROM TUMBLE(cleaned, created_at, INTERVAL '1 minute')
GROUP BY region, currency, window_start, window_end;
";

const LAKE: &str = "
CREATE PIPELINE lake WITH (trigger = 'continuous', checkpoint = '250 ms');
CREATE TABLE orders (
  order_id BIGINT NOT NULL, customer_id BIGINT, amount DECIMAL(12, 2), currency VARCHAR, region VARCHAR,
  created_at TIMESTAMP, PRIMARY KEY (order_id)
) WITH (connector = 'delta', path = 'lake/orders', write = 'upsert');
INSERT INTO orders SELECT * FROM cleaned_orders;
";

const PIPELINES: [&str; 3] = ["ingest", "revenue", "lake"];

#[test]
fn kill_9_loses_nothing_and_repeats_nothing() {
    let seed = knobs::seed_of(&["kill"]);
    let rows = RATE * knobs::kills() * (GAP / 2) / 1000;
    let project = ProjectFolder::new("[engine]\nlanes = 2\n").expect("a folder");
    let ingest = INGEST
        .replace("@seed", &(seed % 1000).to_string())
        .replace("@rows", &rows.to_string())
        .replace("@rate", &RATE.to_string());
    for (name, sql) in PIPELINES.iter().zip([ingest.as_str(), REVENUE, LAKE]) {
        project.write(&format!("pipelines/{name}.sql"), sql).expect("a pipeline");
    }
    let mut shop = Shop { folder: project.path().to_owned(), workers: Vec::new(), deaths: Vec::new() };
    for name in PIPELINES {
        shop.workers.push(Worker::start(project.path(), name));
    }
    let mut random = Rng::with_seed(seed);
    shop.kill_about(knobs::kills(), &mut random);
    shop.let_it_end();
    println!("{rows} rows, deaths by age: {}", shop.ages());

    let books = Books::open(project.path());
    let problems = books.compare(rows);
    let (kept, seed) = (project.keep(), knobs::seed());
    assert!(problems.is_empty(), "seed {seed}, in {}: {}", kept.display(), problems.join("\n"));
    std::fs::remove_dir_all(&kept).expect("the folder goes away");
}

/// A pipeline's process.
struct Worker {
    name: &'static str,
    child: binary::Running,
    since: Timestamp,
    said: PathBuf,
    ended: bool,
}

impl Worker {
    fn start(project: &Path, name: &'static str) -> Worker {
        let said = project.join(format!("{name}.said"));
        let child = binary::start(project, &["-q", "run", name], &said);
        Worker { name, child, since: SystemClock.now(), said, ended: false }
    }

    /// Sees whether it ended; only the one whose rows end may.
    fn look(&mut self) {
        if self.ended {
            return;
        }
        if let Some(status) = self.child.try_wait().expect("its state") {
            let said = std::fs::read_to_string(&self.said).unwrap_or_default();
            assert!(status.success() && self.name == "ingest", "{} ended by itself with {status}:\n{said}", self.name);
            self.ended = true;
        }
    }
}

/// All three.
struct Shop {
    folder: PathBuf,
    workers: Vec<Worker>,
    /// The age, in milliseconds, at which a process of this name died.
    deaths: Vec<(&'static str, u64)>,
}

impl Shop {
    fn kill_about(&mut self, kills: u64, random: &mut Rng) {
        let mut again = None;
        while (self.deaths.len() as u64) < kills {
            // Some die while they still start or recover, most in the middle of their work.
            let gap = if again.is_some() { 60 } else { GAP };
            pause(Duration::from_millis(random.u64(0..gap)));
            self.workers.iter_mut().for_each(Worker::look);
            let alive: Vec<usize> = (0..self.workers.len()).filter(|n| !self.workers[*n].ended).collect();
            let victim = again.filter(|n| alive.contains(n)).unwrap_or_else(|| alive[random.usize(0..alive.len())]);
            let worker = &mut self.workers[victim];
            let age = SystemClock.now().since(worker.since);
            worker.child.kill().expect("SIGKILL");
            let status = worker.child.wait().expect("its end");
            if status.signal() == Some(9) {
                self.deaths.push((worker.name, u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
            }
            self.workers[victim] = Worker::start(&self.folder, worker.name);
            again = (random.u32(0..5) == 0).then_some(victim);
        }
    }

    /// Waits until everything is read, and asks the endless ones to end.
    fn let_it_end(&mut self) {
        let books = Books::open(&self.folder);
        let begun = SystemClock.now();
        loop {
            self.workers.iter_mut().for_each(Worker::look);
            let [ingest, revenue, lake] = PIPELINES.map(|name| books.counters(name));
            if self.workers[0].ended
                && revenue.rows_read == ingest.rows_written
                && lake.rows_read == revenue.rows_written
            {
                break;
            }
            assert!(
                SystemClock.now().since(begun) < PATIENCE,
                "after {PATIENCE:?} still not everything is read: {ingest:?} {revenue:?} {lake:?}"
            );
            pause(Duration::from_millis(100));
        }
        for worker in self.workers.iter_mut().filter(|worker| !worker.ended) {
            let code = binary::terminate(&mut worker.child);
            let said = std::fs::read_to_string(&worker.said).unwrap_or_default();
            assert_eq!(code, Some(0), "{} ends cleanly when asked to:\n{said}", worker.name);
        }
    }

    fn ages(&self) -> String {
        let bounds = [50, 100, 200, 400, 800, u64::MAX];
        let mut told = Vec::new();
        for name in PIPELINES {
            let mut from = 0;
            let counts = bounds.map(|to| {
                let count = self.deaths.iter().filter(|(of, age)| *of == name && (from..to).contains(age)).count();
                from = to;
                count
            });
            told.push(format!("{name} {counts:?}"));
        }
        format!("{} (below 50, 100, 200, 400, 800 ms, older)", told.join(", "))
    }
}

impl Drop for Shop {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// Real processes take real time.
fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// What the project holds.
struct Books {
    workspace: Workspace,
    runtime: Runtime,
}

impl Books {
    fn open(folder: &Path) -> Books {
        let workspace = Workspace::open(folder, Arc::new(SystemClock), &|_| None).expect("the project");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Books { workspace, runtime: runtime.expect("a runtime") }
    }

    fn counters(&self, pipeline: &str) -> Counters {
        let latest = self.workspace.checkpoints(pipeline).latest().expect("a manifest is whole");
        latest.map(|manifest| manifest.counters).unwrap_or_default()
    }

    fn ask(&self, sql: &str) -> Vec<RecordBatch> {
        let (views, resources) = (self.workspace.stored(), self.workspace.resources());
        let asked = batch::query(&self.workspace.catalog, &views, sql, &resources, StopFlag::default());
        self.runtime.block_on(asked).unwrap_or_else(|e| panic!("{sql}: {e}")).batches
    }

    /// Numbers of one row: counts, then one sum of cents.
    fn numbers(&self, sql: &str) -> Vec<i128> {
        let batches = self.ask(sql);
        let row = batches.iter().find(|batch| batch.num_rows() > 0).unwrap_or_else(|| panic!("{sql} answers nothing"));
        let number = |column: &arrow::array::ArrayRef| match column.as_primitive_opt::<Int64Type>() {
            Some(counts) => i128::from(counts.value(0)),
            None => column.as_primitive::<Decimal128Type>().value(0),
        };
        row.columns().iter().map(number).collect()
    }

    /// Everything that is not as the model says.
    fn compare(&self, rows: u64) -> Vec<String> {
        let settings = self.workspace.catalog.settings("order_events", Side::Live).expect("the generator");
        let truth = Truth::of(&OrdersModel::of(settings).expect("the model"), rows);
        let valid = truth.total(|class| !class.null_id);
        let mut problems = Vec::new();
        let mut same = |what: String, found: &[i128], expected: &[i128]| {
            if found != expected {
                problems.push(format!("{what}: {found:?}, not {expected:?}"));
            }
        };
        let count = i128::from(valid.rows);
        for table in ["cleaned_orders", "orders"] {
            let sql =
                format!("SELECT count(*), count(DISTINCT order_id), CAST(sum(amount) AS DECIMAL(38, 2)) FROM {table}");
            same(format!("rows, orders and cents of {table}"), &self.numbers(&sql), &[count, count, valid.rounded]);
        }
        for (region, currency, group) in truth.groups(|class| !class.null_id) {
            for (what, source) in [
                ("view", "SELECT sum(orders), CAST(sum(revenue) AS DECIMAL(38, 2)) FROM revenue_per_minute"),
                ("Delta table", "SELECT count(*), CAST(sum(amount) AS DECIMAL(38, 2)) FROM orders"),
            ] {
                let sql = format!("{source} WHERE region = '{region}' AND currency = '{currency}'");
                let expected = [i128::from(group.rows), group.rounded];
                same(
                    format!("orders and cents of {region} in {currency} in the {what}"),
                    &self.numbers(&sql),
                    &expected,
                );
            }
        }
        let malformed = self.numbers("SELECT count(*), count(DISTINCT position) FROM order_events.dead_letters");
        same("malformed records".to_owned(), &malformed, &[i128::from(truth.malformed); 2]);
        let refused = rows - truth.malformed - truth.valid;
        for (reason, expected) in [("order_id null", truth.null_ids), ("amount not positive", refused - truth.null_ids)]
        {
            let sql = format!(
                "SELECT count(*), count(DISTINCT split || '/' || position) FROM raw_orders.dead_letters WHERE reason = '{reason}'"
            );
            same(format!("dead letters, {reason}"), &self.numbers(&sql), &[i128::from(expected); 2]);
        }
        let late = self.counters("revenue").rows_late;
        same("late rows".to_owned(), &[i128::from(late)], &[0]);
        problems
    }
}
