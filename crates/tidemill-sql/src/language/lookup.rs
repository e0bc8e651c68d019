//! Names that are looked up: the pipeline of a name, and what to say of a name that is none.
//!
//! **Invariant:** every command and query that takes a name asks here, so that all of them answer with the nearest name
//! and with all there are.

use tidemill_model::{Error, Kind, Result, nearest};

use super::model::{Pipeline, Project};

/// The table below each dataset's name that holds its dead letters.
pub(crate) const DEAD_LETTERS: &str = "dead_letters";
/// The table below the name of each table that is written and each materialized view that holds its late rows.
pub(crate) const LATE: &str = "late";

impl Project {
    /// The pipeline of this name.
    ///
    /// # Errors
    /// Config, with the nearest name and those that there are.
    pub fn pipeline(&self, name: &str) -> Result<&Pipeline> {
        self.pipelines.get(name).ok_or_else(|| self.no_pipeline(name))
    }

    /// The pipelines that write this table or keep this materialized view, in the order of their names.
    #[must_use]
    pub fn writers(&self, name: &str) -> Vec<&Pipeline> {
        let writes = |pipeline: &&Pipeline| {
            pipeline.inserts.iter().any(|insert| insert.target == name)
                || pipeline.materialized.iter().any(|view| view == name)
        };
        self.pipelines.values().filter(writes).collect()
    }

    fn no_pipeline(&self, name: &str) -> Error {
        let known: Vec<&str> = self.pipelines.keys().map(String::as_str).collect();
        let list = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        let list = format!("pipelines: {list}");
        let of_file = |pipeline: &&Pipeline| {
            *pipeline.file == *name || pipeline.file.strip_prefix("pipelines/").is_some_and(|file| file == name)
        };
        let did_you_mean = |meant: &str| format!("did you mean `{meant}`?");
        if let Some(what) = self.relation(name) {
            let error = Error::new(Kind::Config, "C022", format!("`{name}` is a {what}, not a pipeline"));
            let error = match self.writers(name)[..] {
                [only] => error.label(format!("did you mean `{}`, which writes it?", only.name)),
                _ => error,
            };
            return error.fact(list);
        }
        let error = Error::new(Kind::Config, "C022", format!("no pipeline `{name}` in this project"));
        if let Some(pipeline) = self.pipelines.values().find(of_file) {
            return error.label(did_you_mean(&pipeline.name)).fact(list);
        }
        match nearest(name, known.iter().copied()) {
            Some(meant) => error.label(did_you_mean(meant)).fact(list),
            None => error.fact(list),
        }
    }

    /// What a name of a table or view stands for.
    fn relation(&self, name: &str) -> Option<&'static str> {
        if self.datasets.contains_key(name) {
            Some("table")
        } else if self.materialized.contains_key(name) {
            Some("materialized view")
        } else if self.views.contains_key(name) {
            Some("view")
        } else {
            None
        }
    }

    /// Why a name that stands in FROM and is no table is none, when more can be said than that.
    pub(crate) fn misnamed(&self, schema: Option<&str>, table: &str) -> Option<Error> {
        let refused = |message: String| Error::new(Kind::Plan, "P105", message);
        match schema {
            None if table == DEAD_LETTERS => Some(
                refused("dead letters belong to a table".to_owned())
                    .fact(format!("write its name before them: {}", self.all_dead_letters())),
            ),
            None => {
                let pipeline = self.pipelines.get(table)?;
                let targets = pipeline.inserts.iter().map(|insert| insert.target.as_str());
                let written: Vec<&str> = targets.chain(pipeline.materialized.iter().map(String::as_str)).collect();
                let error = refused(format!("`{table}` is a pipeline, not a table"));
                Some(match written[..] {
                    [only] => error.label(format!("did you mean `{only}`, which it writes?")),
                    _ => error.fact(format!("it writes {}", written.join(", "))),
                })
            }
            Some(dataset) if self.datasets.contains_key(dataset) => Some(
                refused(format!("no table `{dataset}.{table}`"))
                    .label(format!("did you mean `{dataset}.{DEAD_LETTERS}`?"))
                    .fact(format!("below a table there are {DEAD_LETTERS} and, where a pipeline writes it, {LATE}")),
            ),
            Some(other) if table == DEAD_LETTERS => {
                let error = match self.relation(other) {
                    Some(what) => refused(format!("`{other}` is a {what} and has no dead letters"))
                        .fact("the tables that it reads have them"),
                    None => refused(format!("no table `{other}`")),
                };
                let error = match nearest(other, self.datasets.keys().map(String::as_str)) {
                    Some(meant) => error.label(format!("did you mean `{meant}.{DEAD_LETTERS}`?")),
                    None => error,
                };
                Some(error.fact(format!("there are {}", self.all_dead_letters())))
            }
            Some(_) => None,
        }
    }

    fn all_dead_letters(&self) -> String {
        let names: Vec<String> = self.datasets.keys().map(|name| format!("{name}.{DEAD_LETTERS}")).collect();
        if names.is_empty() { "none: no table is declared".to_owned() } else { names.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::{Config, Script};
    use super::Project;

    fn shop() -> Project {
        let sql = "CREATE PIPELINE revenue; CREATE TABLE orders (id BIGINT) WITH (connector = 'x'); \
                   CREATE TABLE kept (id BIGINT) WITH (connector = 'x'); \
                   INSERT INTO kept SELECT id FROM orders; CREATE MATERIALIZED VIEW per_minute AS SELECT id FROM orders;";
        let config = Config::parse(Path::new("/shop"), "", &|_| None).expect("a config");
        Project::parse(PathBuf::from("/shop"), config, &[Script::new("pipelines/sales.sql", sql)]).expect("a project")
    }

    #[test]
    fn a_pipeline_that_is_none_is_told_with_the_nearest() {
        let shop = shop();
        for (name, message, label) in [
            ("revenu", "no pipeline `revenu` in this project", "did you mean `revenue`?"),
            ("sales.sql", "no pipeline `sales.sql` in this project", "did you mean `revenue`?"),
            ("pipelines/sales.sql", "no pipeline `pipelines/sales.sql` in this project", "did you mean `revenue`?"),
            (
                "per_minute",
                "`per_minute` is a materialized view, not a pipeline",
                "did you mean `revenue`, which writes it?",
            ),
            ("orders", "`orders` is a table, not a pipeline", ""),
        ] {
            let error = shop.pipeline(name).expect_err("refused");
            assert_eq!((error.message(), error.caret_label()), (message, label));
            assert_eq!(error.facts(), ["pipelines: revenue"]);
        }
    }

    #[test]
    fn a_table_that_is_none_is_told_with_what_was_meant() {
        let shop = shop();
        for (schema, table, message, label) in [
            (None, "revenue", "`revenue` is a pipeline, not a table", ""),
            (None, "dead_letters", "dead letters belong to a table", ""),
            (Some("orders"), "dead_leters", "no table `orders.dead_leters`", "did you mean `orders.dead_letters`?"),
            (Some("ordrs"), "dead_letters", "no table `ordrs`", "did you mean `orders.dead_letters`?"),
            (Some("per_minute"), "dead_letters", "`per_minute` is a materialized view and has no dead letters", ""),
        ] {
            let error = shop.misnamed(schema, table).expect("known to be wrong");
            assert_eq!((error.message(), error.caret_label()), (message, label));
        }
        assert!(shop.misnamed(None, "ordrs").is_none(), "the planner names the nearest of all");
    }
}
