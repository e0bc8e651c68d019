//! [`Stream`]: rows on their way through a plan, with the filters and projections that are not yet a node.
//!
//! **Invariant:** only columns that somebody needs are computed.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result};
use datafusion::logical_expr::{Expr, ExprSchemable, cast};
use tidemill_runtime::NodeId;

use crate::session::compile;
use crate::stream::transform::Step;

/// Rows that come out of a node, and what shall still be done to them.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// The node.
    pub(super) node: NodeId,
    /// Its columns.
    pub(super) input: DFSchemaRef,
    steps: Vec<Pending>,
    /// Whether rows may be taken back.
    pub(super) changes: bool,
}

#[derive(Debug, Clone)]
enum Pending {
    Filter(Expr),
    Project(Vec<Expr>, DFSchemaRef),
}

impl Stream {
    /// The rows of a node as they are.
    pub(super) fn of(node: NodeId, input: DFSchemaRef, changes: bool) -> Stream {
        Stream { node, input, steps: Vec::new(), changes }
    }

    /// Adds a condition.
    pub(super) fn filter(&mut self, condition: Expr) {
        self.steps.push(Pending::Filter(condition));
    }

    /// Adds a projection to the columns of `schema`.
    pub(super) fn project(&mut self, exprs: Vec<Expr>, schema: DFSchemaRef) {
        self.steps.push(Pending::Project(exprs, schema));
    }

    /// The same columns under the names of another schema, as an alias of the relation does.
    pub(super) fn rename(&mut self, schema: DFSchemaRef) {
        let columns: Vec<Expr> = columns(self.schema());
        match self.steps.last_mut() {
            Some(Pending::Project(_, named)) => *named = schema,
            None => self.input = schema,
            Some(Pending::Filter(_)) => self.project(columns, schema),
        }
    }

    /// The columns after all steps.
    pub(super) fn schema(&self) -> &DFSchemaRef {
        let projected = self.steps.iter().rev().find_map(|step| match step {
            Pending::Project(_, schema) => Some(schema),
            Pending::Filter(_) => None,
        });
        projected.unwrap_or(&self.input)
    }

    /// Leaves out every column but these, as far as that saves computing something.
    pub(super) fn prune(&mut self, needed: &BTreeSet<Column>) -> Result<()> {
        let mut needed: BTreeSet<Column> = needed.clone();
        for at in (0..self.steps.len()).rev() {
            match &mut self.steps[at] {
                Pending::Filter(condition) => needed.extend(condition.column_refs().into_iter().cloned()),
                Pending::Project(exprs, schema) => {
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
    pub(super) fn compiled(&self) -> Result<(Vec<Step>, String)> {
        let mut schema = Arc::clone(&self.input);
        let mut compiled = Vec::new();
        let mut words = Vec::new();
        for step in &self.steps {
            match step {
                Pending::Filter(condition) => {
                    compiled.push(Step::Filter(compile(condition, &schema)?));
                    words.push(format!("where {}", condition.human_display()));
                }
                Pending::Project(exprs, next) => {
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

    /// Whether there is nothing left to do.
    pub(super) fn is_plain(&self) -> bool {
        self.steps.is_empty()
    }
}

/// All columns of a schema as expressions.
pub(super) fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.iter().map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field)))).collect()
}

/// The Arrow schema of a relation, without the table names.
pub(super) fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().to_vec()))
}
