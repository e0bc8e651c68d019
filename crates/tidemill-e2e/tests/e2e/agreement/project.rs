//! [`Setup`]: a case made into a project: where its tables read, where its query is written.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use tidemill::Workspace;
use tidemill_model::{Result, Timestamp};
use tidemill_testkit::{ProjectFolder, VirtualClock};

use super::case::{Case, Target};

/// Where tables read their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// A topic of three partitions.
    Log,
    /// A folder where files appear, of this format.
    Files(&'static str),
    /// A folder whose files are all there is.
    AllFiles(&'static str),
}

/// The instant at which every test begins: after all event times.
pub(crate) const PRESENT: Timestamp = Timestamp(1_893_456_000_000_000);

/// A case on disk.
pub(crate) struct Setup {
    pub(crate) folder: ProjectFolder,
    pub(crate) clock: Arc<VirtualClock>,
}

impl Setup {
    /// The tables of a case and nothing that reads them.
    pub(crate) fn declare(case: &Case, reading: Reading) -> Result<Setup> {
        let folder = ProjectFolder::new("[project]\nname = \"case\"\n")?;
        for (table, rows) in &case.lookups {
            folder.write(&format!("tables/{table}.jsonl"), rows)?;
        }
        folder.write("pipelines/tables.sql", bind(&case.declarations, reading))?;
        Ok(Setup { folder, clock: Arc::new(VirtualClock::at(PRESENT)) })
    }

    /// Adds the pipeline that writes the case's query, whose columns are those of `answer`.
    pub(crate) fn add_pipeline(&self, case: &Case, target: &Target, answer: &Schema, format: &str) -> Result<()> {
        let beside = case.beside.as_deref().unwrap_or_default();
        let options = &case.options;
        let header = format!("CREATE PIPELINE p WITH (trigger = 'once', checkpoint = '5 ms'{options});\n{beside}");
        let query = case.query.trim().trim_end_matches(';');
        let options = match target {
            Target::View => {
                return self
                    .folder
                    .write("pipelines/p.sql", format!("{header}CREATE MATERIALIZED VIEW result AS\n{query};\n"));
            }
            Target::Files => format!("connector = 'files', path = 'out/result', format = '{format}'"),
            Target::Log => "connector = 'log', topic = 'result', partitions = '2', format = 'json'".to_owned(),
            Target::Delta => "connector = 'delta', path = 'out/delta'".to_owned(),
            Target::Upsert(_) => {
                let sequence = case.sequence.iter().map(|column| format!(", sequence = '{column}'"));
                format!("connector = 'delta', path = 'out/upsert', write = 'upsert'{}", sequence.collect::<String>())
            }
        };
        let mut columns: Vec<String> =
            answer.fields().iter().map(|field| format!("{} {}", field.name(), sql_type(field.data_type()))).collect();
        if case.by_name {
            columns.reverse();
        }
        if let Target::Upsert(key) = target {
            columns.push(format!("PRIMARY KEY ({key})"));
        }
        let by_name = if case.by_name { " BY NAME" } else { "" };
        let columns = columns.join(", ");
        self.folder.write(
            "pipelines/p.sql",
            format!(
                "{header}CREATE TABLE result ({columns}) WITH ({options});\nINSERT INTO result{by_name}\n{query};\n"
            ),
        )
    }

    /// The project, opened as a new process would.
    pub(crate) fn open(&self) -> Result<Workspace> {
        Workspace::open(self.folder.path(), self.clock.clone(), &|_| None)
    }
}

/// The declarations with `@input` and `@lookup` filled in.
fn bind(declarations: &str, reading: Reading) -> String {
    let mut bound = String::new();
    let mut rest = declarations;
    while let Some((before, after)) = rest.split_once("WITH (@") {
        let (word, after) = after.split_once(')').expect("WITH (@word)");
        let (_, table) = before.rsplit_once("CREATE TABLE ").expect("CREATE TABLE before WITH (@…)");
        let (name, columns) = table.split_once('(').expect("columns");
        let name = name.trim();
        let key = columns.split_whitespace().next().expect("a first column");
        let options = match (word, reading) {
            ("lookup", _) => {
                format!("connector = 'files', path = 'tables/{name}.jsonl', format = 'json', bounded = 'true'")
            }
            ("debezium", _) => format!(
                "connector = 'log', topic = 'in-{name}', partitions = '3', key = '{key}', format = 'debezium_json', idle = '1 day'"
            ),
            ("upsert", _) => format!(
                "connector = 'log', topic = 'in-{name}', partitions = '3', key = '{key}', format = 'json', changelog = 'upsert', deleted = 'gone', idle = '1 day'"
            ),
            ("input", Reading::Log) => format!(
                "connector = 'log', topic = 'in-{name}', partitions = '3', key = '{key}', format = 'json', idle = '1 day'"
            ),
            ("input", Reading::Files(format)) => {
                format!("connector = 'files', path = 'in/{name}', format = '{format}', idle = '1 day'")
            }
            ("input", Reading::AllFiles(format)) => {
                format!("connector = 'files', path = 'in/{name}', format = '{format}', bounded = 'true'")
            }
            (other, _) => panic!("unknown binding `@{other}`"),
        };
        bound.push_str(before);
        bound.push_str(&format!("WITH ({options})"));
        rest = after;
    }
    bound.push_str(rest);
    bound
}

fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "VARCHAR".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMPTZ".to_owned(),
        DataType::Decimal128(_, scale) => format!("DECIMAL(38, {scale})"),
        other => panic!("a case's answer cannot have a {other}: cast it in the query"),
    }
}

/// The columns of an answer.
pub(crate) fn schema_of(answer: &[RecordBatch]) -> Arc<Schema> {
    answer.first().expect("the oracle has an answer").schema()
}
