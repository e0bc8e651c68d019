//! [`Corrected`]: letters that somebody has exported, corrected by hand, and gives back.
//!
//! **Invariant:** a line names its letter; the letter enters with the bytes of the line, once, or nothing does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use serde_json::Value;
use tidemill_checkpoint::LetterId;
use tidemill_model::{Error, Kind, Result};

use super::Letter;

/// The letters of a file, each with what shall enter in its place.
#[derive(Debug, Clone)]
pub struct Corrected {
    file: String,
    /// Dataset and letter to the line of it and its text.
    lines: BTreeMap<(String, LetterId), (usize, String)>,
}

impl Corrected {
    /// Reads a file of JSON lines, as `tidemill dead-letters P --format ndjson` writes them: `letter`, `dataset` and
    /// `raw` count, the rest is left alone.
    ///
    /// # Errors
    /// Config, with the line.
    pub fn read(path: &Path, pipeline: &str) -> Result<Corrected> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path.display(), e))?;
        Corrected::parse(&path.display().to_string(), &text, pipeline)
    }

    fn parse(file: &str, text: &str, pipeline: &str) -> Result<Corrected> {
        let mut lines: BTreeMap<(String, LetterId), (usize, String)> = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let (key, raw) = letter(line, pipeline).map_err(|what| {
                Error::new(Kind::Config, "C182", format!("line {number} of {file} is no corrected letter: {what}"))
                    .fact(format!("export letters with: tidemill dead-letters {pipeline} --format ndjson"))
                    .fact("then correct `raw`, and leave `letter` and `dataset` as they are; nothing was changed")
            })?;
            if let Some((before, _)) = lines.insert(key.clone(), (number, raw)) {
                let message = format!("lines {before} and {number} of {file} correct the same letter {}", key.1);
                return Err(Error::new(Kind::Config, "C183", message).fact("leave one of them; nothing was changed"));
            }
        }
        Ok(Corrected { file: file.to_owned(), lines })
    }

    /// The tables and views whose letters they are.
    pub(super) fn datasets(&self) -> BTreeSet<&String> {
        self.lines.keys().map(|(dataset, _)| dataset).collect()
    }

    /// Those of the letters that the file has, as it has them.
    pub(super) fn applied(&self, letters: Vec<Letter>) -> Result<Vec<Letter>> {
        let mut found = Vec::with_capacity(self.lines.len());
        let mut missing: BTreeSet<&(String, LetterId)> = self.lines.keys().collect();
        for letter in letters {
            let Some(id) = letter.id else { continue };
            let key = (letter.dataset.clone(), id);
            let Some((_, text)) = self.lines.get(&key) else { continue };
            missing.remove(&key);
            // Bytes that are no text are exported in hexadecimal.
            let same = *text == hex(&letter.raw) && std::str::from_utf8(&letter.raw).is_err();
            let raw = if same { letter.raw.clone() } else { Bytes::copy_from_slice(text.as_bytes()) };
            found.push(Letter { raw, ..letter });
        }
        match missing.first().and_then(|key| Some((key, self.lines.get(*key)?))) {
            None => Ok(found),
            Some(((dataset, id), (line, _))) => {
                let message =
                    format!("`{dataset}` has no letter {id} that could enter again, line {line} of {} says", self.file);
                Err(Error::new(Kind::Config, "C184", message)
                    .fact("it has entered again already, or its result was computed anew since it was exported")
                    .fact(format!(
                        "see it with: tidemill query \"SELECT letter, replayed_epoch FROM {dataset}.dead_letters\"; nothing was changed"
                    )))
            }
        }
    }
}

type Line = ((String, LetterId), String);

fn letter(line: &str, pipeline: &str) -> std::result::Result<Line, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    if let Some(other) = text("pipeline").filter(|of| *of != pipeline) {
        return Err(format!("it is one of the pipeline `{other}`, not of `{pipeline}`"));
    }
    let dataset = text("dataset").ok_or("it has no `dataset`")?.to_owned();
    let name = text("letter").ok_or("it has no `letter`, which names it")?;
    let id = LetterId::parse(name).ok_or_else(|| format!("`{name}` names no letter; they look like 12/3"))?;
    let raw = match value.get("raw") {
        Some(Value::String(text)) => text.clone(),
        // Who corrects a JSON record may write it as JSON.
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(_) => return Err("`raw` is neither text nor an object".to_owned()),
        None => return Err("it has no `raw`, the record that shall enter".to_owned()),
    };
    Ok(((dataset, id), raw))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter_of(epoch: u64, row: u64, raw: &'static [u8]) -> Letter {
        Letter {
            dataset: "orders".to_owned(),
            id: Some(LetterId { epoch: tidemill_model::Epoch(epoch), row }),
            reason: "bad".to_owned(),
            split: "0".to_owned(),
            position: 7,
            raw: Bytes::from_static(raw),
            step: None,
            attempts: 1,
        }
    }

    #[test]
    fn lines_take_the_place_of_their_letters() {
        let text = "{\"letter\":\"1/0\",\"dataset\":\"orders\",\"raw\":\"{\\\"id\\\":1}\",\"reason\":\"bad\"}\n\n\
                    {\"letter\":\"1/2\",\"dataset\":\"orders\",\"pipeline\":\"p\",\"raw\":{\"id\":2}}\n\
                    {\"letter\":\"1/3\",\"dataset\":\"orders\",\"raw\":\"ff00\"}\n";
        let corrected = Corrected::parse("f", text, "p").expect("reads");
        let letters =
            vec![letter_of(1, 0, b"{"), letter_of(1, 1, b"other"), letter_of(1, 2, b"{"), letter_of(1, 3, b"\xff\0")];
        let applied = corrected.applied(letters.clone()).expect("all are there");
        let raw: Vec<&[u8]> = applied.iter().map(|letter| letter.raw.as_ref()).collect();
        assert_eq!(raw, [&b"{\"id\":1}"[..], b"{\"id\":2}", b"\xff\0"]);
        assert_eq!(applied[0].attempts, 1);
        let error = corrected.applied(letters[1..].to_vec()).expect_err("one is gone");
        assert_eq!(error.code(), "C184");
    }

    #[test]
    fn what_is_no_letter_is_told_by_its_line() {
        for (line, what) in [
            ("{", "EOF"),
            ("{\"dataset\":\"o\",\"raw\":\"\"}", "no `letter`"),
            ("{\"letter\":\"1/1\",\"raw\":\"\"}", "no `dataset`"),
            ("{\"letter\":\"1\",\"dataset\":\"o\",\"raw\":\"\"}", "look like 12/3"),
            ("{\"letter\":\"1/1\",\"dataset\":\"o\"}", "no `raw`"),
            ("{\"letter\":\"1/1\",\"dataset\":\"o\",\"raw\":7}", "neither text nor an object"),
            ("{\"letter\":\"1/1\",\"dataset\":\"o\",\"raw\":\"\",\"pipeline\":\"q\"}", "of the pipeline `q`"),
        ] {
            let error = Corrected::parse("f", &format!("\n{line}"), "p").expect_err(line);
            assert!(error.code() == "C182" && error.message().contains(what), "{error}");
            assert!(error.message().contains("line 2 of f"), "{error}");
        }
        let twice = "{\"letter\":\"1/1\",\"dataset\":\"o\",\"raw\":\"\"}\n".repeat(2);
        assert_eq!(Corrected::parse("f", &twice, "p").expect_err("twice").code(), "C183");
    }
}
