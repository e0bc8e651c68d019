//! The first line of a stored document: what it is, its format version and the checksum of the rest.
//!
//! **Invariant:** a document that lost, gained or changed a byte is told from a whole one, and `head -1` reads it.

use serde::{Deserialize, Serialize};
use tidemill_model::{Error, Kind, Result};

/// Raised when a reader of the old format would misread the new one.
const VERSION: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    tidemill: String,
    version: u32,
    crc32c: String,
}

/// The document with its first line.
pub(crate) fn seal(what: &str, body: &[u8]) -> Vec<u8> {
    let crc = crc32c::crc32c(body);
    let mut sealed =
        format!("{{\"tidemill\":\"{what}\",\"version\":{VERSION},\"crc32c\":\"{crc:08x}\"}}\n").into_bytes();
    sealed.extend_from_slice(body);
    sealed
}

/// The document without its first line, after checking it.
pub(crate) fn open<'a>(what: &str, name: &str, sealed: &'a [u8]) -> Result<&'a [u8]> {
    let damaged = |how: &str| {
        Error::new(Kind::Corrupt, "X001", format!("the {what} {name} is damaged: {how}"))
            .fact("files of this kind are written in one step, so the disk or another program changed it")
            .fact("put it back from a backup; if there is none, remove the pipeline's state and what it has written, and run it from the start")
    };
    let end = sealed.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("its first line is cut"))?;
    let (line, body) = sealed.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let head: Head = serde_json::from_slice(line).map_err(|e| damaged("its first line cannot be read").because(e))?;
    if head.tidemill != what {
        return Err(damaged(&format!("it is a {}", head.tidemill)));
    }
    if head.version > VERSION {
        let message = format!("the {what} {name} was written by a newer Tidemill (format {})", head.version);
        return Err(Error::new(Kind::Config, "C044", message).fact("run that version, or a newer one"));
    }
    if head.crc32c != format!("{:08x}", crc32c::crc32c(body)) {
        return Err(damaged("its checksum does not match"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use tidemill_model::Kind;

    use super::{open, seal};

    #[test]
    fn every_change_is_seen() {
        let sealed = seal("manifest", b"{\"epoch\": 1}\n");
        assert_eq!(open("manifest", "f", &sealed).expect("whole"), b"{\"epoch\": 1}\n");
        for cut in 0..sealed.len() {
            assert_eq!(open("manifest", "f", &sealed[..cut]).expect_err("cut").kind(), Kind::Corrupt, "at {cut}");
        }
        for i in sealed.len() - 13..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert_eq!(open("manifest", "f", &changed).expect_err("changed").kind(), Kind::Corrupt, "at {i}");
        }
        let mut longer = sealed;
        longer.push(b' ');
        assert_eq!(open("manifest", "f", &longer).expect_err("longer").kind(), Kind::Corrupt);
    }

    #[test]
    fn a_newer_format_is_not_called_damaged() {
        let sealed = b"{\"tidemill\":\"manifest\",\"version\":3,\"crc32c\":\"00000000\"}\nwhatever";
        assert_eq!(open("manifest", "f", sealed).expect_err("newer").code(), "C044");
    }
}
