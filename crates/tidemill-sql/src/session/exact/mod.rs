//! Aggregates whose answer must not depend on the order or grouping of rows, in the place of DataFusion's:
//! [`Total`] for sum and avg of integers and decimals, [`Percentile`] for approximate percentiles, [`AnyValue`]; and
//! [`Count`], which answers what DataFusion's does, in less time.
//!
//! **Invariant:** the same multiset of rows gives the same bits, however it was cut into partial states; a sum that
//! does not fit its type is an error, never another number.

mod any;
mod distinct;
mod one;
mod percentile;
mod sketch;
#[cfg(test)]
mod tests;
mod total;
mod totals;

use std::sync::Arc;

use datafusion::logical_expr::AggregateUDF;

use any::AnyValue;
use distinct::Count;
use percentile::Percentile;
use total::{Measure, Total};

/// Puts ours in the place of DataFusion's functions of the same name.
pub(super) fn replace(aggregates: &mut [Arc<AggregateUDF>]) {
    for function in aggregates {
        let inner = Arc::clone(function);
        let ours = match function.name() {
            "sum" => AggregateUDF::new_from_impl(Total::new(Measure::Sum, inner)),
            "avg" => AggregateUDF::new_from_impl(Total::new(Measure::Mean, inner)),
            "count" => AggregateUDF::new_from_impl(Count::new(inner)),
            "any_value" => AggregateUDF::new_from_impl(AnyValue::new(inner)),
            "approx_percentile_cont" | "approx_median" => AggregateUDF::new_from_impl(Percentile::new(inner)),
            _ => continue,
        };
        *function = Arc::new(ours);
    }
}
