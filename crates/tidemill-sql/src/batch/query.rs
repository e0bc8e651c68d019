//! [`query`]: ad hoc questions over everything that the project knows by name.
//!
//! **Invariant:** a query changes nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::TableSource;
use datafusion::physical_plan::collect;
use datafusion::sql::sqlparser::ast::{self, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use tidemill_model::{Error, Kind, Place, Result};
use tidemill_runtime::exec::StopFlag;
use tidemill_runtime::{dead_letter_schema, late_schema};

use super::engine::{Engine, Resources};
use super::reading::Gathered;
use super::tables::{Datasets, Manner, Outline, outline};
use super::unwritten::Unwritten;
use super::views::ViewSource;
use crate::catalog::{Catalog, Side};
use crate::language::{DEAD_LETTERS, LATE, MaterializedView, from_datafusion, session_keys, sql_words};
use crate::session::{SchemaOnly, result_schema};

/// The rows that a query answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows, in the query's order.
    pub batches: Vec<RecordBatch>,
    /// What the query reads and nothing has written yet.
    pub unwritten: Vec<Unwritten>,
}

/// Answers one SELECT over the project's datasets (as they are now), views, materialized views (as of their newest
/// epoch), `NAME.dead_letters` and `NAME.late`. What a pipeline of the project writes and has not written yet has no rows.
///
/// # Errors
/// Plan, at its place in the query; whatever reading the data answers.
pub async fn query(
    catalog: &Catalog,
    views: &dyn ViewSource,
    sql: &str,
    resources: &Resources,
    stop: StopFlag,
) -> Result<Answer> {
    let place = Place { file: Arc::from("query"), text: Arc::from(sql), span: 0..sql.len() };
    let query = the_query(sql, &place)?;
    let engine = Engine::new(resources, catalog.environment().clock.now(), catalog.functions())?;
    let failed = |e| from_datafusion(&e, &place);

    let names = Others { catalog, engine: &engine, views, inside: RefCell::default(), unwritten: RefCell::default() };
    let by_name = |name: &TableReference| names.columns(name);
    let Outline { datasets, .. } = outline(catalog, engine.state(), Side::Live, &by_name, (&query, &place))?;
    let manner = Manner {
        side: Side::Live,
        start: None,
        owned: None,
        gathered: Arc::new(Gathered::only_counts(stop)),
        only: None,
    };
    let (datasets, mut unwritten) = Datasets::open_or_empty(catalog, engine.state(), &manner, &datasets).await?;
    let with_rows = |name: &TableReference| names.rows(name);
    let plan = datasets.plan(catalog, engine.state(), &with_rows, (&query, &place))?;
    unwritten.extend(names.unwritten.take());
    let physical = engine.physical(&plan).await.map_err(failed)?;
    let schema = in_sql_words(&physical.schema());
    let batches = collect(physical, engine.task()).await.map_err(failed)?;
    let batches = batches.into_iter().map(|rows| {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&schema), rows.columns().to_vec(), &options)
            .map_err(|e| Error::internal("an answer does not have the columns of its query").because(e))
    });
    Ok(Answer { batches: batches.collect::<Result<_>>()?, schema, unwritten })
}

/// The columns under the names that a reader of SQL expects: `amount / 2`, not `amount / Int64(2)`.
fn in_sql_words(schema: &SchemaRef) -> SchemaRef {
    let names: Vec<String> = schema.fields().iter().map(|field| sql_words(field.name())).collect();
    let distinct: BTreeSet<&String> = names.iter().collect();
    if distinct.len() < names.len() {
        return Arc::clone(schema);
    }
    let fields = schema.fields().iter().zip(names).map(|(field, name)| field.as_ref().clone().with_name(name));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The one query in the text.
fn the_query(sql: &str, place: &Place) -> Result<Box<ast::Query>> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let parsed = tokens.map_err(ParserError::from).and_then(|mut tokens| {
        session_keys(&mut tokens);
        Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens).parse_statements()
    });
    let mut statements = parsed.map_err(|e| from_datafusion(&e.into(), place))?;
    match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Query(query)), true) if reads_only(&query) => Ok(query),
        (None, _) => Err(Error::new(Kind::Plan, "P170", "there is no query").at(place).fact("write a SELECT")),
        (Some(_), false) => {
            Err(Error::new(Kind::Plan, "P170", "one query at a time").at(place).fact("ask them in turn"))
        }
        (Some(_), true) => Err(Error::new(Kind::Plan, "P171", "a query only reads")
            .at(place)
            .fact("write a SELECT; tables are written by INSERT INTO in a pipeline's file")),
    }
}

/// Whether the body of a query is one; SQL's grammar also has INSERT and UPDATE there.
fn reads_only(query: &ast::Query) -> bool {
    fn body(set: &ast::SetExpr) -> bool {
        match set {
            ast::SetExpr::Select(select) => select.into.is_none(),
            ast::SetExpr::Query(query) => reads_only(query),
            ast::SetExpr::SetOperation { left, right, .. } => body(left) && body(right),
            ast::SetExpr::Values(_) | ast::SetExpr::Table(_) => true,
            _ => false,
        }
    }
    let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
    ctes.into_iter().all(|cte| reads_only(&cte.query)) && body(&query.body)
}

