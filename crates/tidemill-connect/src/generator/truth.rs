//! [`Truth`]: what a pipeline over generated orders must answer, from the rows of the model.
//!
//! **Invariant:** it never sees an encoded record; sums are whole numbers, so that no order of adding changes them.

use super::orders::{CURRENCIES, Fate, OrderRecord, OrdersModel, REGIONS};

/// What kind of well-formed order with a positive amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// It has no order_id.
    pub null_id: bool,
    /// It is a copy of an earlier one.
    pub duplicate: bool,
}

/// A count and sums of amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many orders.
    pub rows: u64,
    /// The sum of amounts in 1/10000 units.
    pub amount: i128,
    /// The sum, in cents, of amounts each rounded to cents, halves away from zero: `round(amount, 2)`.
    pub rounded: i128,
    /// The sum, in cents, of amounts each cut to cents: `trunc(amount, 2)`.
    pub truncated: i128,
}

impl Tally {
    fn add(&mut self, amount: i64) {
        self.rows += 1;
        self.amount += i128::from(amount);
        self.rounded += i128::from((amount + 50 * amount.signum()) / 100);
        self.truncated += i128::from(amount / 100);
    }

    fn merge(mut self, other: &Tally) -> Tally {
        self.rows += other.rows;
        self.amount += other.amount;
        self.rounded += other.rounded;
        self.truncated += other.truncated;
        self
    }
}

/// Counts and sums over rows of the orders model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Truth {
    /// All records.
    pub records: u64,
    /// Records that are not JSON. All further counts are about the others.
    pub malformed: u64,
    /// Orders without an order_id.
    pub null_ids: u64,
    /// Orders of zero or less.
    pub non_positive: u64,
    /// Copies of earlier orders.
    pub duplicates: u64,
    /// Orders of more than zero and with an order_id, copies included.
    pub valid: u64,
    /// By region, currency and class, of orders of more than zero.
    cells: [[[Tally; 4]; CURRENCIES.len()]; REGIONS.len()],
}

impl Truth {
    /// The truth about the first `rows` rows of a model.
    #[must_use]
    pub fn of(model: &OrdersModel, rows: u64) -> Truth {
        let mut truth = Truth::default();
        for row in 0..rows {
            truth.add(&model.record(row));
        }
        truth
    }

    /// The truth about the first rows of each split: `read[s]` of split `s`, as offsets of an endless dataset say.
    #[must_use]
    pub fn of_splits(model: &OrdersModel, read: &[u64]) -> Truth {
        let mut truth = Truth::default();
        let splits = read.len() as u64;
        for (split, rows) in (0_u64..).zip(read) {
            for row in 0..*rows {
                truth.add(&model.record(split + row * splits));
            }
        }
        truth
    }

    /// Counts one more row.
    pub fn add(&mut self, record: &OrderRecord) {
        self.records += 1;
        if matches!(record.fate, Fate::Malformed(_)) {
            self.malformed += 1;
            return;
        }
        let order = &record.order;
        let class = Class { null_id: order.order_id.is_none(), duplicate: matches!(record.fate, Fate::Duplicate(_)) };
        self.null_ids += u64::from(class.null_id);
        self.duplicates += u64::from(class.duplicate);
        if order.amount <= 0 {
            self.non_positive += 1;
            return;
        }
        self.valid += u64::from(!class.null_id);
        self.cells[order.region as usize][order.currency as usize][index(class)].add(order.amount);
    }

    /// Orders of more than zero of the classes that `of` accepts, together.
    pub fn total(&self, of: impl Fn(Class) -> bool) -> Tally {
        self.groups(of).into_iter().fold(Tally::default(), |sum, (_, _, tally)| sum.merge(&tally))
    }

    /// The same by region and currency, in the order of [`REGIONS`] and [`CURRENCIES`]; groups without orders are left out.
    pub fn groups(&self, of: impl Fn(Class) -> bool) -> Vec<(&'static str, &'static str, Tally)> {
        let mut groups = Vec::new();
        for (region, by_currency) in REGIONS.into_iter().zip(&self.cells) {
            for (currency, by_class) in CURRENCIES.into_iter().zip(by_currency) {
                let tally = CLASSES
                    .into_iter()
                    .filter(|class| of(*class))
                    .fold(Tally::default(), |sum, class| sum.merge(&by_class[index(class)]));
                if tally.rows > 0 {
                    groups.push((region, currency, tally));
                }
            }
        }
        groups
    }
}

const CLASSES: [Class; 4] = [
    Class { null_id: false, duplicate: false },
    Class { null_id: true, duplicate: false },
    Class { null_id: false, duplicate: true },
    Class { null_id: true, duplicate: true },
];

fn index(class: Class) -> usize {
    usize::from(class.null_id) + 2 * usize::from(class.duplicate)
}
