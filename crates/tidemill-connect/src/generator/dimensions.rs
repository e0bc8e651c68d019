//! [`Customer`] and [`Product`]: the rows of the dimension tables that orders point to.
//!
//! **Invariant:** ids run from 1 without gaps; the row of an id depends on the seed and the id only.

use super::orders::REGIONS;
use super::random::{Draws, high, low};

/// The tiers of customers.
const TIERS: [&str; 4] = ["bronze", "silver", "gold", "platinum"];

/// Their shares, summed, of a hundred.
const TIER_STEPS: [u64; 3] = [60, 85, 95];

/// How many product categories there are.
const CATEGORIES: u64 = 20;

/// One customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Customer {
    pub(super) customer_id: u64,
    pub(super) region: &'static str,
    pub(super) tier: &'static str,
}

/// One product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Product {
    pub(super) product_id: u64,
    pub(super) category: u64,
}

impl Customer {
    /// The customer of row `i`.
    pub(super) fn of(seed: u64, i: u64) -> Customer {
        let number = Draws::of(seed ^ 0x0063_7573_746f_6d65, i).next();
        let tier = TIER_STEPS.iter().filter(|step| high(number) % 100 >= **step).count();
        Customer {
            customer_id: i + 1,
            region: REGIONS[(low(number) % 8) as usize],
            tier: TIERS.get(tier).copied().unwrap_or("bronze"),
        }
    }
}

impl Product {
    /// The product of row `i`.
    pub(super) fn of(seed: u64, i: u64) -> Product {
        let number = Draws::of(seed ^ 0x0000_7072_6f64_7563, i).next();
        Product { product_id: i + 1, category: high(number) % CATEGORIES }
    }
}
