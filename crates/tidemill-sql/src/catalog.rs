//! [`Catalog`]: the datasets of a project with the connectors that open them.
//!
//! **Invariant:** every dataset in a catalog names a connector and a format that exist, and options that these know.

mod changes;
mod registry;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use tidemill_model::{Error, Kind, Options, Place, Result, Settings, nearest};
use tidemill_runtime::{
    Connector, DatasetSpec, Environment, Sink, SinkTarget, Source, Split, TablePart, Version, WriteMode,
};

use crate::language::check::{check_columns, is_time, no_column};
use crate::language::{DATASET_OPTIONS, Dataset, Project, sql_type};
use changes::check_changelog;

use crate::session::Functions;
pub use changes::{Changes, decoder_of};
pub use registry::{BatchTables, Formats, Look, Presence, Registry};

/// Which of a dataset's two bindings is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// `WITH (…)`: live reading, and all writing.
    Live,
    /// `HISTORY WITH (…)`, or the same as live when there is none: intervals, backfill, replay.
    History,
}

/// The datasets of a project, checked against the connectors.
#[derive(Debug)]
pub struct Catalog {
    project: Arc<Project>,
    registry: Registry,
    env: Environment,
    bindings: BTreeMap<(String, Side), Binding>,
    look: Look,
    functions: Functions,
}

#[derive(Debug)]
struct Binding {
    connector: Arc<dyn Connector>,
    settings: Settings,
    /// The columns that the connector said, once it was asked: they stay the same as long as the catalog lives.
    discovered: OnceLock<SchemaRef>,
}

impl Catalog {
    /// Checks every dataset of the project.
    ///
    /// # Errors
    /// Config and Plan, all that are found, each at its place.
    pub fn new(project: impl Into<Arc<Project>>, registry: Registry, env: Environment) -> Result<Catalog> {
        let project = project.into();
        let mut errors = Vec::new();
        let mut bindings = BTreeMap::new();
        for dataset in project.datasets.values() {
            let live = std::iter::once((Side::Live, &dataset.options));
            for (side, options) in live.chain(dataset.history.iter().map(|options| (Side::History, options))) {
                match registry.bind(dataset, options) {
                    Ok(binding) => {
                        bindings.insert((dataset.name.clone(), side), binding);
                    }
                    Err(error) => errors.push(error.at(&dataset.place)),
                }
            }
        }
        match Error::all(errors) {
            Some(error) => Err(error),
            None => {
                let (look, functions): (Look, _) = (|_, _, _| Ok(Presence::There), Functions::new());
                Ok(Catalog { project, registry, env, bindings, look, functions })
            }
        }
    }

    /// The same catalog, which can tell what is there and what is not. Without this everything is taken to be there.
    #[must_use]
    pub fn look_by(self, look: Look) -> Catalog {
        Catalog { look, ..self }
    }

    /// The same catalog, for queries that may call these functions, too.
    #[must_use]
    pub fn with_functions(self, functions: Functions) -> Catalog {
        Catalog { functions, ..self }
    }

    /// The functions that were added to those of SQL.
    #[must_use]
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &Arc<Project> {
        &self.project
    }

