//! Offsets to replay from, as they are typed or as a file has them.
//!
//! **Invariant:** an offset is at or before the one on record, of a split that is on record: a replay reads what was read.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tidemill_checkpoint::Manifest;
use tidemill_model::{Error, Kind, Offset, Result, SplitId};
use tidemill_runtime::exec::Starts;

fn wrong(message: String) -> Error {
    Error::new(Kind::Config, "C188", message)
        .fact("write SOURCE/SPLIT=OFFSET, several with commas between: raw_orders/raw-orders/3=1200,raw_orders/raw-orders/4=88")
        .fact("or @FILE, with the offsets as tidemill watermarks P --format json prints them")
        .fact("splits that are not named are read from their beginning")
}

/// Reads `raw_orders/raw-orders/3=1200,raw_orders/raw-orders/4=88`.
///
/// # Errors
/// Config.
pub fn parse(text: &str) -> Result<Starts> {
    let mut starts = Starts::new();
    for part in text.split(',').map(str::trim) {
        let named = part.rsplit_once('=').and_then(|(name, offset)| Some((name.split_once('/')?, offset.trim())));
        let Some(((source, split), offset)) =
            named.filter(|((source, split), offset)| !source.is_empty() && !split.is_empty() && !offset.is_empty())
        else {
            return Err(wrong(format!("`{part}` names no offset of a split")));
        };
        add(&mut starts, source, split, offset)?;
    }
    Ok(starts)
}

/// Reads a file of offsets: `{"raw_orders": {"3": "1200"}}`, or what `tidemill watermarks --format json` prints, where
/// the splits without an offset are left out.
///
/// # Errors
/// Config.
pub fn read(path: &Path) -> Result<Starts> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path.display(), e))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|e| wrong(format!("{} is no JSON", path.display())).because(e))?;
    of_json(&value)?.ok_or_else(|| wrong(format!("{} holds no offsets", path.display())))
}

fn of_json(value: &Value) -> Result<Option<Starts>> {
    let mut starts = Starts::new();
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let pipelines: Vec<&Value> = match value {
        Value::Array(pipelines) => pipelines.iter().collect(),
        one => vec![one],
    };
    for pipeline in pipelines {
        if let Some(sources) = pipeline.get("sources").and_then(Value::as_array) {
            for source in sources {
                let Some(name) = source.get("source").and_then(Value::as_str) else { return Ok(None) };
                for split in source.get("splits").and_then(Value::as_array).into_iter().flatten() {
                    let Some(id) = split.get("split").and_then(Value::as_str) else { return Ok(None) };
                    if let Some(offset) = split.get("offset").and_then(text) {
                        add(&mut starts, name, id, &offset)?;
                    }
                }
            }
            continue;
        }
        let Some(sources) = pipeline.as_object() else { return Ok(None) };
        for (source, splits) in sources {
            let Some(splits) = splits.as_object() else { return Ok(None) };
            for (split, offset) in splits {
                let Some(offset) = text(offset) else { return Ok(None) };
                add(&mut starts, source, split, &offset)?;
            }
        }
    }
    Ok((!starts.is_empty()).then_some(starts))
}

fn add(starts: &mut Starts, source: &str, split: &str, offset: &str) -> Result<()> {
    let splits = starts.entry(source.to_owned()).or_default();
    match splits.insert(SplitId::new(split), Offset(offset.to_owned())) {
        None => Ok(()),
        Some(_) => Err(wrong(format!("split {split} of `{source}` is named twice"))),
    }
}

/// Refuses offsets of what is not on record, and those behind it.
pub(super) fn check(starts: &Starts, record: &Manifest) -> Result<()> {
    let known = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join(", ");
    for (source, splits) in starts {
        let Some(progress) = record.sources.get(source) else {
            let names = known(&mut record.sources.keys().cloned());
            return Err(wrong(format!("the pipeline has read no `{source}`")).fact(format!("it has read: {names}")));
        };
        let begun: BTreeMap<&SplitId, &Option<Offset>> = progress
            .splits
            .iter()
            .filter(|(_, split)| split.is_begun())
            .map(|(id, split)| (id, &split.offset))
            .collect();
        for (split, offset) in splits {
            let Some(read) = begun.get(split) else {
                // The ids of a topic's partitions begin with the topic.
                let meant = begun.keys().find(|id| id.to_string().ends_with(&format!("/{split}")));
                let names = known(&mut begun.keys().take(20).map(ToString::to_string));
                let error = wrong(format!("no split `{split}` of `{source}` was read"));
                return Err(match meant {
                    Some(id) => error.label(format!("did you mean {source}/{id}={offset}?")),
                    None => error.fact(format!("splits, to be written {source}/SPLIT={offset}: {names}")),
                });
            };
            if let Some(read) = read.as_ref().filter(|read| is_behind(offset, read)) {
                let message = format!("offset {offset} of split {split} of `{source}` lies behind what was read");
                return Err(Error::new(Kind::Config, "C189", message)
                    .fact(format!("it was read up to {read}, and a replay reads up to there"))
                    .fact("nothing was changed"));
            }
        }
    }
    Ok(())
}

/// Whether an offset surely lies behind another: both are numbers, or rows of numbered groups.
fn is_behind(offset: &Offset, read: &Offset) -> bool {
    let numbers =
        |offset: &Offset| offset.0.split(':').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    match (numbers(offset), numbers(read)) {
        (Some(offset), Some(read)) => offset.len() == read.len() && offset > read,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[(&str, &str, &str)]) -> Starts {
        let mut starts = Starts::new();
        parts.iter().for_each(|(source, split, offset)| add(&mut starts, source, split, offset).expect("once"));
        starts
    }

    #[test]
    fn offsets_are_read() {
        let two = of(&[("raw", "3", "1200"), ("raw", "4", "88")]);
        assert_eq!(parse("raw/3=1200,raw/4=88").expect("reads"), two);
        assert_eq!(parse("raw/a/b=c.jsonl=7").expect("reads"), of(&[("raw", "a/b=c.jsonl", "7")]));
        for text in ["latest", "raw=1", "raw/=1", "/3=1", "raw/3=", "raw/3=1,", "raw/3=1,raw/3=2"] {
            assert_eq!(parse(text).expect_err(text).code(), "C188", "{text}");
        }
        for text in [
            r#"{"raw": {"3": 1200, "4": "88"}}"#,
            r#"[{"pipeline": "p", "sources": [{"source": "raw", "splits": [{"split": "3", "offset": "1200"},
                {"split": "4", "offset": "88"}, {"split": "5", "offset": null}]}]}]"#,
        ] {
            let value = serde_json::from_str(text).expect("JSON");
            assert_eq!(of_json(&value).expect("reads"), Some(two.clone()), "{text}");
        }
        for text in ["[]", "7", "{}", r#"{"raw": 7}"#, r#"{"raw": {"3": null}}"#] {
            assert_eq!(of_json(&serde_json::from_str(text).expect("JSON")).expect("reads"), None, "{text}");
        }
    }

    #[test]
    fn behind() {
        let is = |a: &str, b: &str| is_behind(&Offset(a.to_owned()), &Offset(b.to_owned()));
        assert!(is("11", "9") && is("1:3", "1:2") && is("2:0", "1:9"));
        assert!(!is("9", "9") && !is("9", "11") && !is("1:9", "2:0") && !is("x", "1") && !is("1:2", "1"));
    }
}
