//! `tidemill reference`: the pages of the reference that are generated from the declarations in the code.

use tidemill_connect::FORMATS;
use tidemill_model::{Error, Kind, OptionKind, OptionSpec};
use tidemill_sql::language::{
    ALERT_KEYS, DATASET_OPTIONS, ENGINE_KEYS, PIPELINE_OPTIONS, POOL_DOC, PROJECT_KEYS, S3_KEYS, SCHEDULE_OPTIONS,
    SCHEDULER_KEYS, SERVER_KEYS, STATE_KEYS, TASK_OPTIONS, VIEW_OPTIONS, WAIT_OPTIONS,
};

use super::failure::{Failure, Outcome};
use super::output::Output;
use crate::registry;

/// A page's name and what writes it.
type Page = (&'static str, fn() -> String);

const PAGES: &[Page] = &[("options", options), ("settings", settings)];

pub(crate) fn reference(page: Option<&str>, output: &Output) -> Outcome {
    let Some(name) = page else {
        PAGES.iter().for_each(|(name, _)| output.line(name));
        return Ok(());
    };
    let names: Vec<&str> = PAGES.iter().map(|(name, _)| *name).collect();
    let (_, write) = PAGES.iter().find(|(page, _)| *page == name).ok_or_else(|| {
        let error = Error::new(Kind::Config, "C054", format!("no page `{name}`"));
        Failure::Usage(error.fact(format!("pages: {}", names.join(", "))))
    })?;
    output.line(write().trim_end());
    Ok(())
}

fn options() -> String {
    let mut page = String::from(
        "# Options\n\nWhat can stand in `WITH (…)`. Generated from the declarations in the code: \
         `cargo xtask docs` writes it anew.\n",
    );
    section(&mut page, "CREATE PIPELINE", "", PIPELINE_OPTIONS);
    section(&mut page, "CREATE PIPELINE, runs of intervals", "", SCHEDULE_OPTIONS);
    section(&mut page, "CREATE MATERIALIZED VIEW", "", VIEW_OPTIONS);
    section(&mut page, "CREATE TASK", "", TASK_OPTIONS);
    section(&mut page, "CREATE WAIT", "", WAIT_OPTIONS);
    section(&mut page, "CREATE TABLE, every connector", "", DATASET_OPTIONS);
    let mut connectors = registry().connectors;
    connectors.sort_by_key(|connector| connector.name());
    for connector in connectors {
        section(&mut page, &format!("connector = '{}'", connector.name()), connector.doc(), connector.options());
    }
    for format in FORMATS {
        section(&mut page, &format!("format = '{}'", format.name), format.doc, format.options);
    }
    page
}

fn settings() -> String {
    let mut page = String::from(
        "# tidemill.toml\n\nThe settings of a project. `${NAME}` in a value is replaced by the environment variable. \
         Generated from the declarations in the code: `cargo xtask docs` writes it anew.\n",
    );
    section(&mut page, "[project]", "", PROJECT_KEYS);
    section(&mut page, "[state]", "", STATE_KEYS);
    section(&mut page, "[server]", "", SERVER_KEYS);
    section(&mut page, "[engine]", "", ENGINE_KEYS);
    section(&mut page, "[scheduler]", "", SCHEDULER_KEYS);
    page.push_str(&format!("\n## [pools]\n\n{POOL_DOC}\n"));
    section(&mut page, "[alerts]", "The webhook is never shown.", ALERT_KEYS);
    section(&mut page, "[stores.s3]", "Secrets are never shown.", S3_KEYS);
    page
}

fn section(page: &mut String, title: &str, doc: &str, specs: &[OptionSpec]) {
    page.push_str(&format!("\n## {title}\n"));
    if !doc.is_empty() {
        page.push_str(&format!("\n{doc}\n"));
    }
    if specs.is_empty() {
        page.push_str("\nNo options of its own.\n");
        return;
    }
    page.push_str("\n| option | value | default | what it does |\n| --- | --- | --- | --- |\n");
    for spec in specs {
        let default = match (spec.default, spec.required) {
            (Some(default), _) => format!("`{default}`"),
            (None, true) => "required".to_owned(),
            (None, false) => String::new(),
        };
        page.push_str(&format!("| `{}` | {} | {default} | {} |\n", spec.name, shape(spec.kind), spec.doc));
    }
}

fn shape(kind: OptionKind) -> String {
    match kind {
        OptionKind::Text => "text".to_owned(),
        OptionKind::Integer => "whole number".to_owned(),
        OptionKind::Number => "number".to_owned(),
        OptionKind::Boolean => "`true`, `false`".to_owned(),
        OptionKind::Span => "length of time".to_owned(),
        OptionKind::SpanOrNone => "length of time, or `none`".to_owned(),
        OptionKind::Time => "time".to_owned(),
        OptionKind::OneOf(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
    }
}