    /// What connectors know of the world.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.env
    }

    /// The dataset of this name as declared.
    ///
    /// # Errors
    /// Plan: there is none; the message names the nearest.
    pub fn dataset(&self, name: &str) -> Result<&Dataset> {
        self.project.datasets.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.project.datasets.keys().map(String::as_str).collect();
            unknown(Error::new(Kind::Plan, "P105", format!("no table `{name}`")), "tables", name, &known)
        })
    }

    /// The name of the connector that a side of the dataset is bound to.
    ///
    /// # Errors
    /// Plan: there is no such dataset.
    pub fn connector_of(&self, name: &str, side: Side) -> Result<&'static str> {
        Ok(self.binding(name, side)?.1.connector.name())
    }

    /// The checked options of a side of the dataset.
    ///
    /// # Errors
    /// Plan: there is no such dataset.
    pub fn settings(&self, name: &str, side: Side) -> Result<&Settings> {
        Ok(&self.binding(name, side)?.1.settings)
    }

    /// The dataset with its declared columns, or none when none were declared: what a sink is opened with.
    ///
    /// # Errors
    /// Plan: there is no such dataset. Config: its format cannot be made.
    pub fn declared(&self, name: &str, side: Side) -> Result<DatasetSpec> {
        let (dataset, binding) = self.binding(name, side)?;
        self.with_columns(dataset, binding, &dataset.schema)
    }

    /// The dataset with its columns: the declared ones or else those that the connector finds, asked once.
    ///
    /// # Errors
    /// As `declared`; also Config, when nobody knows the columns, and Plan, when the dataset's clauses do not fit them.
    pub fn spec(&self, name: &str, side: Side) -> Result<DatasetSpec> {
        let (dataset, binding) = self.binding(name, side)?;
        let declared = self.with_columns(dataset, binding, &dataset.schema)?;
        if !dataset.columns.is_empty() {
            return Ok(declared);
        }
        let schema = match binding.discovered.get() {
            Some(schema) => Arc::clone(schema),
            None => {
                let found =
                    binding.connector.discover_schema(&declared, &self.env).map_err(|e| e.at(&dataset.place))?;
                if let Some(error) = Error::all(check_columns(dataset, &found)) {
                    return Err(error);
                }
                Arc::clone(binding.discovered.get_or_init(|| found))
            }
        };
        self.with_columns(dataset, binding, &schema)
    }

    /// Opens a side of the dataset for reading.
    ///
    /// # Errors
    /// As `spec` and [`Connector::source`].
    pub fn source(&self, name: &str, side: Side) -> Result<Arc<dyn Source>> {
        let spec = self.spec(name, side)?;
        let (dataset, binding) = self.binding(name, side)?;
        let source = binding.connector.source(&spec, &self.env).map_err(|error| error.at(&dataset.place))?;
        self.in_order(name, side, source.as_ref())?;
        Ok(source)
    }

    /// Opens the dataset for writing.
    ///
    /// # Errors
    /// As `declared` and [`Connector::sink`].
    pub fn sink(&self, name: &str, target: &SinkTarget) -> Result<Arc<dyn Sink>> {
        let spec = self.declared(name, Side::Live)?;
        let (dataset, binding) = self.binding(name, Side::Live)?;
        binding.connector.sink(&spec, target, &self.env).map_err(|error| error.at(&dataset.place))
    }

    /// Opens a side of the dataset as its connector's own table, if the connector has one.
    ///
    /// # Errors
    /// As `declared` and [`BatchTables::open`].
    pub async fn batch_table(&self, name: &str, side: Side) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(tables) = self.tables_of(name, side)? else { return Ok(None) };
        let spec = self.declared(name, side)?;
        let place = &self.dataset(name)?.place;
        tables.open(&spec, &self.env).await.map(Some).map_err(|error| error.at(place))
    }

    /// Which content a side of the dataset has now, if its connector can tell without reading it.
    ///
    /// # Errors
    /// As `source`, or as [`BatchTables::version`] where it is read that way.
    pub async fn version(&self, name: &str, side: Side) -> Result<Option<Version>> {
        let place = &self.dataset(name)?.place;
        if let Some(tables) = self.tables_of(name, side)? {
            let spec = self.declared(name, side)?;
            return tables.version(&spec, &self.env).await.map_err(|error| error.at(place));
        }
        self.source(name, side)?.version().map_err(|error| error.at(place))
    }

    /// The files of a side of the dataset that its connector's own table consists of, if it has one; `None` inside when
    /// they cannot be told.
    ///
    /// # Errors
    /// As `declared` and [`BatchTables::files`].
    pub fn files(&self, name: &str, side: Side) -> Result<Option<Option<Vec<Split>>>> {
        let Some(tables) = self.tables_of(name, side)? else { return Ok(None) };
        let place = &self.dataset(name)?.place;
        tables.files(&self.declared(name, side)?, &self.env).map(Some).map_err(|error| error.at(place))
    }

    fn tables_of(&self, name: &str, side: Side) -> Result<Option<&Arc<dyn BatchTables>>> {
        let connector = self.connector_of(name, side)?;
        Ok(self.registry.tables.iter().find(|tables| tables.connector() == connector))
    }

    /// What lies at the place of a side of the dataset.
    ///
    /// # Errors
    /// As `declared`; Unavailable, when it cannot be looked at.
    pub fn presence(&self, name: &str, side: Side) -> Result<Presence> {
        let spec = self.declared(name, side)?;
        (self.look)(self.connector_of(name, side)?, &spec, &self.env)
    }

    /// How rows of `output` change the dataset; `part` is what a REPLACE WHERE says.
    ///
    /// # Errors
    /// Plan, without a place but for the part: the output lacks what the mode needs.
    pub fn write_mode(&self, name: &str, output: &Schema, part: Option<&(TablePart, Place)>) -> Result<WriteMode> {
        let (dataset, binding) = self.binding(name, Side::Live)?;
        self.written_in_order(name)?;
        let mode = binding.settings.text("write");
        if let (Some((_, place)), false) = (part, matches!(mode, Some("replace" | "overwrite"))) {
            let mode = mode.unwrap_or("append");
            return Err(Error::new(Kind::Plan, "P122", format!("`{name}` is not replaced, so no part of it is"))
                .at(place)
                .label(format!("the table has write = '{mode}'"))
                .fact("declare it with write = 'replace' (the interval's rows of the part) or 'overwrite' (all of them), or leave out REPLACE WHERE"));
        }
        let part = part.map(|(part, place)| part_of(dataset, part, output).map_err(|e| e.at(place)));
        let part = part.transpose()?.unwrap_or_default();
        match mode {
            Some("upsert") => upsert(dataset, &binding.settings, output),
            Some("replace") => replace(dataset, &binding.settings, output, part),
            Some("overwrite") => Ok(WriteMode::Overwrite { part }),
            _ if self.is_changelog(name)? => changelog(dataset, output),
            _ => Ok(WriteMode::Append),
        }
    }

    /// Whether the records of a dataset are changes.
    ///
    /// # Errors
    /// As `declared`.
    pub fn is_changelog(&self, name: &str) -> Result<bool> {
        Ok(self.declared(name, Side::Live)?.format.is_some_and(|format| format.is_changelog()))
    }

    fn binding(&self, name: &str, side: Side) -> Result<(&Dataset, &Binding)> {
        let dataset = self.dataset(name)?;
        let of = |side| self.bindings.get(&(name.to_owned(), side));
        let binding = of(side).or_else(|| of(Side::Live));
        binding.map(|binding| (dataset, binding)).ok_or_else(|| Error::internal(format!("`{name}` is not bound")))
    }

    fn with_columns(&self, dataset: &Dataset, binding: &Binding, schema: &SchemaRef) -> Result<DatasetSpec> {
        let format = match binding.settings.text("format").or(binding.connector.default_format()) {
            Some(name) if self.registry.formats.names.contains(&name) => {
                let made = (self.registry.formats.make)(name, &binding.settings, schema);
                Some(made.map_err(|error| error.at(&dataset.place))?)
            }
            _ => None,
        };
        Ok(DatasetSpec {
            name: dataset.name.clone(),
            schema: Arc::clone(schema),
            event_time: dataset.watermark.as_ref().map(|clause| clause.column.clone()),
            settings: binding.settings.clone(),
            format,
        })
    }
}

