//! [`judge_rows`]: the expectations that are about rows, as conditions in SQL.
//!
//! **Invariant:** a row breaks at most one expectation that leaves it out: the first as they are written.

use crate::language::{Clause, Expectation, Violation};

/// How rows are judged.
#[derive(Debug, Clone, Default)]
pub(in crate::batch) struct RowsJudged {
    /// The columns that are computed beside those of the table, as items of a SELECT.
    beside: Vec<String>,
    /// Of each expectation about rows its place in the list and the condition of rows that break it.
    pub(in crate::batch) breaks: Vec<(usize, String)>,
    /// The number of the expectation that leaves a row out, or -1, as an expression.
    pub(in crate::batch) left_by: Option<String>,
}

impl RowsJudged {
    /// The table with what is computed beside its rows.
    pub(in crate::batch) fn from(&self, table: &str) -> String {
        let beside: String = self.beside.iter().map(|item| format!(", {item}")).collect();
        format!("(SELECT *{beside} FROM {table})")
    }
}

/// The conditions of these expectations over a table of these columns.
pub(in crate::batch) fn judge_rows(expectations: &[&Expectation], columns: &[String]) -> RowsJudged {
    let mut judged = RowsJudged::default();
    let mut cases = Vec::new();
    let leaves = |expectation: &Expectation| matches!(expectation.policy, Violation::DeadLetter | Violation::Drop);
    let alone: Vec<String> = expectations.iter().filter(|e| leaves(e)).filter_map(|e| of_one_row(&e.clause)).collect();
    for (at, expectation) in expectations.iter().enumerate() {
        let broken = match &expectation.clause {
            Clause::Check(_) | Clause::NotNull(_) => match of_one_row(&expectation.clause) {
                Some(broken) => broken,
                None => continue,
            },
            Clause::Unique(names) => {
                // Which of several stays follows from the rows alone. Those that are left out for what they are themselves
                // are no others of those that are not.
                let mut keys: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                if !alone.is_empty() {
                    keys.push(format!("({})", alone.join(" OR ")));
                }
                let order: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
                let number = format!("__unique_{at}");
                judged.beside.push(format!(
                    "row_number() OVER (PARTITION BY {} ORDER BY {}) AS {number}",
                    keys.join(", "),
                    order.join(", ")
                ));
                format!("({number} > 1)")
            }
            Clause::Rows { .. } | Clause::RowsLike { .. } | Clause::Fresh(_) | Clause::Query(_) => continue,
        };
        if leaves(expectation) {
            cases.push(format!("WHEN {broken} THEN {at}"));
        }
        judged.breaks.push((at, broken));
    }
    if !cases.is_empty() {
        judged.left_by = Some(format!("CASE {} ELSE -1 END", cases.join(" ")));
    }
    judged
}

/// The condition of rows that break an expectation, when each row tells that by itself.
fn of_one_row(clause: &Clause) -> Option<String> {
    match clause {
        Clause::Check(condition) => Some(format!("(({condition}) IS FALSE)")),
        Clause::NotNull(names) => {
            let absent: Vec<String> = names.iter().map(|name| format!("{} IS NULL", quoted(name))).collect();
            Some(format!("({})", absent.join(" OR ")))
        }
        _ => None,
    }
}

/// A name as SQL has it, whatever it is.
pub(in crate::batch) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
