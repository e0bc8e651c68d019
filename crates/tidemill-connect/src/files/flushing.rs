//! [`Flushing`]: a file whose bytes go to the disk while more of them are being written.
//!
//! **Invariant:** it changes when bytes reach the disk and nothing else: only `sync_all` says that they have.

use std::fs::File;
use std::io::{self, Write};

/// After so many bytes the kernel is asked to begin writing them out. Left alone it waits for gigabytes, and the sync
/// at the end of an epoch then waits for all of them.
const STRETCH: u64 = 16 << 20;

/// A file under construction.
#[derive(Debug)]
pub(super) struct Flushing {
    file: File,
    written: u64,
    /// Up to where the kernel was asked.
    asked: u64,
}

impl Flushing {
    /// A file that was just created.
    pub(super) fn new(file: File) -> Flushing {
        Flushing { file, written: 0, asked: 0 }
    }

    /// Waits until everything is on the disk; answers how many bytes the file has.
    pub(super) fn sync_all(&self) -> io::Result<u64> {
        self.file.sync_all()?;
        Ok(self.file.metadata()?.len())
    }

    /// "Not needed" makes Linux begin to write dirty pages out, without waiting for them.
    #[cfg(target_os = "linux")]
    fn ask(&self) {
        use rustix::fs::{Advice, fadvise};
        let length = std::num::NonZeroU64::new(self.written - self.asked);
        // Advice that is not taken is time lost, and `sync_all` tells of a disk that fails.
        let _ = fadvise(&self.file, self.asked, length, Advice::DontNeed);
    }

    #[cfg(not(target_os = "linux"))]
    fn ask(&self) {}
}

impl Write for Flushing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        if self.written - self.asked >= STRETCH {
            self.ask();
            self.asked = self.written;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
