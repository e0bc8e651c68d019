//! [`window_join`]: whether a join is of rows of the same window.
//!
//! **Invariant:** two rows that such a join relates are in the same window of both sides, which closes once.

use datafusion::common::JoinType;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Operator};

use super::lineage::Meaning;
use super::over::Told;

/// The columns of both sides that tell the window which the join says is equal. Either bound says both.
#[must_use]
pub fn window_join(join: &Join, left: &[Meaning], right: &[Meaning]) -> Option<(Told, Told)> {
    let mut pairs: Vec<(&Expr, &Expr)> = join.on.iter().map(|(left, right)| (left, right)).collect();
    for expr in join.filter.iter().flat_map(|filter| split_conjunction(filter)) {
        if let Expr::BinaryExpr(binary) = expr
            && binary.op == Operator::Eq
        {
            pairs.push((&binary.left, &binary.right));
        }
    }
    let of = |expr: &Expr, plan: &LogicalPlan, meanings: &[Meaning]| {
        let Expr::Column(column) = expr else { return None };
        let at = plan.schema().maybe_index_of_column(column)?;
        Told::by(at, meanings.get(at)?)
    };
    let equal = |one: &Expr, other: &Expr| {
        let (l, r) = (of(one, &join.left, left)?, of(other, &join.right, right)?);
        (l.size == r.size && l.is_end == r.is_end).then_some((l, r))
    };
    pairs.into_iter().find_map(|(one, other)| equal(one, other).or_else(|| equal(other, one)))
}

/// What the columns of a window join mean. A side that may be padded with NULLs tells no time.
#[must_use]
pub(super) fn joined(kind: JoinType, (l, r): &(Told, Told), left: Vec<Meaning>, right: Vec<Meaning>) -> Vec<Meaning> {
    let plain = |meanings: Vec<Meaning>| vec![Meaning::Plain; meanings.len()];
    match kind {
        JoinType::Inner => [l.closed(left), r.closed(right)].concat(),
        JoinType::Left => [l.closed(left), plain(right)].concat(),
        JoinType::Right => [plain(left), r.closed(right)].concat(),
        JoinType::LeftSemi | JoinType::LeftAnti => l.closed(left),
        JoinType::RightSemi | JoinType::RightAnti => r.closed(right),
        _ => [plain(left), plain(right)].concat(),
    }
}
