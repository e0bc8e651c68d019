//! [`StateMemory`]: how much memory the states of a job take together, and the tier on the local disk where the rest lies.
//!
//! **Invariant:** the tier holds nothing that the checkpoints do not: no file of it is synced or outlives its job, and
//! what was left by a job that was killed is removed before the next one begins.

use std::fs;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use tidemill_model::{Error, Result};

use crate::ipc;

/// What the states of a job may take of memory, shared by its operators on all lanes.
#[derive(Debug, Clone)]
pub struct StateMemory(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    limit: usize,
    folder: Option<PathBuf>,
    taken: AtomicUsize,
    most: AtomicUsize,
    /// How many files were made, for their names.
    files: AtomicU64,
    spilled: AtomicU64,
}

impl Drop for Budget {
    fn drop(&mut self) {
        if self.files.load(Ordering::Relaxed) > 0
            && let Some(folder) = &self.folder
        {
            // What stays is removed by the next job.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

impl Default for StateMemory {
    fn default() -> StateMemory {
        StateMemory::of(usize::MAX, None)
    }
}

impl StateMemory {
    fn of(limit: usize, folder: Option<PathBuf>) -> StateMemory {
        StateMemory(Arc::new(Budget {
            limit,
            folder,
            taken: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            files: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
        }))
    }

    /// So many bytes, and a folder of this job's own for what is more. What lies there is removed.
    ///
    /// # Errors
    /// Unavailable or Config, when the folder cannot be emptied.
    pub fn open(limit: usize, folder: &Path) -> Result<StateMemory> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("empty the folder", folder.display(), error))
            }
            _ => Ok(StateMemory::of(limit, Some(folder.to_owned()))),
        }
    }

    /// What one operator takes of it.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { memory: self.clone(), own: 0 }
    }

    /// How many bytes they may take.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// How many bytes states take now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// How many bytes they have taken at most.
    #[must_use]
    pub fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// How many bytes were written to the tier.
    #[must_use]
    pub fn spilled(&self) -> u64 {
        self.0.spilled.load(Ordering::Relaxed)
    }
}

/// What one operator takes of the memory of its job.
#[derive(Debug, Default)]
pub struct Share {
    memory: StateMemory,
    own: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Share {
    /// Whether there is a bound at all: where there is none, nothing need be counted.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.memory.0.folder.is_some()
    }

    /// The operator takes so many bytes now.
    pub fn set(&mut self, bytes: usize) {
        let budget = &self.memory.0;
        if bytes >= self.own {
            let more = bytes - self.own;
            let taken = budget.taken.fetch_add(more, Ordering::Relaxed) + more;
            budget.most.fetch_max(taken, Ordering::Relaxed);
        } else {
            budget.taken.fetch_sub(self.own - bytes, Ordering::Relaxed);
        }
        self.own = bytes;
    }

    /// How many bytes the operator should move to the tier: once the bound is passed so many that an eighth of it is free,
    /// as far as they are its own.
    #[must_use]
    pub fn excess(&self) -> usize {
        let (limit, taken) = (self.memory.0.limit, self.memory.taken());
        if taken <= limit { 0 } else { (taken - limit + limit / 8).min(self.own) }
    }

    /// How many bytes more states may take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.memory.0.limit.saturating_sub(self.memory.taken())
    }

    /// How many bytes may come before the operator counts again what it takes.
    #[must_use]
    pub fn step(&self) -> usize {
        self.memory.0.limit / 64
    }

    /// A new file of the tier.
    ///
    /// # Errors
    /// Unavailable or Config, when it cannot be made.
    pub fn file(&self) -> Result<ColdWriter> {
        let budget = &self.memory.0;
        let Some(folder) = &budget.folder else { return Err(Error::internal("memory without a bound has no tier")) };
        let number = budget.files.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            fs::create_dir_all(folder).map_err(|e| Error::io("create", folder.display(), e))?;
        }
        let path = folder.join(format!("{number:08}"));
        let opened = fs::File::create(&path).or_else(|error| match error.kind() {
            // Another lane made the first file and its folder a moment ago, or is about to.
            std::io::ErrorKind::NotFound => fs::create_dir_all(folder).and_then(|()| fs::File::create(&path)),
            _ => Err(error),
        });
        let opened = opened.map_err(|e| Error::io("create", path.display(), e))?;
        let (file, memory) = (ColdFile { path, memory: self.memory.clone(), bytes: 0 }, 1 << 16);
        Ok(ColdWriter { file, into: BufWriter::with_capacity(memory, opened) })
    }
}

/// A file of the tier that is being written.
#[derive(Debug)]
pub struct ColdWriter {
    file: ColdFile,
    into: BufWriter<fs::File>,
}

impl ColdWriter {
    /// Writes behind what was written before.
    ///
    /// # Errors
    /// Unavailable, when the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.bytes += bytes.len() as u64;
        self.into.write_all(bytes).map_err(|e| Error::io("write state to", self.file.path.display(), e))
    }

    /// How many bytes were written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.file.bytes
    }

    /// The file, to be read.
    ///
    /// # Errors
    /// As [`ColdWriter::write`].
    pub fn finish(mut self) -> Result<ColdFile> {
        self.into.flush().map_err(|e| Error::io("write state to", self.file.path.display(), e))?;
        self.file.memory.0.spilled.fetch_add(self.file.bytes, Ordering::Relaxed);
        Ok(self.file)
    }
}

/// A file of the tier; it is gone when this is.
#[derive(Debug)]
pub struct ColdFile {
    path: PathBuf,
    /// Keeps the tier's folder.
    memory: StateMemory,
    bytes: u64,
}

