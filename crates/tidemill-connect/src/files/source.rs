//! [`FilesSource`]: lists the files of a dataset as splits and opens them.
//!
//! **Invariant:** a file is immutable once it was listed. One that changes is reported instead of being read in part;
//! a split's name depends on nothing but the file's name and its place in the file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use tidemill_model::{Error, Kind, Offset, Result, SplitId, Timestamp};
use tidemill_runtime::{Boundedness, DatasetSpec, Environment, ReadHints, Source, Split, SplitReader, Version};

use super::columns::declared;
use super::config::Encoding;
use super::footers::Footers;
use super::hive;
use super::lines::{LineReader, Span};
use super::location::{Entry, Location, Place};
use super::pruning::ruled_out_by_path;
use super::remote::RemoteRead;
use super::row_groups::{Footer, NothingNeeded, RowGroupReader, replaced};

/// Files of lines are divided into ranges of this many bytes, so that lanes share one large file. Part of the names
/// of splits: it must never change.
const RANGE: u64 = 64 << 20;
/// How many footers are read at the same time in an object store.
const AT_ONCE: usize = 8;

/// The files of a dataset.
#[derive(Debug)]
pub(super) struct FilesSource {
    location: Location,
    encoding: Encoding,
    bounded: bool,
    schema: SchemaRef,
    event_time: Option<String>,
    footers: Arc<Footers>,
    known: Mutex<Known>,
}

/// What earlier listings found.
#[derive(Debug, Default)]
struct Known {
    listed: bool,
    files: BTreeMap<String, KnownFile>,
}

#[derive(Debug)]
struct KnownFile {
    size: u64,
    /// When it came, if that was while this source was open: the rows of older files wait for nobody.
    arrived: Option<Timestamp>,
    splits: Vec<Split>,
    /// Of Parquet how many rows each split has, and whether the path's columns are only in the path.
    parts: Vec<(u64, bool)>,
}

/// The splits of a file and, of Parquet, the facts of each (see [`KnownFile::parts`]).
type Splits = (Vec<Split>, Vec<(u64, bool)>);

/// A split's name: a file and, when that has several splits, which of them.
#[derive(Debug, PartialEq, Eq)]
struct SplitName<'a> {
    file: &'a str,
    part: Part,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// The whole file, or its first range.
    First,
    /// The lines that begin behind the first byte up to the last one.
    Bytes(u64, u64),
    /// These row groups.
    Groups(Range<usize>),
}

impl fmt::Display for SplitName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::First => f.write_str(self.file),
            Part::Bytes(start, end) => write!(f, "{}@{start}-{end}", self.file),
            Part::Groups(groups) => write!(f, "{}@g{}-{}", self.file, groups.start, groups.end),
        }
    }
}

impl<'a> SplitName<'a> {
    fn parse(id: &'a str) -> SplitName<'a> {
        let part = |text: &str| {
            let (groups, range) = match text.strip_prefix('g') {
                Some(range) => (true, range),
                None => (false, text),
            };
            let (start, end) = range.split_once('-')?;
            Some(if groups {
                Part::Groups(start.parse().ok()?..end.parse().ok()?)
            } else {
                let (start, end) = (start.parse().ok()?, end.parse().ok()?);
                // Any other range is no name of ours, but the end of a file's name.
                (start % RANGE == 0 && end == start + RANGE).then_some(Part::Bytes(start, end))?
            })
        };
        match id.rsplit_once('@').and_then(|(file, text)| Some((file, part(text)?))) {
            Some((file, part)) => SplitName { file, part },
            None => SplitName { file: id, part: Part::First },
        }
    }
}

impl FilesSource {
    pub(super) fn open(spec: &DatasetSpec, env: &Environment, footers: &Arc<Footers>) -> Result<FilesSource> {
        let source = FilesSource::at(Location::parse(spec.settings.text("path").unwrap_or_default(), env)?, spec)?;
        Ok(FilesSource { footers: Arc::clone(footers), ..source })
    }

    pub(super) fn at(location: Location, spec: &DatasetSpec) -> Result<FilesSource> {
        Ok(FilesSource {
            location,
            encoding: Encoding::of(spec)?,
            bounded: spec.settings.is("bounded"),
            schema: SchemaRef::clone(&spec.schema),
            event_time: spec.event_time.clone(),
            footers: Arc::default(),
            known: Mutex::default(),
        })
    }