impl Registry {
    fn bind(&self, dataset: &Dataset, options: &Options) -> Result<Binding> {
        let given = |name: &str| options.given.get(name);
        let connector = match given("connector") {
            Some(given) => self.connector(&given.value, given.value_place.as_ref())?,
            None => {
                let error =
                    Error::new(Kind::Config, "C012", format!("`{}` needs the option `connector`", dataset.name));
                return Err(at(
                    error.fact(format!("connectors: {}", self.connector_names().join(", "))),
                    options.place.as_ref(),
                ));
            }
        };
        let mut specs = connector.options().to_vec();
        if let Some(given) = given("format") {
            let formats = &self.formats;
            if formats.names.contains(&given.value.as_str()) {
                specs.extend((formats.options)(&given.value)?);
            } else if !formats.columnar.contains(&given.value.as_str()) {
                let known: Vec<&str> = formats.names.iter().chain(&formats.columnar).copied().collect();
                return Err(at(
                    unknown(
                        Error::new(Kind::Config, "C016", format!("no format `{}`", given.value)),
                        "formats",
                        &given.value,
                        &known,
                    ),
                    given.value_place.as_ref(),
                ));
            }
        }
        for common in DATASET_OPTIONS {
            if !specs.iter().any(|spec| spec.name == common.name) {
                specs.push(*common);
            }
        }
        let settings = options.resolve(&format!("`{}`", connector.name()), &specs)?;
        check_write(dataset, &settings, options)?;
        check_changelog(dataset, &settings, options)?;
        Ok(Binding { connector, settings, discovered: OnceLock::new() })
    }

