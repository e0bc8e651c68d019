//! The options of the connector `generator`, checked and typed as [`GeneratorConfig`].
//!
//! **Invariant:** an option that a model does not have is refused, never ignored.

use std::time::Duration;

use tidemill_model::{Error, Kind, OptionKind, OptionSpec, Result, Settings, Timestamp};

use super::nexmark::{NexmarkModel, Table};
use super::orders::{OrdersModel, Shape};
use super::random::mix;

/// 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000);

const MODELS: &[&str] = &["orders", "customers", "products", "nexmark"];

/// The options beyond the common ones. Those that one model only has carry no default here, so that giving them to
/// another is seen.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::optional(
        "model",
        OptionKind::OneOf(MODELS),
        Some("orders"),
        "Which rows: orders, the tables they point to, or the events of the Nexmark benchmark.",
    ),
    OptionSpec::optional(
        "table",
        OptionKind::OneOf(&["person", "auction", "bid"]),
        None,
        "Which table of model `nexmark`: bid unless given. Tables with the same options are made from the same events.",
    ),
    OptionSpec::optional(
        "seed",
        OptionKind::Integer,
        Some("42"),
        "Another number gives other rows; the same one the same rows.",
    ),
    OptionSpec::optional(
        "rows",
        OptionKind::Integer,
        None,
        "How many rows in all; of model `nexmark`, events of all three tables. Endless unless given; 10000 customers; 1000 products.",
    ),
    OptionSpec::optional(
        "splits",
        OptionKind::Integer,
        None,
        "How many splits share the rows: 8 for orders and bids, else 1.",
    ),
    OptionSpec::optional(
        "rows_per_second",
        OptionKind::Number,
        None,
        "How many rows (`nexmark`: events) come into being each second, counted from the first opening; as fast as possible unless given.",
    ),
    OptionSpec::optional(
        "events_per_second",
        OptionKind::Number,
        None,
        "How many orders or events lie in a second of event time: as many as `rows_per_second`, else 1000.",
    ),
    OptionSpec::optional(
        "start",
        OptionKind::Time,
        None,
        "The event time from which on rows lie: 2026-01-01T00:00:00Z unless given.",
    ),
    OptionSpec::optional("customers", OptionKind::Integer, None, "How many customers order: 10000 unless given."),
    OptionSpec::optional("products", OptionKind::Integer, None, "How many products are ordered: 1000 unless given."),
    OptionSpec::optional(
        "null_share",
        OptionKind::Number,
        None,
        "The share of orders without an order_id; 0 unless given.",
    ),
    OptionSpec::optional(
        "duplicate_share",
        OptionKind::Number,
        None,
        "The share of copies of an earlier order; 0 unless given.",
    ),
    OptionSpec::optional(
        "invalid_share",
        OptionKind::Number,
        None,
        "The share of orders of zero or less; 0 unless given.",
    ),
    OptionSpec::optional(
        "malformed_share",
        OptionKind::Number,
        None,
        "The share of records that are not JSON; 0 unless given.",
    ),
    OptionSpec::optional(
        "disorder",
        OptionKind::Span,
        None,
        "How far rows are out of order: each is delayed by less than this; not at all unless given.",
    ),
    OptionSpec::optional(
        "late_share",
        OptionKind::Number,
        None,
        "The share of orders delayed by more; 0 unless given.",
    ),
    OptionSpec::optional(
        "late_by",
        OptionKind::Span,
        None,
        "The most that these are delayed by: 10 minutes unless given.",
    ),
];

/// The options of orders that events of Nexmark have too.
const NEXMARK_TOO: &[&str] = &["rows_per_second", "events_per_second", "start", "disorder"];

/// The options that only orders have, but for those.
const ORDERS_ONLY: &[&str] = &[
    "rows_per_second",
    "events_per_second",
    "start",
    "customers",
    "products",
    "null_share",
    "duplicate_share",
    "invalid_share",
    "malformed_share",
    "disorder",
    "late_share",
    "late_by",
];

/// Which rows.
#[derive(Debug, Clone)]
pub(super) enum Model {
    Orders(OrdersModel),
    Customers(u64),
    Products(u64),
    Nexmark(NexmarkModel),
}

impl Model {
    /// What its splits are called after: the word in `model = '…'` or `table = '…'`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Model::Orders(_) => "orders",
            Model::Customers(_) => "customers",
            Model::Products(_) => "products",
            Model::Nexmark(model) => model.table.name(),
        }
    }
}

/// The options, typed.
#[derive(Debug, Clone)]
pub(super) struct GeneratorConfig {
    pub(super) model: Model,
    pub(super) rows: Option<u64>,
    pub(super) splits: u64,
    pub(super) rows_per_second: Option<f64>,
}