    /// The columns that the first file has, for a dataset that declares none.
    pub(super) fn discover(&self) -> Result<SchemaRef> {
        let Encoding::Parquet(_) = self.encoding else {
            return Err(Error::new(
                Kind::Config,
                "C321",
                format!("the columns of `{}` are not known", self.location.shown),
            )
            .fact("declare the columns: files of this format do not say what they hold"));
        };
        let entries = self.location.list(false)?;
        let first = entries.first().ok_or_else(|| Error::internal("a listing without files is an error"))?;
        Ok(declared(Footer::read(&first.place, &self.shown(&first.name))?.metadata.schema(), &first.name))
    }

    /// A file's name in messages.
    fn shown(&self, name: &str) -> String {
        if self.location.shown.ends_with(name) {
            return self.location.shown.clone();
        }
        format!("{name} in {}", self.location.shown)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A listing that panicked left out files at worst; the next one finds them.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn splits_of(&self, entry: &Entry) -> Result<Splits> {
        let (size, modified, mark) = (entry.size, entry.modified, &entry.mark);
        let content = format!("{:08x}", crc32c::crc32c(format!("{size}\0{modified:?}\0{mark}").as_bytes()));
        let split = |part: Part, (least, greatest): (Option<i64>, Option<i64>), bytes: u64| Split {
            id: SplitId::new(SplitName { file: &entry.name, part }.to_string()),
            finite: true,
            min_event_time: least,
            max_event_time: greatest,
            bytes: Some(bytes),
            content: Some(content.clone()),
        };
        match &self.encoding {
            Encoding::Parquet(_) => {
                let footer = || Footer::read(&entry.place, &self.shown(&entry.name));
                let read = || Ok(footer()?.parts(&entry.name, self.event_time.as_deref()));
                let column = self.event_time.as_deref().unwrap_or_default();
                let parts = self.footers.of(&format!("{:?} {content} {column}", entry.place), read)?;
                let single = parts.len() == 1;
                let named = |groups: Range<usize>| if single { Part::First } else { Part::Groups(groups) };
                let facts = parts.iter().map(|part| (part.rows, part.path_is_apart)).collect();
                let splits = parts
                    .into_iter()
                    .map(|part| split(named(part.groups), (part.least, part.greatest), part.bytes))
                    .collect();
                Ok((splits, facts))
            }
            Encoding::Lines { .. } => {
                let ranges = (0..entry.size.div_ceil(RANGE)).map(|n| {
                    let start = n * RANGE;
                    let part = if n == 0 { Part::First } else { Part::Bytes(start, start + RANGE) };
                    split(part, (None, None), RANGE.min(entry.size - start))
                });
                Ok((ranges.collect(), Vec::new()))
            }
        }
    }

    /// The splits of new files; footers in an object store are read several at a time, as each is a round trip.
    fn splits_of_all(&self, entries: &[&Entry]) -> Result<Vec<Splits>> {
        let remote = matches!(self.location.root, Place::Remote(_)) && matches!(self.encoding, Encoding::Parquet(_));
        if !remote {
            return entries.iter().map(|entry| self.splits_of(entry)).collect();
        }
        let mut found = Vec::with_capacity(entries.len());
        for some in entries.chunks(AT_ONCE) {
            let answers: Vec<Result<Splits>> = std::thread::scope(|scope| {
                let threads: Vec<_> = some.iter().map(|entry| scope.spawn(|| self.splits_of(entry))).collect();
                let stopped = |_| Err(Error::internal("reading a footer panicked"));
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(stopped)).collect()
            });
            for answer in answers {
                found.push(answer?);
            }
        }
        Ok(found)
    }