    fn connector(&self, name: &str, place: Option<&Place>) -> Result<Arc<dyn Connector>> {
        let found = self.connectors.iter().find(|connector| connector.name() == name);
        found.cloned().ok_or_else(|| {
            let error = Error::new(Kind::Config, "C015", format!("no connector `{name}`"));
            at(unknown(error, "connectors", name, &self.connector_names()), place)
        })
    }

    fn connector_names(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self.connectors.iter().map(|connector| connector.name()).collect();
        names.sort_unstable();
        names
    }
}

fn at(error: Error, place: Option<&Place>) -> Error {
    match place {
        Some(place) => error.at(place),
        None => error,
    }
}

/// An error about an unknown name, with the nearest one and all of them.
fn unknown(error: Error, what: &str, name: &str, known: &[&str]) -> Error {
    let error = match nearest(name, known.iter().copied()) {
        Some(meant) => error.label(format!("did you mean `{meant}`?")),
        None => error,
    };
    error.fact(format!("{what}: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") }))
}

/// What `write` needs and what it makes of the options that belong to one mode.
fn check_write(dataset: &Dataset, settings: &Settings, options: &Options) -> Result<()> {
    let mode = settings.text("write").unwrap_or("append");
    let given = |name: &str| options.given.get(name);
    if mode == "upsert" && dataset.primary_key.is_empty() {
        let error = Error::new(Kind::Plan, "P152", format!("`{}` cannot be upserted without a key", dataset.name))
            .label("needs a PRIMARY KEY")
            .fact("declare it: CREATE TABLE name (PRIMARY KEY (id)) WITH (…), or write = 'append'");
        return Err(at(error, given("write").and_then(|given| given.value_place.as_ref())));
    }
    for (option, of) in [("sequence", "upsert"), ("time_column", "replace")] {
        let Some(column) = given(option) else { continue };
        if mode != of {
            let error = Error::new(Kind::Config, "C023", format!("`{option}` has no effect with write = '{mode}'"))
                .label(format!("it belongs to write = '{of}'"));
            return Err(at(error, column.name_place.as_ref()));
        }
        if !dataset.columns.is_empty() && dataset.schema.field_with_name(&column.value).is_err() {
            let place = column.value_place.as_ref().unwrap_or(&dataset.place);
            return Err(no_column(&column.value, &dataset.name, &dataset.schema, place));
        }
    }
    Ok(())
}

