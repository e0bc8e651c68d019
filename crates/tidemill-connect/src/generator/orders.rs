//! [`OrdersModel`]: what the order number `i` is, from the seed and `i` alone.
//!
//! Rows come in the order of arrival, one each `interval` of event time. A row's event time lies before its arrival by a
//! delay below `disorder`; very late rows by up to `late_by`. So a watermark delay of `disorder` loses the very late rows only.
//!
//! **Invariant:** a duplicate is a whole copy of an earlier well-formed row and still within `disorder`.

use tidemill_model::{Result, Settings, Timestamp};

use super::config;
use super::random::{Draws, below, high, low, mix, threshold};

/// The regions, by number.
pub const REGIONS: [&str; 8] =
    ["us-east", "us-west", "eu-west", "eu-central", "ap-south", "ap-northeast", "sa-east", "af-south"];

/// The currencies, by number, as they should be written.
pub const CURRENCIES: [&str; 6] = ["USD", "EUR", "GBP", "JPY", "INR", "BRL"];

/// The currencies as they are written: three spellings of each.
pub(super) const SPELLINGS: [[&str; 3]; 6] = [
    ["USD", "usd", "Usd"],
    ["EUR", "eur", "Eur"],
    ["GBP", "gbp", "Gbp"],
    ["JPY", "jpy", "Jpy"],
    ["INR", "inr", "Inr"],
    ["BRL", "brl", "Brl"],
];

/// The shares of the currencies, summed, of 65536: 40, 25, 12, 8, 8 and 7 of a hundred.
const CURRENCY_STEPS: [u64; 5] = [26_214, 42_598, 50_463, 55_705, 60_948];

/// How often an original for a duplicate is looked for before the row stands for itself.
const ATTEMPTS: usize = 16;

/// One order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The id; `None` where a fault left it out.
    pub order_id: Option<i64>,
    /// The customer, from 1; few beyond the last one, who have no row among the customers.
    pub customer_id: i64,
    /// The product, from 1; few beyond the last one.
    pub product_id: i64,
    /// The amount in 1/10000 units; zero or less where it is invalid.
    pub amount: i64,
    /// The currency, a number in [`CURRENCIES`].
    pub currency: u8,
    /// Which of its three spellings is used.
    pub spelling: u8,
    /// The region, a number in [`REGIONS`].
    pub region: u8,
    /// The event time, at a whole millisecond.
    pub created_at: Timestamp,
}

/// What becomes of an order on its way into a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is the first of its kind.
    Original,
    /// It is a copy of this earlier row.
    Duplicate(u64),
    /// Its record is not JSON; the number says what is wrong with it.
    Malformed(u8),
}

/// A row of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderRecord {
    /// The order.
    pub order: Order,
    /// What becomes of it.
    pub fate: Fate,
}

/// The settings of the model; the same settings give the same rows.
#[derive(Debug, Clone)]
pub struct OrdersModel {
    seed: u64,
    customers: u64,
    products: u64,
    null: u64,
    duplicate: u64,
    invalid: u64,
    malformed: u64,
    late: u64,
    /// Microseconds, at whole milliseconds.
    disorder: u64,
    late_by: u64,
    start: i64,
    /// Nanoseconds of event time between two rows.
    interval: u64,
    /// How far back a duplicate looks for its original.
    reach: u64,
    /// 2^(k/256), for amounts.
    powers: Box<[u64; 257]>,
}

/// The shares and times of a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub(super) seed: u64,
    pub(super) customers: u64,
    pub(super) products: u64,
    pub(super) null: f64,
    pub(super) duplicate: f64,
    pub(super) invalid: f64,
    pub(super) malformed: f64,
    pub(super) late: f64,
    pub(super) disorder: std::time::Duration,
    pub(super) late_by: std::time::Duration,
    pub(super) start: Timestamp,
    pub(super) interval_ns: u64,
}

/// A row before its fate.
struct Base {
    order: Order,
    delay: u64,
    late: bool,
}

impl OrdersModel {
    /// The model of a dataset with these options.
    ///
    /// # Errors
    /// Config, when they do not describe the orders model.
    pub fn of(settings: &Settings) -> Result<OrdersModel> {
        Ok(OrdersModel::new(&config::shape(settings)?))
    }

