//! `?column=value`: the rows of a view where every named column equals its value.

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, Scalar, StringArray};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{CastOptions, and, cast_with_options, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use std::sync::Arc;
use tidemill_model::{Error, Kind, Result, nearest};
use tidemill_sql::language::sql_type;

/// A column and the one value it must have, typed as the column.
pub(crate) struct Condition {
    column: usize,
    value: Scalar<ArrayRef>,
}

/// What a request asks for beside conditions.
pub(crate) struct Asked {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) limit: Option<usize>,
}

/// Reads the parameters of a request.
pub(crate) fn read(schema: &SchemaRef, parameters: &[(String, String)]) -> Result<Asked> {
    let mut asked = Asked { conditions: Vec::new(), limit: None };
    for (name, text) in parameters {
        if let Ok(column) = schema.index_of(name) {
            asked.conditions.push(Condition { column, value: typed(schema, column, text)? });
        } else if name == "limit" {
            let limit = text
                .parse()
                .map_err(|_| bad(format!("limit cannot be `{text}`")).fact("give a whole number, 0 or more"))?;
            asked.limit = Some(limit);
        } else {
            return Err(no_column(schema, name));
        }
    }
    Ok(asked)
}

fn bad(message: String) -> Error {
    Error::new(Kind::Config, "C070", message)
}

fn no_column(schema: &SchemaRef, name: &str) -> Error {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let error = bad(format!("the view has no column `{name}`"));
    let error = match nearest(name, names.iter().copied()) {
        Some(meant) => error.label(format!("did you mean `{meant}`?")),
        None => error,
    };
    error.fact(format!("columns: {}, and limit", names.join(", ")))
}

fn typed(schema: &SchemaRef, column: usize, text: &str) -> Result<Scalar<ArrayRef>> {
    let field = schema.field(column);
    let literal: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let value = cast_with_options(&literal, field.data_type(), &strict).map_err(|e| {
        let error = bad(format!("`{text}` is not a value of `{}`", field.name()))
            .label(format!("the column is {}", sql_type(field.data_type())));
        match example(field.data_type()) {
            Some(example) => error.fact(format!("write it as {example}")),
            None => error,
        }
        .because(e)
    })?;
    Ok(Scalar::new(value))
}

/// How a value is written that is not written as anyone would.
fn example(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Timestamp(..) => Some("2026-01-31T14:30:00Z"),
        DataType::Date32 => Some("2026-01-31"),
        DataType::Boolean => Some("true or false"),
        _ => None,
    }
}

/// The rows of the view that were asked for.
pub(crate) fn apply(batches: &[RecordBatch], asked: &Asked) -> Result<Vec<RecordBatch>> {
    let mut left = asked.limit.unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    for batch in batches {
        if left == 0 {
            break;
        }
        let rows = matching(batch, &asked.conditions)
            .map_err(|e| Error::internal("the rows of a view cannot be compared").because(e))?;
        let rows = rows.slice(0, rows.num_rows().min(left));
        left -= rows.num_rows();
        if rows.num_rows() > 0 {
            kept.push(rows);
        }
    }
    Ok(kept)
}

fn matching(batch: &RecordBatch, conditions: &[Condition]) -> Result<RecordBatch, ArrowError> {
    let mut keep: Option<BooleanArray> = None;
    for condition in conditions {
        let equal = eq(batch.column(condition.column), &condition.value)?;
        keep = Some(match keep {
            Some(others) => and(&others, &equal)?,
            None => equal,
        });
    }
    match keep {
        Some(keep) => filter_record_batch(batch, &keep),
        None => Ok(batch.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{Field, Int64Type, Schema};

    fn rows() -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![
            Field::new("region", DataType::Utf8, false),
            Field::new("orders", DataType::Int64, false),
        ]));
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(vec!["eu", "us", "eu"])), Arc::new(Int64Array::from(vec![1, 2, 3]))];
        RecordBatch::try_new(schema, columns).expect("a batch")
    }

    fn ask(parameters: &[(&str, &str)]) -> Result<Vec<i64>> {
        let rows = rows();
        let parameters: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let asked = read(&rows.schema(), &parameters)?;
        let kept = apply(&[rows], &asked)?;
        Ok(kept.iter().flat_map(|b| b.column(1).as_primitive::<Int64Type>().values().to_vec()).collect())
    }

    #[test]
    fn conditions_and_limit() {
        assert_eq!(ask(&[]).expect("rows"), [1, 2, 3]);
        assert_eq!(ask(&[("region", "eu")]).expect("rows"), [1, 3]);
        assert_eq!(ask(&[("region", "eu"), ("orders", "3")]).expect("rows"), [3]);
        assert_eq!(ask(&[("limit", "2")]).expect("rows"), [1, 2]);
    }

    #[test]
    fn bad_requests_say_what_is_possible() {
        assert_eq!(ask(&[("regoin", "eu")]).expect_err("refused").caret_label(), "did you mean `region`?");
        let error = ask(&[("orders", "many")]).expect_err("refused");
        assert_eq!(error.message(), "`many` is not a value of `orders`");
        assert_eq!(error.caret_label(), "the column is BIGINT");
        assert!(ask(&[("limit", "-1")]).expect_err("refused").message().contains("limit cannot be `-1`"));
    }
}
