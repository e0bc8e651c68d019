//! Hive partitions: columns written as `key=value` folders.
//!
//! **Invariant:** what [`segment`] writes, [`pairs`] reads back unchanged.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use tidemill_model::{Error, Kind, Result};

/// What stands for NULL, as in Hive and Spark.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The `key=value` folders of a file's name; `None` is NULL.
pub(super) fn pairs(name: &str) -> Vec<(String, Option<String>)> {
    let mut segments: Vec<&str> = name.split('/').collect();
    segments.pop();
    segments
        .into_iter()
        .filter_map(|segment| segment.split_once('='))
        .map(|(key, value)| (decode(key), (value != NULL).then(|| decode(value))))
        .collect()
}

/// The folder of one value.
pub(super) fn segment(key: &str, value: Option<&str>) -> String {
    format!("{}={}", encode(key), value.map_or_else(|| NULL.to_owned(), encode))
}

/// The value as one row of a column of this type.
pub(super) fn value(text: Option<&str>, data_type: &DataType, column: &str, file: &str) -> Result<ArrayRef> {
    let Some(text) = text else { return Ok(new_null_array(data_type, 1)) };
    let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&array, data_type, &strict).map_err(|e| {
        Error::new(Kind::Config, "C316", format!("`{column}={text}` in the path of {file} is not a {data_type}"))
            .fact(format!("declare `{column}` with the type that its folders have, or rename the folder"))
            .because(e)
    })
}

/// Bytes that would part segments, or that some file systems refuse, become `%XX`.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control()
            || matches!(
                c,
                '/' | '\\'
                    | '%'
                    | '='
                    | ':'
                    | '*'
                    | '?'
                    | '"'
                    | '\''
                    | '<'
                    | '>'
                    | '|'
                    | '#'
                    | '['
                    | ']'
                    | '{'
                    | '}'
                    | '^'
            )
        {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for value in [Some("eu"), Some(""), Some("a/b=c%2F ü"), None] {
            let name = format!("{}/part.parquet", segment("re=gion", value));
            assert_eq!(name.matches('/').count(), 1, "{name}");
            assert_eq!(pairs(&name), [("re=gion".to_owned(), value.map(str::to_owned))]);
        }
        assert_eq!(pairs("a=1.parquet"), [], "the file's own name is no folder");
    }
}