    fn open_lines(&self, name: &SplitName<'_>, resume: Option<&Offset>, hints: &ReadHints) -> Result<LineReader> {
        let shown = self.shown(name.file);
        let span = self.span(name, resume, &shown)?;
        let place = self.location.find(name.file)?;
        let wanted = hints.schema.as_ref().unwrap_or(&self.schema);
        let input: Box<dyn Read + Send> = match &place {
            Place::Local(path) => {
                let failed = |e| Error::io("open", path.display(), e);
                let mut file = File::open(path).map_err(failed)?;
                check_size(span.start, file.metadata().map_err(failed)?.len(), &shown)?;
                file.seek(SeekFrom::Start(span.start)).map_err(failed)?;
                Box::new(file)
            }
            Place::Remote(remote) => {
                let meta = remote.head()?.ok_or_else(|| replaced(&shown, "object any more"))?;
                check_size(span.start, meta.size, &shown)?;
                Box::new(RemoteRead::new(remote.clone(), span.start, meta.size, span.end))
            }
        };
        // A CSV file's header says itself whether a declared column is missing.
        if self.encoding.extension() == "jsonl" && !hive::pairs(name.file).is_empty() {
            refuse_path_columns(&place, name.file, wanted, &shown)?;
        }
        Ok(LineReader::new(shown, input, span, self.arrived(name.file)))
    }

    fn span(&self, name: &SplitName<'_>, resume: Option<&Offset>, shown: &str) -> Result<Span> {
        let (start, end) = match &name.part {
            Part::First => (0, RANGE),
            Part::Bytes(start, end) => (*start, *end),
            Part::Groups(_) => return Err(replaced(shown, "row groups")),
        };
        let Some(offset) = resume else { return Ok(Span { start, inside: start > 0, end }) };
        let start = offset.as_number().ok_or_else(|| replaced(shown, &format!("position {offset}")))?;
        Ok(Span { start, inside: false, end })
    }

    /// How many rows a split has whose columns of the path are nowhere else.
    fn rows_by_path(&self, split: &Split, file: &str) -> Option<u64> {
        let known = self.known();
        let file = known.files.get(file)?;
        let at = file.splits.iter().position(|known| known.id == split.id)?;
        file.parts.get(at).filter(|(_, path_is_apart)| *path_is_apart).map(|(rows, _)| *rows)
    }

    fn arrived(&self, file: &str) -> Option<Timestamp> {
        self.known().files.get(file).and_then(|known| known.arrived)
    }
}

fn check_size(start: u64, size: u64, shown: &str) -> Result<()> {
    if start > size { Err(replaced(shown, &format!("byte {start}"))) } else { Ok(()) }
}

/// Records of lines carry their own columns; a column that only the path has would silently be NULL.
fn refuse_path_columns(place: &Place, name: &str, wanted: &SchemaRef, shown: &str) -> Result<()> {
    let mut first = String::new();
    let read = match place {
        Place::Local(path) => File::open(path).and_then(|file| BufReader::new(file).read_line(&mut first)),
        Place::Remote(remote) => {
            let size = remote.head()?.map_or(0, |meta| meta.size);
            BufReader::new(RemoteRead::new(remote.clone(), 0, size.min(64 << 10), 0)).read_line(&mut first)
        }
    };
    // What cannot be read as text is the decoder's to report, record by record.
    let Ok(serde_json::Value::Object(record)) = serde_json::from_str(read.map(|_| first.as_str()).unwrap_or_default())
    else {
        return Ok(());
    };
    for (key, value) in hive::pairs(name) {
        if wanted.index_of(&key).is_ok() && !record.contains_key(&key) && value.is_some() {
            let message = format!("column `{key}` stands only in the path of {shown}, not in its records");
            return Err(Error::new(Kind::Config, "C322", message).fact(
                "columns are taken from the path for Parquet only; write the column into the records, or leave it out",
            ));
        }
    }
    Ok(())
}

impl Source for FilesSource {
    fn boundedness(&self) -> Boundedness {
        if self.bounded { Boundedness::Bounded } else { Boundedness::Unbounded }
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        let mut known = self.known();
        if known.listed && self.bounded {
            return Ok(known.files.values().flat_map(|file| file.splits.iter().cloned()).collect());
        }
        let mut entries = self.location.list(!self.bounded)?;
        // An empty file is one that somebody is about to write.
        entries.retain(|entry| entry.size > 0);
        for entry in &entries {
            match known.files.get(&entry.name) {
                Some(file) if file.size != entry.size => {
                    return Err(changed(&self.shown(&entry.name), file.size, entry.size));
                }
                _ => refuse_compressed(&entry.name, &self.shown(&entry.name))?,
            }
        }
        let new: Vec<&Entry> = entries.iter().filter(|entry| !known.files.contains_key(&entry.name)).collect();
        let splits = self.splits_of_all(&new)?;
        for (entry, (splits, parts)) in new.into_iter().zip(splits) {
            let arrived = entry.modified.filter(|_| known.listed);
            known.files.insert(entry.name.clone(), KnownFile { size: entry.size, arrived, splits, parts });
        }
        known.listed = true;
        let present = entries.iter().filter_map(|entry| known.files.get(&entry.name));
        Ok(present.flat_map(|file| file.splits.iter().cloned()).collect())
    }