impl Drop for ColdFile {
    fn drop(&mut self) {
        // A file that cannot be removed now goes with the folder.
        let _ = fs::remove_file(&self.path);
    }
}

impl ColdFile {
    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For reading here and there.
    ///
    /// # Errors
    /// Config, when somebody has removed it.
    pub fn open(&self) -> Result<ColdReader> {
        let file = fs::File::open(&self.path).map_err(|e| self.unread(e))?;
        Ok(ColdReader { path: self.path.clone(), file })
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`ColdFile::open`].
    pub fn read(&self) -> Result<Vec<u8>> {
        fs::read(&self.path).map_err(|e| self.unread(e))
    }

    fn unread(&self, error: std::io::Error) -> Error {
        Error::io("read state from", self.path.display(), error)
    }
}

/// A file of the tier that is being read.
#[derive(Debug)]
pub struct ColdReader {
    path: PathBuf,
    file: fs::File,
}

impl ColdReader {
    /// Goes to a place, counted from the beginning.
    ///
    /// # Errors
    /// Unavailable.
    pub fn go_to(&mut self, place: u64) -> Result<()> {
        let moved = self.file.seek(SeekFrom::Start(place));
        moved.map(drop).map_err(|e| Error::io("read state from", self.path.display(), e))
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// Unavailable.
    pub fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.file.read_exact(into).map_err(|e| Error::io("read state from", self.path.display(), e))
    }
}

/// Rows that lie in memory, in the tier, or in both.
#[derive(Debug)]
pub struct Parked {
    rows: usize,
    size: usize,
    memory: Option<RecordBatch>,
    file: Option<ColdFile>,
}

impl From<RecordBatch> for Parked {
    fn from(batch: RecordBatch) -> Parked {
        let size = bytes_of(&batch);
        Parked { rows: batch.num_rows(), size, memory: Some(batch), file: None }
    }
}

/// How many bytes the rows of a batch are.
#[must_use]
pub fn bytes_of(batch: &RecordBatch) -> usize {
    let size = |column: &arrow::array::ArrayRef| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(size).sum()
}

impl Parked {
    /// How many rows.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.rows
    }

    /// How many bytes of memory they take now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        if self.memory.is_some() { self.size } else { 0 }
    }

    /// The rows. They stay where they are.
    ///
    /// # Errors
    /// Unavailable or Corrupt, when the tier does not give them back.
    pub fn read(&self) -> Result<RecordBatch> {
        match (&self.memory, &self.file) {
            (Some(batch), _) => Ok(batch.clone()),
            (None, Some(file)) => {
                let (_, mut batches) = ipc::decode_batches(&file.read()?)?;
                batches.pop().ok_or_else(|| Error::internal("a parked batch is gone"))
            }
            (None, None) => Err(Error::internal("a parked batch is nowhere")),
        }
    }

    /// The rows, which lie in memory from now on until they are parked again.
    ///
    /// # Errors
    /// As [`Parked::read`].
    pub fn recall(&mut self) -> Result<&RecordBatch> {
        let batch = self.read()?;
        Ok(self.memory.insert(batch))
    }

    /// Moves the rows to the tier. Those that were there once need not be written again.
    ///
    /// # Errors
    /// Unavailable, when the disk is full.
    pub fn park(&mut self, share: &Share) -> Result<()> {
        if let (None, Some(batch)) = (&self.file, &self.memory) {
            let mut file = share.file()?;
            file.write(&ipc::encode_batch(batch)?)?;
            self.file = Some(file.finish()?);
        }
        self.memory = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", column)]).expect("a batch")
    }

    #[test]
    fn a_share_gives_back_what_is_over_the_bound_and_no_more_than_it_has() {
        let folder = std::env::temp_dir().join("tidemill-memory-shares");
        let memory = StateMemory::open(800, &folder).expect("a budget");
        let (mut one, mut other) = (memory.share(), memory.share());
        one.set(700);
        other.set(100);
        assert_eq!((one.excess(), other.excess(), memory.taken()), (0, 0, 800));
        other.set(150);
        assert_eq!((one.excess(), other.excess()), (150, 150));
        one.set(600);
        assert_eq!((one.excess(), other.excess(), memory.most()), (0, 0, 850));
        drop(one);
        assert_eq!(memory.taken(), 150);
        assert!(!StateMemory::default().share().is_bounded());
    }

    #[test]
    fn rows_are_the_same_after_they_were_parked_and_leave_no_file() {
        let folder = std::env::temp_dir().join("tidemill-memory-parked");
        std::fs::create_dir_all(folder.join("left/by")).expect("a folder");
        let memory = StateMemory::open(1, &folder).expect("a budget");
        assert!(!folder.exists(), "what a killed job left is gone");
        let share = memory.share();
        let mut parked = Parked::from(batch(1_000));
        assert_eq!((parked.num_rows(), parked.bytes()), (1_000, 8_000));
        parked.park(&share).expect("parks");
        assert_eq!((parked.num_rows(), parked.bytes()), (1_000, 0));
        assert_eq!(parked.read().expect("reads"), batch(1_000));
        assert_eq!(parked.bytes(), 0);
        assert_eq!(parked.recall().expect("reads"), &batch(1_000));
        let written = memory.spilled();
        parked.park(&share).expect("parks");
        assert_eq!((parked.bytes(), memory.spilled()), (0, written), "it is written once");
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1);
        drop(parked);
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0);
        drop((share, memory));
        assert!(!folder.exists());
    }
}