impl GeneratorConfig {
    /// Reads the options of one dataset.
    ///
    /// # Errors
    /// Config, when a value is outside what it may be or the model does not have the option.
    pub(super) fn of(settings: &Settings) -> Result<GeneratorConfig> {
        let seed = mix(settings.integer("seed").unwrap_or(42));
        let (model, rows, splits) = match settings.text("model").unwrap_or("orders") {
            "customers" => (Model::Customers(seed), Some(10_000), 1),
            "products" => (Model::Products(seed), Some(1_000), 1),
            "nexmark" => {
                let model = nexmark(settings)?;
                let rows = settings.integer("rows").map(|events| model.table.rows_of(events));
                let splits = if model.table == Table::Bid { 8 } else { 1 };
                (Model::Nexmark(model), rows, splits)
            }
            _ => (Model::Orders(OrdersModel::of(settings)?), None, 8),
        };
        let (is_orders, is_nexmark) = (matches!(model, Model::Orders(_)), matches!(model, Model::Nexmark(_)));
        let foreign = |name: &&&str| match **name {
            "table" => !is_nexmark,
            name => !(is_orders || is_nexmark && NEXMARK_TOO.contains(&name)),
        };
        let given = ORDERS_ONLY.iter().chain(&["table"]).filter(foreign).find(|name| settings.text(name).is_some());
        if let Some(name) = given {
            let of = if *name == "table" { "nexmark" } else { "orders" };
            let message = format!("model `{}` has no option `{name}`", settings.text("model").unwrap_or("orders"));
            return Err(Error::new(Kind::Config, "C082", message).fact(format!("leave it out; model `{of}` has it")));
        }
        if let Some(format) = settings.text("format").filter(|format| *format != "json") {
            let message = format!("the generator does not write format `{format}`");
            return Err(Error::new(Kind::Config, "C083", message).fact("it makes JSON records: leave `format` out"));
        }
        let per_second = rate(settings, "rows_per_second")?;
        let (rows, rows_per_second) = match &model {
            // Both are told of events, of which some are the table's.
            Model::Nexmark(model) => (rows, per_second.map(|events| events * model.table.share())),
            _ => (settings.integer("rows").or(rows), per_second),
        };
        let splits = in_range(settings.integer("splits").unwrap_or(splits), "splits", 1024)?;
        Ok(GeneratorConfig { model, rows, splits, rows_per_second })
    }

    /// How many rows a split has, when there is an end.
    pub(super) fn rows_of(&self, split: u64) -> Option<u64> {
        self.rows.map(|rows| share_of(rows, split, self.splits))
    }
}

/// How many of the first `rows` rows belong to a split.
pub(super) fn share_of(rows: u64, split: u64, splits: u64) -> u64 {
    rows.saturating_sub(split).div_ceil(splits)
}

/// The Nexmark model of a table.
fn nexmark(settings: &Settings) -> Result<NexmarkModel> {
    let table = match settings.text("table").unwrap_or("bid") {
        "person" => Table::Person,
        "auction" => Table::Auction,
        _ => Table::Bid,
    };
    let per_second = rate(settings, "events_per_second")?.or(rate(settings, "rows_per_second")?).unwrap_or(1000.0);
    let disorder = settings.span("disorder").unwrap_or(Duration::ZERO);
    Ok(NexmarkModel::new(
        table,
        settings.integer("seed").unwrap_or(42),
        settings.time("start").unwrap_or(START),
        (1e9 / per_second).round().max(1.0) as u64,
        u64::try_from(disorder.as_micros()).unwrap_or(u64::MAX),
    ))
}

/// The shape of the orders model.
pub(super) fn shape(settings: &Settings) -> Result<Shape> {
    let share = |name| match settings.number(name).unwrap_or(0.0) {
        share if (0.0..=1.0).contains(&share) => Ok(share),
        share => Err(Error::new(Kind::Config, "C080", format!("option `{name}` cannot be {share}"))
            .fact("a share lies between 0 and 1: 0.01 is one in a hundred")),
    };
    let (duplicate, malformed) = (share("duplicate_share")?, share("malformed_share")?);
    if duplicate + malformed > 1.0 {
        return Err(Error::new(Kind::Config, "C080", "`duplicate_share` and `malformed_share` together exceed 1")
            .fact("a row is a duplicate or malformed, never both"));
    }
    let per_second = rate(settings, "events_per_second")?.or(rate(settings, "rows_per_second")?).unwrap_or(1000.0);
    let disorder = settings.span("disorder").unwrap_or(Duration::ZERO);
    let late_by = settings.span("late_by").unwrap_or(Duration::from_secs(600));
    let late = share("late_share")?;
    if late > 0.0 && late_by <= disorder {
        return Err(Error::new(Kind::Config, "C081", "`late_by` must be longer than `disorder`")
            .fact("an order is late when it is delayed by more than the ordinary disorder"));
    }
    Ok(Shape {
        seed: settings.integer("seed").unwrap_or(42),
        customers: in_range(settings.integer("customers").unwrap_or(10_000), "customers", 1 << 31)?,
        products: in_range(settings.integer("products").unwrap_or(1_000), "products", 1 << 31)?,
        null: share("null_share")?,
        duplicate,
        invalid: share("invalid_share")?,
        malformed,
        late,
        disorder,
        late_by,
        start: settings.time("start").unwrap_or(START),
        interval_ns: (1e9 / per_second).round().max(1.0) as u64,
    })
}

fn rate(settings: &Settings, name: &str) -> Result<Option<f64>> {
    match settings.number(name) {
        None => Ok(None),
        Some(rate) if (1e-6..=1e9).contains(&rate) => Ok(Some(rate)),
        Some(rate) => Err(Error::new(Kind::Config, "C080", format!("option `{name}` cannot be {rate}"))
            .fact("give a number above 0 and up to 1000000000")),
    }
}

fn in_range(value: u64, name: &str, most: u64) -> Result<u64> {
    match value {
        0 => Err(Error::new(Kind::Config, "C080", format!("option `{name}` cannot be 0")).fact("give 1 or more")),
        value if value <= most => Ok(value),
        value => Err(Error::new(Kind::Config, "C080", format!("option `{name}` cannot be {value}"))
            .fact(format!("give at most {most}"))),
    }
}
