//! The first rows of each key by an order, over rows of all time: DISTINCT ON, and ROW_NUMBER up to a number. They change
//! as rows come.
//!
//! [`FirstHalfFactory`] computes what rows are ordered by and drops those of a batch that cannot be among the first.
//! [`TopFactory`] keeps the first rows of each key, which is enough while rows only come; [`TopOfChangesFactory`] keeps all
//! of them in order, for rows that are taken back.
//!
//! **Invariant:** the order is whole, so which rows are the first is a function of the rows; rows that are equal in it are
//! equal in every column that is given out.

mod additions;
mod changes;
mod coder;
mod first;

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_model::Place;

pub(super) use additions::TopFactory;
pub(super) use changes::TopOfChangesFactory;
pub(super) use first::FirstHalfFactory;

/// What is chosen by what.
#[derive(Debug)]
pub(super) struct TopSpec {
    /// Over the input: keys, what rows of a key are ordered by, the first first, and what else is given out.
    pub(super) exprs: Vec<Arc<dyn PhysicalExpr>>,
    /// The columns that these give.
    pub(super) schema: SchemaRef,
    /// How many of them are keys.
    pub(super) keys: usize,
    /// How the ones behind the keys are ordered; there are as many as are ordered by.
    pub(super) order: Vec<SortOptions>,
    /// How many rows of each key.
    pub(super) most: usize,
    /// Whether a row with another number in its key is another row.
    pub(super) numbered: bool,
    /// For each column of the result which of the columns it is; `None` is the row's number in its key.
    pub(super) outputs: Vec<Option<usize>>,
    /// The columns of the result.
    pub(super) result: SchemaRef,
    /// What is chosen by what, in words.
    pub(super) words: String,
    pub(super) place: Place,
}

impl TopSpec {
    /// How the columns behind the keys are ordered, all of them.
    fn orders(&self) -> Vec<SortOptions> {
        let mut orders = self.order.clone();
        orders.resize(self.schema.fields().len() - self.keys, SortOptions::default());
        orders
    }

    fn fingerprint(&self) -> String {
        let exprs: Vec<String> = self.exprs.iter().map(ToString::to_string).collect();
        let types: Vec<String> = self.schema.fields().iter().map(|field| field.data_type().to_string()).collect();
        let TopSpec { keys, order, most, numbered, outputs, .. } = self;
        format!("{exprs:?} {types:?} {keys} {order:?} {most} {numbered} {outputs:?}")
    }
}
