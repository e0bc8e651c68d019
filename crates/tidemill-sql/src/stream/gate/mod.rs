//! [`GateRules`]: which rows of a dataset are accepted, for both executors.
//!
//! **Invariant:** the fate of a row depends on the row and the declaration alone, so every mode refuses the same rows
//! for the same reason; a row has one fate, that of the first rule it breaks: NOT NULL, CHECKs, event time, start.

mod row_gate;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, not};
use tidemill_model::{Error, Place, Result, Timestamp};
use tidemill_runtime::Gate;

use crate::catalog::Changes;
use crate::language::{Dataset, Project, Violation};
use crate::session::guarded::can_fail;
use crate::session::{Planner, SchemaOnly, Tables, checked, lift};
use row_gate::{Changing, RowGate, Rule, Test};

/// The rules of one dataset.
#[derive(Debug, Clone)]
pub struct GateRules {
    dataset: String,
    place: Place,
    schema: SchemaRef,
    not_null: Vec<String>,
    checks: Vec<CheckRule>,
    event_time: Option<String>,
    start: Option<Timestamp>,
    changes: Option<Changes>,
}

#[derive(Debug, Clone)]
struct CheckRule {
    name: String,
    text: String,
    condition: Expr,
    columns: Vec<String>,
    policy: Violation,
    place: Place,
}

/// A condition reads columns of its own row only.
struct NoTables;

impl Tables for NoTables {
    fn dataset(&self, dataset: &Dataset) -> Result<std::sync::Arc<dyn datafusion::logical_expr::TableSource>> {
        Ok(std::sync::Arc::new(SchemaOnly(std::sync::Arc::clone(&dataset.schema))))
    }
}

impl GateRules {
    /// The rules of a dataset whose columns are `schema`, in a pipeline that begins at `start`.
    ///
    /// # Errors
    /// Plan, when a CHECK cannot be planned over the columns.
    pub fn new(
        project: &Project,
        state: &SessionState,
        dataset: &Dataset,
        schema: &SchemaRef,
        start: Option<Timestamp>,
    ) -> Result<GateRules> {
        let nullable = nullable(schema);
        let planned = DFSchema::try_from(nullable.as_ref().clone()).map_err(|e| lift(&e, &dataset.place))?;
        let planner = Planner::new(project, state, &NoTables);
        let mut errors = Vec::new();
        let mut checks = Vec::new();
        for check in &dataset.checks {
            match planner.expression(&check.condition, &planned, &check.place) {
                Ok(condition) => checks.push(CheckRule {
                    name: check.name.clone(),
                    text: check.condition.to_string(),
                    columns: columns_of(&condition),
                    condition,
                    policy: check.policy,
                    place: check.place.clone(),
                }),
                Err(error) => errors.push(error),
            }
        }
        if let Some(error) = Error::all(errors) {
            return Err(error);
        }
        let event_time = dataset.watermark.as_ref().map(|clause| clause.column.clone());
        let not_null = schema.fields().iter().filter(|field| !field.is_nullable()).map(|field| field.name().clone());
        let not_null = not_null.filter(|name| Some(name) != event_time.as_ref()).collect();
        let (dataset, place) = (dataset.name.clone(), dataset.place.clone());
        Ok(GateRules { dataset, place, schema: nullable, not_null, checks, event_time, start, changes: None })
    }

    /// The same rules for rows that a changelog brings and takes back.
    #[must_use]
    pub fn of_changes(self, changes: Option<Changes>) -> GateRules {
        GateRules { changes, ..self }
    }

    /// The rules in words that are equal when the rules are.
    #[must_use]
    pub fn definition(&self) -> String {
        let checks: Vec<String> =
            self.checks.iter().map(|check| format!("{} {:?}", check.text, check.policy)).collect();
        let changes = self.changes.as_ref().map(|changes| format!("; changes {:?} {:?}", changes.key, changes.deleted));
        let changes = changes.unwrap_or_default();
        format!("not null {:?}; checks {checks:?}; time {:?}{changes}", self.not_null, self.event_time)
    }

    /// The conditions of the CHECKs.
    pub fn conditions(&self) -> impl Iterator<Item = &Expr> {
        self.checks.iter().map(|check| &check.condition)
    }

    /// Conditions of which at least one is true for each row that is not simply accepted: refused, dropped, warned of or told
    /// as dead. Rows before the pipeline's start are only counted and not among them. `None` when conditions cannot say that.
    #[must_use]
    pub fn refusals(&self) -> Option<Vec<Expr>> {
        let schema = DFSchema::try_from(self.schema.as_ref().clone()).ok()?;
        if self.changes.is_some() || self.checks.iter().any(|check| can_fail(&check.condition, &schema)) {
            return None;
        }
        let column = |name: &String| Expr::Column(Column::from_name(name));
        let missing = self.not_null.iter().chain(&self.event_time).map(|name| column(name).is_null());
        let broken = self.checks.iter().map(|check| not(check.condition.clone()));
        Some(missing.chain(broken).collect())
    }

