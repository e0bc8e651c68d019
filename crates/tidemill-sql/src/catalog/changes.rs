//! [`Changes`]: how the records of a dataset change its rows, where it is read as a changelog.
//!
//! **Invariant:** a changelog by key is read only where the records of a key stand in the order in which they were written.

use arrow::datatypes::{DataType, SchemaRef};
use tidemill_model::{Error, Kind, Options, Result, Settings};
use tidemill_runtime::{Decoder, Format, Source};

use super::{Catalog, Side, at};
use crate::language::{Dataset, sql_type};

/// How records change the rows of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The columns that tell its rows apart, of which the last record counts; without any, each change brings the row
    /// that it takes back.
    pub key: Vec<String>,
    /// The column that is true in a record which says that its key is gone.
    pub deleted: Option<String>,
}

impl Changes {
    /// Whether the last record of a key is its row.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        !self.key.is_empty()
    }
}

/// A decoder of rows, or of their changes.
///
/// # Errors
/// As [`Format::decoder`].
pub fn decoder_of(format: &dyn Format, schema: SchemaRef, changes: Option<&Changes>) -> Result<Box<dyn Decoder>> {
    match changes {
        None => format.decoder(schema),
        Some(changes) => format.change_decoder(schema, changes.is_keyed()),
    }
}

impl Catalog {
    /// How the records of a side of the dataset change its rows; `None` when each record is a row of its own.
    ///
    /// # Errors
    /// As `declared`.
    pub fn changes(&self, name: &str, side: Side) -> Result<Option<Changes>> {
        let settings = self.settings(name, side)?;
        let upsert = settings.text("changelog") == Some("upsert");
        let enveloped =
            || self.declared(name, side).map(|spec| spec.format.is_some_and(|format| format.is_changelog()));
        if !upsert && !enveloped()? {
            return Ok(None);
        }
        let deleted = settings.text("deleted").map(ToOwned::to_owned);
        Ok(Some(Changes { key: self.dataset(name)?.primary_key.clone(), deleted }))
    }

    /// Refuses to read a changelog from where its records have no order.
    pub(super) fn in_order(&self, name: &str, side: Side, source: &dyn Source) -> Result<()> {
        if source.keeps_order() || self.changes(name, side)?.is_none() {
            return Ok(());
        }
        Err(self.without_order(name, side)?)
    }

    /// The error of a changelog whose records have no order.
    ///
    /// # Errors
    /// Plan: there is no such dataset.
    pub fn without_order(&self, name: &str, side: Side) -> Result<Error> {
        let connector = self.connector_of(name, side)?;
        Ok(Error::new(
            Kind::Config,
            "C190",
            format!("`{name}` is a changelog, and `{connector}` does not keep its records in order"),
        )
        .at(&self.dataset(name)?.place)
        .label("of two changes of a row nobody could tell the later one")
        .fact("write the changes to a topic, whose partitions keep the order of each key: connector = 'log'"))
    }
}

impl Catalog {
    /// Refuses to write records of rows that their key keeps in order from one partition to another.
    pub(super) fn written_in_order(&self, name: &str) -> Result<()> {
        let (settings, dataset) = (self.settings(name, Side::Live)?, self.dataset(name)?);
        let one = settings.integer("partitions") == Some(1);
        if settings.text("changelog") != Some("upsert")
            || self.connector_of(name, Side::Live)? != "log"
            || one
            || settings.text("key").is_some()
        {
            return Ok(());
        }
        let message = format!("records of one row of `{name}` would lie in several partitions");
        let first = dataset.primary_key.first().map_or("id", String::as_str);
        Err(Error::new(Kind::Config, "C194", message)
            .at(&dataset.place)
            .label("changes of a row could change places")
            .fact(format!("write the rows of a key to one partition: key = '{first}'; or have one, partitions = '1'")))
    }
}

/// What `changelog` needs, and what it makes of the option that belongs to it.
pub(super) fn check_changelog(dataset: &Dataset, settings: &Settings, options: &Options) -> Result<()> {
    let given = |name: &str| options.given.get(name);
    let upsert = settings.text("changelog") == Some("upsert");
    let value_place = |name: &str| given(name).and_then(|given| given.value_place.as_ref());
    if upsert && settings.text("format") == Some("debezium_json") {
        let error = Error::new(Kind::Config, "C193", "records of `debezium_json` say themselves what changed")
            .label("leave `changelog` out")
            .fact("changelog = 'upsert' is for formats whose records are rows, such as json");
        return Err(at(error, value_place("changelog")));
    }
    if upsert && dataset.primary_key.is_empty() {
        let error = Error::new(
            Kind::Plan,
            "P221",
            format!("records of `{}` replace rows by key, and it has none", dataset.name),
        )
        .label("needs a PRIMARY KEY")
        .fact("declare which columns tell its rows apart: CREATE TABLE name (…, PRIMARY KEY (id)) WITH (…)");
        return Err(at(error, value_place("changelog")));
    }
    if upsert && let Some(key) = given("key").filter(|key| !dataset.primary_key.contains(&key.value)) {
        let message =
            format!("`key` is not in the PRIMARY KEY of `{}`, so changes of a row could change places", dataset.name);
        let error = Error::new(Kind::Config, "C194", message)
            .label("records of one row would lie in several partitions")
            .fact(format!("name one of {}", dataset.primary_key.join(", ")));
        return Err(at(error, key.value_place.as_ref()));
    }
    let Some(deleted) = given("deleted") else { return Ok(()) };
    if !upsert {
        let error = Error::new(Kind::Config, "C191", "`deleted` has no effect without changelog = 'upsert'")
            .label("it belongs to changelog = 'upsert'");
        return Err(at(error, deleted.name_place.as_ref()));
    }
    let wrong = match dataset.schema.field_with_name(&deleted.value) {
        Ok(field) if *field.data_type() == DataType::Boolean => return Ok(()),
        Ok(field) => format!("it is a {}", sql_type(field.data_type())),
        Err(_) => format!("`{}` has no such column", dataset.name),
    };
    let message = format!("`{}` cannot say which records are deletions", deleted.value);
    let error = Error::new(Kind::Config, "C192", message).label(wrong).fact(format!(
        "declare it among the columns: {} BOOLEAN; true deletes the row of the record's key",
        deleted.value
    ));
    Err(at(error, deleted.value_place.as_ref()))
}
