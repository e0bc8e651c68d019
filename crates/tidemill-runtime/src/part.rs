//! [`TablePart`]: which rows of a table a writer replaces.
//!
//! **Invariant:** whether a row is of a part depends on the row alone, so parts without a common row never meet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The rows of a table whose columns have one of some values each; without columns, the whole table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablePart(BTreeMap<String, BTreeSet<Option<String>>>);

impl TablePart {
    /// Whether it is the whole table.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// Only the rows in which `column` also has one of these values, each as text that casts to the column's type, or NULL.
    #[must_use]
    pub fn only(mut self, column: &str, values: impl IntoIterator<Item = Option<String>>) -> TablePart {
        let values: BTreeSet<Option<String>> = values.into_iter().collect();
        match self.0.get_mut(column) {
            Some(before) => before.retain(|value| values.contains(value)),
            None => drop(self.0.insert(column.to_owned(), values)),
        }
        self
    }

    /// Each column and the values that it has in the part.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &BTreeSet<Option<String>>)> {
        self.0.iter().map(|(column, values)| (column.as_str(), values))
    }
}

/// As a condition: `country IN ('de', 'fr') AND region = 'eu'`.
impl fmt::Display for TablePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (column, values)) in self.columns().enumerate() {
            if n > 0 {
                f.write_str(" AND ")?;
            }
            let texts: Vec<String> =
                values.iter().flatten().map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
            let some = match texts.as_slice() {
                [] => None,
                [one] => Some(format!("{column} = {one}")),
                several => Some(format!("{column} IN ({})", several.join(", "))),
            };
            match (some, values.contains(&None)) {
                (Some(some), true) => write!(f, "({some} OR {column} IS NULL)")?,
                (Some(some), false) => f.write_str(&some)?,
                (None, true) => write!(f, "{column} IS NULL")?,
                (None, false) => f.write_str("false")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::TablePart;

    #[test]
    fn a_part_is_said_as_a_condition() {
        let text = |value: &str| Some(value.to_owned());
        let part = TablePart::default().only("region", [text("eu")]).only("country", [text("fr"), text("d'e"), None]);
        assert_eq!(part.to_string(), "(country IN ('d''e', 'fr') OR country IS NULL) AND region = 'eu'");
        let none = part.only("region", [text("us")]);
        assert!(none.to_string().ends_with(" AND false") && !none.is_whole());
        assert!(TablePart::default().is_whole());
    }
}