    /// The columns that the rules look at, in the dataset's order; they must be decoded.
    #[must_use]
    pub fn judged(&self) -> Vec<String> {
        let checked = self.checks.iter().flat_map(|check| &check.columns);
        let changing = self.changes.iter().flat_map(|changes| changes.key.iter().chain(&changes.deleted));
        let all: BTreeSet<&String> =
            self.not_null.iter().chain(&self.event_time).chain(checked).chain(changing).collect();
        let in_order = self.schema.fields().iter().map(|field| field.name());
        in_order.filter(|name| all.contains(name)).cloned().collect()
    }

    /// What a decoder must produce so that the gate can judge and let `wanted` through: both, in the dataset's order,
    /// all of them nullable because refusing NULL is the gate's business.
    #[must_use]
    pub fn decoded(&self, wanted: &[String]) -> SchemaRef {
        let judged = self.judged();
        let fields = self.schema.fields().iter();
        let kept = fields.filter(|field| wanted.contains(field.name()) || judged.contains(field.name()));
        SchemaRef::new(Schema::new(kept.cloned().collect::<Vec<_>>()))
    }

    /// A gate for batches of `decoded` that lets the columns of `accepted` through.
    ///
    /// # Errors
    /// Internal, when a column is not there; Plan, when a condition cannot be evaluated.
    pub fn gate(&self, state: &SessionState, decoded: &SchemaRef, accepted: &SchemaRef) -> Result<Box<dyn Gate>> {
        let index = |name: &str| {
            decoded
                .index_of(name)
                .map_err(|e| Error::internal(format!("the column {name} of `{}` is not read", self.dataset)).because(e))
        };
        let mut rules = Vec::new();
        let keys = self.changes.as_ref().map_or([].as_slice(), |changes| &changes.key);
        // Of a row without a key nothing else is worth asking.
        let others = self.not_null.iter().filter(|name| !keys.contains(name));
        for name in keys.iter().chain(others) {
            let test = Test::NotNull { column: index(name)? };
            rules.push(Rule {
                test,
                reason: format!("{name} null"),
                detail: format!("{name} is NULL, declared NOT NULL"),
                policy: Violation::DeadLetter,
                of_key: keys.contains(name),
            });
        }
        let planned = DFSchema::try_from(decoded.as_ref().clone()).map_err(|e| lift(&e, &self.place))?;
        for check in &self.checks {
            let condition = state
                .create_physical_expr(check.condition.clone(), &planned)
                .and_then(checked)
                .map_err(|e| lift(&e, &check.place))?;
            let mut columns = Vec::new();
            for name in &check.columns {
                columns.push((name.clone(), index(name)?));
            }
            rules.push(Rule {
                test: Test::Holds { condition, columns },
                reason: words(&check.name, &check.text),
                detail: format!("CHECK ({})", check.text),
                policy: check.policy,
                of_key: false,
            });
        }
        let event_time = self.event_time.as_deref().map(index).transpose()?;
        if let (Some(column), Some(name)) = (event_time, &self.event_time) {
            let (reason, detail) = ("no event time".to_owned(), format!("{name} is NULL"));
            let (test, policy) = (Test::NotNull { column }, Violation::DeadLetter);
            // The event time may be a part of the key.
            rules.push(Rule { test, reason, detail, policy, of_key: keys.contains(name) });
        }
        let output: Vec<usize> =
            accepted.fields().iter().map(|field| index(field.name())).collect::<Result<Vec<usize>>>()?;
        let changing = match &self.changes {
            None => None,
            Some(changes) => {
                let deleted = changes.deleted.as_deref().map(index).transpose()?;
                Some(Changing { keyed: changes.is_keyed(), deleted })
            }
        };
        let gate = RowGate::new(self.dataset.clone(), rules, event_time, self.start, output, accepted);
        Ok(Box::new(gate.of_changes(changing)))
    }
}

/// The same columns, each of which may be NULL.
fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    SchemaRef::new(Schema::new(fields))
}

fn columns_of(condition: &Expr) -> Vec<String> {
    let names: BTreeSet<String> =
        condition.column_refs().into_iter().map(|column: &Column| column.name.clone()).collect();
    names.into_iter().collect()
}

/// The reason of a broken CHECK: its name in words, or its text when it has no name.
fn words(name: &str, text: &str) -> String {
    if name == text { format!("CHECK ({text})") } else { name.replace('_', " ") }
}
