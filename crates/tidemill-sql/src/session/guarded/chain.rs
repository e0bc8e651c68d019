//! [`Chain`]: filters and projections between two nodes that are more than row by row.
//!
//! **Invariant:** only columns that somebody needs are computed; conditions that cannot fail are applied before those that
//! can, which spares most rows the slow way.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, ExprSchemable, cast, lit};

use super::evaluate::Step;
use super::fallible::{can_fail, has_subquery};
use crate::session::compile;

/// What shall be done to rows, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    input: DFSchemaRef,
    links: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    Filter(Expr),
    Project(Vec<Expr>, DFSchemaRef),
}

impl Chain {
    /// Nothing yet, over these columns.
    #[must_use]
    pub fn over(input: DFSchemaRef) -> Chain {
        Chain { input, links: Vec::new() }
    }

    /// The columns before all.
    #[must_use]
    pub fn input(&self) -> &DFSchemaRef {
        &self.input
    }

    /// Adds a condition.
    pub fn filter(&mut self, condition: Expr) {
        self.links.push(Link::Filter(condition));
    }

    /// Adds a projection to the columns of `schema`.
    pub fn project(&mut self, exprs: Vec<Expr>, schema: DFSchemaRef) {
        self.links.push(Link::Project(exprs, schema));
    }

    /// The same columns under the names of another schema, as an alias of the relation does.
    pub fn rename(&mut self, schema: DFSchemaRef) {
        let columns: Vec<Expr> = columns(self.schema());
        match self.links.last_mut() {
            Some(Link::Project(_, named)) => *named = schema,
            None => self.input = schema,
            Some(Link::Filter(_)) => self.project(columns, schema),
        }
    }