fn upsert(dataset: &Dataset, settings: &Settings, output: &Schema) -> Result<WriteMode> {
    let sequence = settings.text("sequence").map(ToOwned::to_owned);
    for (column, what) in
        dataset.primary_key.iter().map(|c| (c, "PRIMARY KEY")).chain(sequence.iter().map(|c| (c, "sequence")))
    {
        if output.field_with_name(column).is_err() {
            return Err(missing(column, &format!("`{column}` is the {what} of `{}`", dataset.name), output));
        }
    }
    Ok(WriteMode::Upsert { key: dataset.primary_key.clone(), sequence })
}

fn changelog(dataset: &Dataset, output: &Schema) -> Result<WriteMode> {
    if dataset.primary_key.is_empty() {
        let message = format!("changes of `{}` need a key", dataset.name);
        return Err(Error::new(Kind::Plan, "P147", message)
            .at(&dataset.place)
            .label("needs a PRIMARY KEY")
            .fact("declare which columns tell its rows apart: CREATE TABLE name (PRIMARY KEY (id)) WITH (…)"));
    }
    for column in &dataset.primary_key {
        if output.field_with_name(column).is_err() {
            return Err(missing(column, &format!("`{column}` is the PRIMARY KEY of `{}`", dataset.name), output));
        }
    }
    Ok(WriteMode::Changelog { key: dataset.primary_key.clone() })
}

fn replace(dataset: &Dataset, settings: &Settings, output: &Schema, part: TablePart) -> Result<WriteMode> {
    let has = |column: &str| output.field_with_name(column).is_ok();
    let declared = dataset.watermark.as_ref().map(|clause| clause.column.as_str());
    let column = match settings.text("time_column") {
        Some(column) if !has(column) => {
            return Err(missing(column, &format!("`{column}` is the time_column of `{}`", dataset.name), output));
        }
        Some(column) => column,
        None => match declared.filter(|column| has(column)).or_else(|| has("window_start").then_some("window_start")) {
            Some(column) => column,
            None => {
                let message = format!("which rows of `{}` belong to an interval is not known", dataset.name);
                return Err(Error::new(Kind::Plan, "P151", message)
                    .label("no column says when its rows happened")
                    .fact("name it: time_column = '…' on the table, or select window_start")
                    .fact("or use write = 'upsert' with a PRIMARY KEY"));
            }
        },
    };
    match output.field_with_name(column) {
        Ok(field) if !is_time(field.data_type()) => {
            let message = format!("`{column}` cannot say which rows an interval replaces");
            let label = format!("it is a {}", sql_type(field.data_type()));
            Err(Error::new(Kind::Plan, "P151", message).label(label).fact("select it as a TIMESTAMP"))
        }
        _ => Ok(WriteMode::Replace { column: column.to_owned(), part }),
    }
}

/// The part, if its columns are there and its values can be theirs.
fn part_of(dataset: &Dataset, part: &TablePart, output: &Schema) -> Result<TablePart> {
    for (column, values) in part.columns() {
        let Ok(field) = output.field_with_name(column) else {
            return Err(missing(
                column,
                &format!("`{column}` says which part of `{}` is replaced", dataset.name),
                output,
            ));
        };
        for value in values.iter().flatten() {
            // A table without declared columns takes whatever comes.
            let known = !field.data_type().is_null();
            if known && ScalarValue::try_from_string(value.clone(), field.data_type()).is_err() {
                let message = format!("`{value}` is no value of `{column}`");
                let label = format!("it is a {}", sql_type(field.data_type()));
                return Err(Error::new(Kind::Plan, "P121", message).label(label));
            }
        }
    }
    Ok(part.clone())
}

fn missing(column: &str, why: &str, output: &Schema) -> Error {
    let names: Vec<&str> = output.fields().iter().map(|field| field.name().as_str()).collect();
    Error::new(Kind::Plan, "P152", format!("the query does not give the column `{column}`"))
        .label(why)
        .fact(format!("columns of the query: {}", names.join(", ")))
}

#[cfg(test)]
mod tests;