    pub(super) fn new(shape: &Shape) -> OrdersModel {
        let micros = |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX) / 1000 * 1000;
        let disorder = micros(shape.disorder);
        OrdersModel {
            seed: mix(shape.seed),
            customers: shape.customers,
            products: shape.products,
            null: threshold(shape.null),
            duplicate: threshold(shape.malformed + shape.duplicate),
            invalid: threshold(shape.invalid),
            malformed: threshold(shape.malformed),
            late: threshold(shape.late),
            disorder,
            late_by: micros(shape.late_by).max(disorder),
            start: shape.start.0,
            interval: shape.interval_ns,
            reach: (disorder.saturating_mul(1000) / shape.interval_ns.max(1)).clamp(1, 4096),
            powers: powers(),
        }
    }

    /// Row `i`.
    #[must_use]
    pub fn record(&self, i: u64) -> OrderRecord {
        let mut draws = Draws::of(self.seed, i);
        let fate = draws.next();
        if high(fate) >= self.duplicate {
            return OrderRecord { order: self.base(i, draws).order, fate: Fate::Original };
        }
        if high(fate) < self.malformed {
            return OrderRecord { order: self.base(i, draws).order, fate: Fate::Malformed((low(fate) % 4) as u8) };
        }
        match self.original(i, mix(fate)) {
            Some((of, order)) => OrderRecord { order, fate: Fate::Duplicate(of) },
            None => OrderRecord { order: self.base(i, draws).order, fate: Fate::Original },
        }
    }

    /// The greatest event time that rows before `i` can have: where event time stands.
    #[must_use]
    pub fn event_time_at(&self, i: u64) -> Timestamp {
        let elapsed = match i.checked_mul(self.interval) {
            Some(nanos) => nanos / 1000,
            None => (u128::from(i) * u128::from(self.interval) / 1000) as u64,
        };
        Timestamp(self.start.saturating_add_unsigned(self.disorder).saturating_add_unsigned(elapsed))
    }

    /// The first instant of the model; no row is earlier.
    #[must_use]
    pub fn start(&self) -> Timestamp {
        Timestamp(self.start)
    }

    /// A row that may be repeated as row `i` without becoming late, if one is found.
    fn original(&self, i: u64, seed: u64) -> Option<(u64, Order)> {
        let mut draws = Draws::of(seed, i);
        for _ in 0..ATTEMPTS {
            let back = 1 + below(self.reach, low(draws.next()));
            let Some(candidate) = i.checked_sub(back) else { continue };
            let mut of = Draws::of(self.seed, candidate);
            if high(of.next()) < self.duplicate {
                continue;
            }
            let base = self.base(candidate, of);
            // Rows in between have moved event time on.
            let since = (back - 1).saturating_mul(self.interval).div_ceil(1000);
            if !base.late && base.delay.saturating_add(since) <= self.disorder {
                return Some((candidate, base.order));
            }
        }
        None
    }

    fn base(&self, i: u64, mut draws: Draws) -> Base {
        let (ids, flags, delays, names) = (draws.next(), draws.next(), draws.next(), draws.next());
        let amount = self.amount(draws.next());
        let skewed = (high(ids) * high(ids)) >> 32;
        let invalid = high(flags) < self.invalid;
        let late = high(delays) < self.late;
        let delay = if late {
            self.disorder + below(self.late_by - self.disorder, low(delays))
        } else {
            below(self.disorder, low(delays))
        };
        let at = self.event_time_at(i).0.saturating_sub_unsigned(delay).max(self.start);
        let currency = CURRENCY_STEPS.iter().filter(|step| (names & 0xffff) >= **step).count() as u8;
        let order = Order {
            order_id: (low(flags) >= self.null).then_some(i.wrapping_add(1).cast_signed()),
            customer_id: 1 + below(beyond(self.customers), skewed).cast_signed(),
            product_id: 1 + below(beyond(self.products), low(ids)).cast_signed(),
            amount: match invalid {
                false => amount,
                true if (names >> 32) % 10 < 3 => 0,
                true => -amount,
            },
            currency,
            spelling: ((names >> 16) % 3) as u8,
            region: ((names >> 24) % 8) as u8,
            created_at: Timestamp(at - at.rem_euclid(1000)),
        };
        Base { order, delay, late }
    }

    /// About lognormal (3.5, 1): e to the power of 3.5 and a sum of four uniform numbers, which is nearly normal.
    fn amount(&self, bits: u64) -> i64 {
        let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        // In units of 2^-16: log2(e) * (3.5 + sqrt(3) * (sum / 2^16 - 2)) = 0.05176 + 2.49882 * sum / 2^16.
        let log2 = 3392 + ((sum * 163_763) >> 16);
        let (whole, step, rest) = (log2 >> 16, ((log2 >> 8) & 0xff) as usize, log2 & 0xff);
        let from = self.powers[step];
        let fraction = from + (((self.powers[step + 1] - from) * rest) >> 8);
        ((fraction << whole) >> 12).cast_signed()
    }
}

/// One of a hundred more than there are.
fn beyond(count: u64) -> u64 {
    count + count.div_ceil(100)
}

/// 10000 * 2^(k/256) in units of 2^-12. Square roots and products of doubles are the same on every machine.
pub(super) fn powers() -> Box<[u64; 257]> {
    let mut step = 2.0_f64;
    for _ in 0..8 {
        step = step.sqrt();
    }
    let mut power = 10_000.0 * 4096.0;
    Box::new(std::array::from_fn(|_| {
        let this = power;
        power *= step;
        this.round() as u64
    }))
}
