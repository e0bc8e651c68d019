//! [`refuse_calls`]: functions whose answer depends on when or how often they are called, refused in pipelines.
//!
//! **Invariant:** what is accepted gives the same answer in every mode.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use tidemill_model::{Error, Kind, Place, Result};

use crate::session::{Functions, lift};

/// Functions that tell the time of the run.
const CLOCK: &[&str] = &["now", "current_date", "current_time", "today", "localtimestamp"];
/// Refuses calls anywhere in a plan, subqueries included.
pub(super) fn refuse_calls(plan: &LogicalPlan, place: &Place, added: &Functions) -> Result<()> {
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| match call(part).or_else(|| beyond(part, added)) {
                Some(error) => Err(DataFusionError::External(Box::new(error(place)))),
                None => Ok(TreeNodeRecursion::Continue),
            })
        })
    });
    visited.map(|_| ()).map_err(|error| lift(&error, place))
}

/// Makes the error of a refused call at its place.
type Refusal = Box<dyn Fn(&Place) -> Error>;

fn call(expr: &Expr) -> Option<Refusal> {
    match expr {
        Expr::ScalarFunction(call) if CLOCK.contains(&call.name()) => {
            let name = call.name().to_owned();
            Some(Box::new(move |place| {
                refuse(place, &name, "P131", format!("{name}() is not available in a stream"))
                    .label("its answer depends on when a row is read")
                    .fact(
                        "for recent rows use retention on the view, or a window; for the time of a row its event time",
                    )
            }))
        }
        Expr::ScalarFunction(call) if call.func.signature().volatility == Volatility::Volatile => {
            let name = call.name().to_owned();
            Some(Box::new(move |place| {
                refuse(place, &name, "P132", format!("{name}() gives another answer each time it is called"))
                    .label("refused in pipelines")
                    .fact("the modes could not agree, and a repeated epoch would differ; compute it from the row's columns, as with md5(…)")
            }))
        }
        Expr::ScalarFunction(call) if call.name() == "version" => Some(Box::new(|place| {
            refuse(place, "version", "P132", "version() depends on the program, not on the rows".to_owned())
        })),
        Expr::AggregateFunction(call) if call.func.name() == "approx_percentile_cont_with_weight" => {
            let name = call.func.name().to_owned();
            Some(Box::new(move |place| {
                refuse(place, &name, "P133", format!("{name} depends on the order of rows"))
                    .label("not available in a stream")
                    .fact("approx_percentile_cont does not; or compute it in an interval run")
            }))
        }
        _ => None,
    }
}

/// Uses of an added aggregate that it knows nothing of, and could only answer wrongly.
fn beyond(expr: &Expr, added: &Functions) -> Option<Refusal> {
    match expr {
        Expr::AggregateFunction(call) if call.params.distinct && added.has_aggregate(call.func.name()) => {
            let name = call.func.name().to_owned();
            Some(Box::new(move |place| {
                refuse(place, &name, "P241", format!("{name} cannot be called with DISTINCT"))
                    .label("an added aggregate sees every row")
                    .fact("make the rows distinct in a query below it: SELECT DISTINCT …")
            }))
        }
        Expr::WindowFunction(call) if added.has_aggregate(call.fun.name()) => {
            let name = call.fun.name().to_owned();
            Some(Box::new(move |place| {
                refuse(place, &name, "P242", format!("{name} cannot be called with OVER in a stream"))
                    .label("an added aggregate cannot take rows back, as a moving frame has to")
                    .fact("use it in a GROUP BY, with or without a window of TUMBLE, HOP or SESSION")
            }))
        }
        _ => None,
    }
}

fn refuse(place: &Place, word: &str, code: &'static str, message: String) -> Error {
    Error::new(Kind::Plan, code, message).at(&at_word(place, word).unwrap_or_else(|| place.clone()))
}

/// The first whole word like this from the place on, within its statement.
pub(super) fn at_word(place: &Place, word: &str) -> Option<Place> {
    let rest = place.text.get(place.span.start..)?;
    let statement = rest.split(';').next()?.to_ascii_lowercase();
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let (at, found) = statement.match_indices(&word.to_ascii_lowercase()).find(|(at, found)| {
        let before = statement.get(..*at).and_then(|text| text.chars().next_back());
        let after = statement.get(at + found.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })?;
    let start = place.span.start + at;
    Some(Place { span: start..start + found.len(), ..place.clone() })
}