    /// Which files there are, and when and how large each was written.
    fn version(&self) -> Result<Option<Version>> {
        let entries = self.location.list(!self.bounded)?;
        let mut crc = 0;
        let mut newest = None;
        for entry in &entries {
            let (name, size, modified, mark) = (&entry.name, entry.size, entry.modified, &entry.mark);
            crc = crc32c::crc32c_append(crc, format!("{name}\0{size}\0{modified:?}\0{mark}\0").as_bytes());
            newest = newest.max(entry.modified);
        }
        let files = if entries.len() == 1 { "1 file".to_owned() } else { format!("{} files", entries.len()) };
        let newest = newest.map(|at| format!(" of {at}")).unwrap_or_default();
        Ok(Some(Version { token: format!("{files}{newest}, {crc:08x}"), grows: false }))
    }

    fn open(&self, split: &Split, resume: Option<&Offset>, hints: &ReadHints) -> Result<Box<dyn SplitReader>> {
        let name = SplitName::parse(split.id.as_str());
        if let Encoding::Lines { .. } = self.encoding {
            return Ok(Box::new(self.open_lines(&name, resume, hints)?));
        }
        let shown = self.shown(name.file);
        let groups = match &name.part {
            Part::First => None,
            Part::Groups(groups) => Some(groups.clone()),
            Part::Bytes(..) => return Err(replaced(&shown, "lines")),
        };
        if resume.is_none()
            && let Some(rows) = self.rows_by_path(split, name.file)
            && ruled_out_by_path(name.file, hints)?
        {
            return Ok(Box::new(NothingNeeded { rows }));
        }
        let footer = Footer::read(&self.location.find(name.file)?, &shown)?;
        let wanted = match &hints.schema {
            Some(schema) => SchemaRef::clone(schema),
            None if self.schema.fields().is_empty() => declared(footer.metadata.schema(), name.file),
            None => SchemaRef::clone(&self.schema),
        };
        let arrived = self.arrived(name.file);
        Ok(Box::new(RowGroupReader::open(footer, name.file, groups, resume, &wanted, hints, arrived)?))
    }
}

fn changed(shown: &str, before: u64, now: u64) -> Error {
    let message = format!("{shown} had {before} bytes when it was listed and now has {now}");
    Error::new(Kind::Config, "C323", message).fact(
        "a file is read once and must not change: write it under a name that begins with `_` and rename it when it is \
         whole; for appending use connector = 'log'",
    )
}

fn refuse_compressed(name: &str, shown: &str) -> Result<()> {
    match name.rsplit_once('.') {
        Some((_, "gz" | "zst" | "bz2" | "xz" | "zip" | "lz4")) => {
            Err(Error::new(Kind::Config, "C324", format!("{shown} is compressed"))
                .fact("decompress it, or leave it out by a glob such as '**/*.jsonl'; Parquet is compressed inside"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names_are_read_back() {
        for (text, file, part) in [
            ("a/b.jsonl", "a/b.jsonl", Part::First),
            ("b.jsonl@67108864-134217728", "b.jsonl", Part::Bytes(RANGE, 2 * RANGE)),
            ("b.parquet@g3-7", "b.parquet", Part::Groups(3..7)),
            ("mail@1-2", "mail@1-2", Part::First),
        ] {
            let name = SplitName::parse(text);
            assert_eq!(name, SplitName { file, part });
            assert_eq!(name.to_string(), text);
        }
    }
}