    /// The columns after all.
    #[must_use]
    pub fn schema(&self) -> &DFSchemaRef {
        let projected = self.links.iter().rev().find_map(|link| match link {
            Link::Project(_, schema) => Some(schema),
            Link::Filter(_) => None,
        });
        projected.unwrap_or(&self.input)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether the columns are others than the input's.
    #[must_use]
    pub fn has_projection(&self) -> bool {
        self.links.iter().any(|link| matches!(link, Link::Project(..)))
    }

    /// Whether some row may fail in it.
    #[must_use]
    pub fn can_fail(&self) -> bool {
        let mut schema = &self.input;
        self.links.iter().any(|link| match link {
            Link::Filter(condition) => can_fail(condition, schema),
            Link::Project(exprs, next) => {
                let before = std::mem::replace(&mut schema, next);
                exprs.iter().any(|expr| can_fail(expr, before))
            }
        })
    }

    /// Whether every expression can be evaluated row by row.
    #[must_use]
    pub fn is_row_by_row(&self) -> bool {
        !self.links.iter().any(|link| match link {
            Link::Filter(condition) => has_subquery(condition),
            Link::Project(exprs, _) => exprs.iter().any(has_subquery),
        })
    }

    /// Takes out the conditions over the input that cannot fail: whatever else a row would do, they may be applied first.
    #[must_use]
    pub fn take_safe_conditions(&mut self) -> Option<Expr> {
        let mut safe = Vec::new();
        for link in &mut self.links {
            let Link::Filter(condition) = link else { break };
            let (able, unable): (Vec<Expr>, Vec<Expr>) =
                split_conjunction(condition).into_iter().cloned().partition(|part| can_fail(part, &self.input));
            safe.extend(unable);
            *condition = conjunction(able).unwrap_or_else(|| lit(true));
        }
        self.links.retain(|link| !matches!(link, Link::Filter(condition) if *condition == lit(true)));
        conjunction(safe)
    }

    /// Leaves out every column but these, as far as that saves computing something.
    ///
    /// # Errors
    /// Plan.
    pub fn prune(&mut self, needed: &BTreeSet<Column>) -> Result<()> {
        let mut needed: BTreeSet<Column> = needed.clone();
        for at in (0..self.links.len()).rev() {
            match &mut self.links[at] {
                Link::Filter(condition) => needed.extend(condition.column_refs().into_iter().cloned()),
                Link::Project(exprs, schema) => {
                    // A query that only counts rows may ask for no column at all.
                    if exprs.is_empty() {
                        let field = Arc::new(Field::new("counted", DataType::Boolean, false));
                        *schema = Arc::new(DFSchema::new_with_metadata(vec![(None, field)], HashMap::new())?);
                        exprs.push(lit(true));
                    }
                    let kept: Vec<usize> = (0..exprs.len())
                        .filter(|i| {
                            let (qualifier, field) = schema.qualified_field(*i);
                            needed.contains(&Column::from((qualifier, field)))
                        })
                        .collect();
                    // Rows are counted by their columns further down, so one stays.
                    let kept = if kept.is_empty() { vec![0] } else { kept };
                    let fields = kept.iter().map(|i| {
                        let (qualifier, field) = schema.qualified_field(*i);
                        (qualifier.cloned(), Arc::clone(field))
                    });
                    *schema = Arc::new(DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?);
                    *exprs = kept.iter().map(|i| exprs[*i].clone()).collect();
                    needed = exprs.iter().flat_map(Expr::column_refs).cloned().collect();
                }
            }
        }
        Ok(())
    }

    /// The steps, ready to run, and words for them.
    ///
    /// # Errors
    /// Plan, for what cannot be evaluated row by row.
    pub fn compiled(&self) -> Result<(Vec<Step>, String)> {
        let mut schema = Arc::clone(&self.input);
        let mut compiled = Vec::new();
        let mut words = Vec::new();
        for link in &self.links {
            match link {
                Link::Filter(condition) => {
                    let parts = split_conjunction(condition).into_iter().cloned();
                    let (able, unable): (Vec<Expr>, Vec<Expr>) = parts.partition(|part| can_fail(part, &schema));
                    let safe = conjunction(unable).into_iter();
                    for condition in safe.chain(able) {
                        compiled.push(Step::Filter(compile(&condition, &schema)?));
                    }
                    words.push(format!("where {}", condition.human_display()));
                }
                Link::Project(exprs, next) => {
                    let mut physical = Vec::with_capacity(exprs.len());
                    for (expr, field) in exprs.iter().zip(next.fields()) {
                        let fits = expr.get_type(schema.as_ref())? == *field.data_type();
                        let cast_expr = (!fits).then(|| cast(expr.clone(), field.data_type().clone()));
                        physical.push(compile(cast_expr.as_ref().unwrap_or(expr), &schema)?);
                    }
                    compiled.push(Step::Project { exprs: physical, schema: arrow_schema(next) });
                    let names: Vec<&str> = next.fields().iter().map(|field| field.name().as_str()).collect();
                    words.push(format!("select {}", names.join(", ")));
                    schema = Arc::clone(next);
                }
            }
        }
        Ok((compiled, words.join(" | ")))
    }

    /// What the chain does, without what depends on which columns other statements read: a choice of columns under their
    /// own names says nothing.
    #[must_use]
    pub fn definition(&self) -> String {
        let mut words = Vec::new();
        for link in &self.links {
            match link {
                Link::Filter(condition) => words.push(format!("where {condition}")),
                Link::Project(exprs, named) => {
                    let names = named.fields().iter().map(|field| field.name());
                    let renamed = exprs.iter().zip(names.clone()).any(|(expr, name)| match expr {
                        Expr::Column(column) => column.name != *name,
                        _ => true,
                    });
                    if renamed {
                        let columns = exprs.iter().zip(named.fields());
                        let columns: Vec<String> = columns
                            .map(|(expr, field)| format!("{expr} as {} {}", field.name(), field.data_type()))
                            .collect();
                        words.push(format!("select {}", columns.join(", ")));
                    }
                }
            }
        }
        words.join(" | ")
    }

    /// Which columns of the input are the row, for people to read: those that a first projection chooses, else all.
    #[must_use]
    pub fn shown(&self) -> Vec<usize> {
        let chosen = match self.links.first() {
            Some(Link::Project(exprs, _)) => exprs
                .iter()
                .map(|expr| match expr {
                    Expr::Column(column) => self.input.maybe_index_of_column(column),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        chosen.unwrap_or_else(|| (0..self.input.fields().len()).collect())
    }
}

/// All columns of a schema as expressions.
#[must_use]
pub fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field)))).collect()
}

/// The Arrow schema of a relation, without the table names.
#[must_use]
pub fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().to_vec()))
}
