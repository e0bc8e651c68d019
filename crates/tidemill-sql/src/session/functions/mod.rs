//! [`Functions`]: the functions that a program adds to SQL, and what they have to keep to.
//!
//! **Invariant:** a function is the same object in both executors, and no name means two functions.

mod laws;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlan, ScalarUDF, Signature, Volatility};
use tidemill_model::{Error, Kind, Result};

use super::session_state;

pub use laws::check_aggregate;

/// The functions that a program adds, each with its version.
///
/// The contract, which makes the modes agree:
/// - **Immutable.** The same arguments give the same answer, on every machine, today and tomorrow: no clock, no
///   randomness, no environment. A function that says otherwise is refused.
/// - **Merging is associative and commutative, and a state of no rows is neutral.** Rows reach an aggregate in any order
///   and any number of parts, on several lanes, before and after a restart; [`check_aggregate`] tries that.
/// - **State is Arrow values**, and all there is: it goes through checkpoints and between lanes. It need not be undone:
///   where rows are taken back, groups are computed anew from their rows.
/// - **A version** for each function, to be raised when it answers otherwise or its state means something else. State on
///   record knows the versions of all functions that it came through, as it knows its query.
///
/// A scalar function may answer an error for a row, which becomes a dead letter as that of any expression does; an
/// aggregate's error fails the epoch.

#[derive(Debug, Clone, Default)]
pub struct Functions {
    scalars: BTreeMap<String, (Arc<ScalarUDF>, u32)>,
    aggregates: BTreeMap<String, (Arc<AggregateUDF>, u32)>,
}

impl Functions {
    /// None.
    #[must_use]
    pub fn new() -> Functions {
        Functions::default()
    }

    /// Adds a function of single rows.
    ///
    /// # Errors
    /// Config: its name is taken or cannot be called, or it is not immutable.
    pub fn scalar(mut self, function: ScalarUDF, version: u32) -> Result<Functions> {
        self.may_be_called(function.name(), function.aliases(), function.signature())?;
        self.scalars.insert(function.name().to_owned(), (Arc::new(function), version));
        Ok(self)
    }

    /// Adds an aggregate.
    ///
    /// # Errors
    /// As [`Functions::scalar`].
    pub fn aggregate(mut self, function: AggregateUDF, version: u32) -> Result<Functions> {
        self.may_be_called(function.name(), function.aliases(), function.signature())?;
        self.aggregates.insert(function.name().to_owned(), (Arc::new(function), version));
        Ok(self)
    }

    fn may_be_called(&self, name: &str, aliases: &[String], signature: &Signature) -> Result<()> {
        let refused = |code, message| Err(Error::new(Kind::Config, code, message));
        if signature.volatility != Volatility::Immutable {
            return refused("C185", format!("the function `{name}` is {:?}, not immutable", signature.volatility))
                .map_err(|error| {
                    error
                        .fact("a repeated epoch and the other modes would get other answers than the first")
                        .fact("declare it Volatility::Immutable if the same arguments always give the same answer")
                });
        }
        let is_word = |name: &str| {
            let mut letters = name.chars();
            letters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
                && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        if !is_word(name) || !aliases.is_empty() {
            return refused("C186", format!("SQL cannot call a function by the name `{name}`")).map_err(|error| {
                error.fact("give it one name, of lower-case letters, digits and _, as SQL reads names without quotes")
            });
        }
        let builtin = session_state();
        let taken = self.scalars.contains_key(name)
            || self.aggregates.contains_key(name)
            || builtin.scalar_functions().contains_key(name)
            || builtin.aggregate_functions().contains_key(name)
            || builtin.window_functions().contains_key(name);
        if taken {
            return refused("C187", format!("there is a function `{name}` already"))
                .map_err(|error| error.fact("a name means one function in every pipeline; choose another"));
        }
        Ok(())
    }

    pub(super) fn scalars(&self) -> impl Iterator<Item = Arc<ScalarUDF>> {
        self.scalars.values().map(|(function, _)| Arc::clone(function))
    }

    pub(super) fn aggregates(&self) -> impl Iterator<Item = Arc<AggregateUDF>> {
        self.aggregates.values().map(|(function, _)| Arc::clone(function))
    }

    /// Whether an aggregate of this name was added.
    #[must_use]
    pub fn has_aggregate(&self, name: &str) -> bool {
        self.aggregates.contains_key(name)
    }

    /// The added functions that a plan calls, with their versions; empty when it calls none.
    ///
    /// # Errors
    /// Internal.
    pub fn called_in(&self, plan: &LogicalPlan) -> datafusion::common::Result<String> {
        let mut called = BTreeSet::new();
        if self.scalars.is_empty() && self.aggregates.is_empty() {
            return Ok(String::new());
        }
        plan.apply_with_subqueries(|node| {
            node.apply_expressions(|expr| {
                self.note(expr, &mut called)?;
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(in_words(&called))
    }

    /// The added functions that expressions call, as [`Functions::called_in`].
    ///
    /// # Errors
    /// Internal.
    pub fn called_by<'e>(&self, exprs: impl IntoIterator<Item = &'e Expr>) -> datafusion::common::Result<String> {
        let mut called = BTreeSet::new();
        for expr in exprs {
            self.note(expr, &mut called)?;
        }
        Ok(in_words(&called))
    }

    fn note(&self, expr: &Expr, called: &mut BTreeSet<String>) -> datafusion::common::Result<()> {
        expr.apply(|part| {
            let (name, version) = match part {
                Expr::ScalarFunction(call) => (call.name(), self.scalars.get(call.name()).map(|(_, version)| version)),
                Expr::AggregateFunction(call) => {
                    (call.func.name(), self.aggregates.get(call.func.name()).map(|(_, version)| version))
                }
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            called.extend(version.map(|version| format!("{name} version {version}")));
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(())
    }
}

fn in_words(called: &BTreeSet<String>) -> String {
    called.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::logical_expr::{ColumnarValue, create_udf, lit};

    use super::*;

    fn same(name: &str, volatility: Volatility) -> ScalarUDF {
        let answer = |args: &[ColumnarValue]| Ok(args[0].clone());
        create_udf(name, vec![DataType::Int64], DataType::Int64, volatility, Arc::new(answer))
    }

    #[test]
    fn what_may_be_added() {
        for (name, volatility, code) in [
            ("same", Volatility::Immutable, None),
            ("same", Volatility::Volatile, Some("C185")),
            ("same", Volatility::Stable, Some("C185")),
            ("Same", Volatility::Immutable, Some("C186")),
            ("9same", Volatility::Immutable, Some("C186")),
            ("abs", Volatility::Immutable, Some("C187")),
            ("sum", Volatility::Immutable, Some("C187")),
            ("rank", Volatility::Immutable, Some("C187")),
            ("other", Volatility::Immutable, Some("C187")),
        ] {
            let functions = Functions::new().scalar(same("other", Volatility::Immutable), 1).expect("adds");
            let added = functions.scalar(same(name, volatility), 1);
            assert_eq!(added.err().map(|error| error.code()), code, "{name} {volatility:?}");
        }
    }

    #[test]
    fn a_call_tells_its_version() {
        let functions = Functions::new().scalar(same("same", Volatility::Immutable), 7).expect("adds");
        let call = same("same", Volatility::Immutable).call(vec![lit(1_i64)]) + lit(1_i64);
        assert_eq!(functions.called_by([&call]).expect("walks"), "same version 7");
        assert_eq!(functions.called_by([&lit(1_i64)]).expect("walks"), "");
    }
}
