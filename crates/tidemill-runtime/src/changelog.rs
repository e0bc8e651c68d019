//! The columns of a changelog on its way out: each row is one change of one key.
//!
//! A batch of changes has the columns of the result as they are after the change, then the same columns before it (named
//! with [`BEFORE`] in front), then [`OP`]: `c` for a row that came, `u` for one that changed, `d` for one that went. What
//! does not exist before or after is given by the other side, so that every column with a key has its value.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// The column that says what a change is.
pub const OP: &str = "__op";
/// What the names of columns before the change begin with.
pub const BEFORE: &str = "__before.";

/// The columns of changes of rows of `schema`.
#[must_use]
pub fn changelog_schema(schema: &Schema) -> SchemaRef {
    let after = schema.fields().iter().cloned();
    let before = schema
        .fields()
        .iter()
        .map(|field| Arc::new(field.as_ref().clone().with_name(format!("{BEFORE}{}", field.name()))));
    let op = Arc::new(Field::new(OP, DataType::Utf8, false));
    Arc::new(Schema::new(after.chain(before).chain([op]).collect::<Vec<_>>()))
}

/// The columns of the rows that changes of `schema` are about; `None` when it is no changelog.
#[must_use]
pub fn changed_schema(schema: &Schema) -> Option<SchemaRef> {
    let fields = schema.fields();
    let (op, both) = fields.split_last()?;
    let (after, before) = both.split_at_checked(both.len() / 2)?;
    let paired =
        after.iter().zip(before).all(|(after, before)| before.name().strip_prefix(BEFORE) == Some(after.name()));
    (op.name() == OP && after.len() == before.len() && paired).then(|| Arc::new(Schema::new(after.to_vec())))
}