/// The names that are no external datasets.
struct Others<'a> {
    catalog: &'a Catalog,
    engine: &'a Engine,
    views: &'a dyn ViewSource,
    /// The materialized views that are being planned, outermost first.
    inside: RefCell<Vec<String>>,
    /// Materialized views that no epoch has computed yet.
    unwritten: RefCell<Vec<Unwritten>>,
}

impl Others<'_> {
    /// A name with its columns alone.
    fn columns(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
        if let Some(view) = self.materialized(name) {
            return Ok(Some(Arc::new(SchemaOnly(self.view_schema(view)?))));
        }
        if self.below(name, DEAD_LETTERS).is_some() {
            return Ok(Some(Arc::new(SchemaOnly(dead_letter_schema()))));
        }
        if self.below(name, LATE).is_some() {
            return Ok(Some(Arc::new(SchemaOnly(late_schema()))));
        }
        match self.catalog.project().misnamed(name.schema(), name.table()) {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// A name with its rows.
    fn rows(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
        let (schema, batches) = if let Some(view) = self.materialized(name) {
            let schema = self.view_schema(view)?;
            let found = self.views.rows(&view.pipeline, &view.name)?;
            if found.is_none() {
                let nothing = Unwritten { name: view.name.clone(), pipelines: vec![view.pipeline.clone()] };
                let mut unwritten = self.unwritten.borrow_mut();
                if !unwritten.contains(&nothing) {
                    unwritten.push(nothing);
                }
            }
            let batches = found.map(|rows| rows.batches).unwrap_or_default();
            let batches = batches.iter().map(|rows| as_declared(rows, &schema, &view.name)).collect::<Result<_>>()?;
            (schema, batches)
        } else if let Some(dataset) = self.below(name, DEAD_LETTERS) {
            (dead_letter_schema(), self.views.dead_letters(&self.pipelines(), dataset)?)
        } else if let Some(dataset) = self.below(name, LATE) {
            (late_schema(), self.views.late_rows(&self.pipelines(), dataset)?)
        } else {
            return Ok(None);
        };
        let broken = |e: datafusion::error::DataFusionError| {
            Error::new(Kind::Corrupt, "X005", format!("the stored rows of `{name}` do not have its columns")).because(e)
        };
        Ok(Some(provider_as_source(Arc::new(MemTable::try_new(schema, vec![batches]).map_err(broken)?))))
    }

    fn materialized(&self, name: &TableReference) -> Option<&MaterializedView> {
        match name {
            TableReference::Bare { table } => self.catalog.project().materialized.get(table.as_ref()),
            _ => None,
        }
    }

    fn pipelines(&self) -> Vec<String> {
        self.catalog.project().pipelines.keys().cloned().collect()
    }

    /// The dataset or materialized view whose dead letters or late rows a name stands for.
    fn below<'n>(&self, name: &'n TableReference, what: &str) -> Option<&'n str> {
        let TableReference::Partial { schema, table } = name else { return None };
        let (project, of) = (self.catalog.project(), schema.as_ref());
        let known = project.datasets.contains_key(of) || project.materialized.contains_key(of);
        (table.as_ref() == what && known).then_some(of)
    }

    fn view_schema(&self, view: &MaterializedView) -> Result<SchemaRef> {
        if self.inside.borrow().contains(&view.name) {
            return Err(
                Error::new(Kind::Plan, "P106", format!("the view `{}` reads itself", view.name)).at(&view.place)
            );
        }
        self.inside.borrow_mut().push(view.name.clone());
        let schema = self.view_schema_once(view);
        self.inside.borrow_mut().pop();
        schema
    }

    fn view_schema_once(&self, view: &MaterializedView) -> Result<SchemaRef> {
        let by_name = |name: &TableReference| self.columns(name);
        let found = outline(self.catalog, self.engine.state(), Side::Live, &by_name, (&view.query, &view.place))?;
        // As the pipeline planned it: analysis settles types.
        let plan = self.engine.state().optimize(&found.plan).map_err(|e| from_datafusion(&e, &view.place))?;
        Ok(result_schema(&plan))
    }
}

/// The rows of a view's state with the columns of its query.
fn as_declared(rows: &RecordBatch, schema: &SchemaRef, view: &str) -> Result<RecordBatch> {
    let other = || {
        Error::new(Kind::Plan, "P172", format!("the stored rows of `{view}` were computed by another query"))
            .fact("run its pipeline, which says what to do")
    };
    let columns = schema.fields().iter().map(|field| {
        let column = rows.column_by_name(field.name()).ok_or_else(other)?;
        if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { Err(other()) }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| other().because(e))
}
