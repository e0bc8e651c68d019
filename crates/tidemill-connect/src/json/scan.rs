//! The exact path's first half: [`Scanner`] finds the fields of a record and says where it is not JSON.
//!
//! **Invariant:** what it accepts is well-formed to the last byte, in fields that nobody asked for as well.

use std::ops::Range;

use super::text;
use crate::format::number;

/// A field of a record: the bytes of its name, quotes included, and of its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
    /// The column that it fills.
    pub(crate) column: Option<usize>,
}

/// Where a record stops being JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) expected: &'static str,
}

/// A cursor over one record.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Scanner<'a> {
    /// A cursor at `at`; `bytes` end where the record does.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Scanner<'a> {
        Scanner { bytes, at }
    }

    /// Lists the fields of the one object that the record must be. `open` is room to work in.
    pub(crate) fn record(&mut self, open: &mut Vec<u8>, entries: &mut Vec<Entry>) -> Result<(), Fault> {
        if let Err(error) = std::str::from_utf8(self.bytes) {
            return Err(Fault { at: error.valid_up_to(), expected: "UTF-8" });
        }
        self.blank();
        self.take(b'{', "`{`")?;
        self.blank();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                let start = self.at;
                let end = self.key()?;
                self.blank();
                let value = self.at;
                self.value(open)?;
                entries.push(Entry { key: start..end, value: value..self.at, column: None });
                self.blank();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return Err(self.fault("`,` or `}`")),
                }
                self.blank();
            }
            self.at += 1;
        }
        self.blank();
        if self.at < self.bytes.len() { Err(self.fault("the end of the record")) } else { Ok(()) }
    }

    /// Steps over a value of any kind and depth, without recursion: depth is the sender's choice.
    pub(crate) fn value(&mut self, open: &mut Vec<u8>) -> Result<(), Fault> {
        open.clear();
        loop {
            self.blank();
            let opened = match self.peek() {
                Some(b'"') => self.string().map(|()| false),
                Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
                Some(b't') => self.word(b"true").map(|()| false),
                Some(b'f') => self.word(b"false").map(|()| false),
                Some(b'n') => self.word(b"null").map(|()| false),
                Some(b'[') => self.enter(b']', open),
                Some(b'{') => self.enter(b'}', open),
                _ => Err(self.fault("a value")),
            }?;
            if opened {
                continue;
            }
            loop {
                let Some(closer) = open.last().copied() else { return Ok(()) };
                self.blank();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if closer == b'}' {
                            self.blank();
                            self.key()?;
                        }
                        break;
                    }
                    Some(byte) if byte == closer => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return Err(self.fault(if closer == b'}' { "`,` or `}`" } else { "`,` or `]`" })),
                }
            }
        }
    }

    /// Steps into an array or object up to its first value; `false` when it is empty and done with.
    fn enter(&mut self, closer: u8, open: &mut Vec<u8>) -> Result<bool, Fault> {
        self.at += 1;
        self.blank();
        if self.peek() == Some(closer) {
            self.at += 1;
            return Ok(false);
        }
        if closer == b'}' {
            self.key()?;
        }
        open.push(closer);
        Ok(true)
    }

    /// Steps over a name and its colon; answers where the name ends.
    fn key(&mut self) -> Result<usize, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("a field name in double quotes"));
        }
        self.string()?;
        let end = self.at;
        self.blank();
        self.take(b':', "`:`")?;
        Ok(end)
    }

    fn string(&mut self) -> Result<(), Fault> {
        match text::walk(self.bytes, self.at + 1) {
            Ok((quote, _)) => {
                self.at = quote + 1;
                Ok(())
            }
            Err(at) => {
                let expected = match self.bytes.get(at) {
                    None => "a closing quote",
                    Some(b'\\') => "a valid escape",
                    Some(_) => "an escape in place of a control character",
                };
                Err(Fault { at, expected })
            }
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        self.at = number::grammar(self.bytes, self.at).map_err(|at| Fault { at, expected: "a digit" })?;
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Fault> {
        if !self.bytes.get(self.at..).unwrap_or_default().starts_with(word) {
            return Err(self.fault("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), Fault> {
        if self.peek() != Some(byte) {
            return Err(self.fault(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fault(&self, expected: &'static str) -> Fault {
        Fault { at: self.at, expected }
    }
}
