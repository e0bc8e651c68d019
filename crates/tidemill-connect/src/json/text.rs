//! JSON strings, eight bytes at a step: [`read`] and [`skip`] take them in, [`write`] puts them out.
//!
//! **Invariant:** a string that is taken in has no control character, only known escapes, no lone surrogate, and is
//! UTF-8; what is put out, too.

use crate::format::number::load;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The high bit of the first byte of the word that is a quote, a backslash or a control character; bits above it mean
/// nothing.
#[inline]
fn special(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (control | quote | backslash) & HIGH
}

/// Appends the string whose opening quote is before `at`; answers the byte behind its closing quote. When it is not
/// well-formed the answer is `None` and what was appended is for the caller to take back.
#[inline]
pub(super) fn read(bytes: &[u8], mut at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    let mut seen = 0;
    loop {
        let word = load(bytes, at);
        let stop = special(word);
        // Always eight bytes, the surplus cut off after: a copy of constant length is one store.
        out.extend_from_slice(&word.to_le_bytes());
        if stop == 0 {
            seen |= word;
            at += 8;
            continue;
        }
        let bits = stop.trailing_zeros() & 0x38;
        seen |= word & 1_u64.wrapping_shl(bits).wrapping_sub(1);
        let count = (bits / 8) as usize;
        out.truncate(out.len().wrapping_sub(8).wrapping_add(count));
        at += count;
        match bytes.get(at) {
            Some(b'"') => break,
            Some(b'\\') => {
                let (char, end) = escape(bytes, at)?;
                out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                at = end;
            }
            _ => return None,
        }
    }
    if seen & HIGH != 0 && std::str::from_utf8(out.get(start..)?).is_err() {
        return None;
    }
    Some(at + 1)
}

/// The byte behind the closing quote of the string whose opening quote is before `at`; `None` when it is not
/// well-formed.
#[inline]
pub(super) fn skip(bytes: &[u8], at: usize) -> Option<usize> {
    let start = at;
    let (end, seen) = walk(bytes, at).ok()?;
    if seen & HIGH != 0 && std::str::from_utf8(bytes.get(start..end)?).is_err() {
        return None;
    }
    Some(end + 1)
}

/// The closing quote of the string whose opening quote is before `at`, and the bits of all its bytes; or the byte at
/// which it is not well-formed, UTF-8 apart.
#[inline]
pub(super) fn walk(bytes: &[u8], mut at: usize) -> Result<(usize, u64), usize> {
    let mut seen = 0;
    loop {
        let word = load(bytes, at);
        let stop = special(word);
        if stop == 0 {
            seen |= word;
            at += 8;
            continue;
        }
        let bits = stop.trailing_zeros() & 0x38;
        seen |= word & 1_u64.wrapping_shl(bits).wrapping_sub(1);
        at += (bits / 8) as usize;
        match bytes.get(at) {
            Some(b'"') => return Ok((at, seen)),
            Some(b'\\') => at = escape(bytes, at).ok_or(at)?.1,
            _ => return Err(at),
        }
    }
}

/// The character that the escape at `at` stands for, and the byte behind it.
#[cold]
fn escape(bytes: &[u8], at: usize) -> Option<(char, usize)> {
    let char = match bytes.get(at + 1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = hex(bytes, at + 2)?;
            if !(0xD800..0xDC00).contains(&unit) {
                return Some((char::from_u32(unit)?, at + 6));
            }
            let low = hex(bytes, at + 8).filter(|low| (0xDC00..0xE000).contains(low))?;
            let paired = bytes.get(at + 6) == Some(&b'\\') && bytes.get(at + 7) == Some(&b'u');
            let char = char::from_u32(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))?;
            return paired.then_some((char, at + 12));
        }
        _ => return None,
    };
    Some((char, at + 2))
}

/// Four hexadecimal digits.
fn hex(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..)?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |value, digit| Some(value * 16 + (*digit as char).to_digit(16)?))
}

/// Appends the UTF-8 bytes from `start` to `end` as a string in quotes.
#[inline]
pub(super) fn write(bytes: &[u8], start: usize, end: usize, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut at = start;
    while at < end {
        let word = load(bytes, at);
        let clean = ((special(word).trailing_zeros() / 8) as usize).min(end - at);
        out.extend_from_slice(&word.to_le_bytes());
        at += clean;
        if clean < 8 {
            out.truncate(out.len().wrapping_sub(8).wrapping_add(clean));
            if at < end {
                write_escape(bytes.get(at).copied().unwrap_or_default(), out);
                at += 1;
            }
        }
    }
    out.push(b'"');
}

#[cold]
fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0C => b'f',
        _ => {
            let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 0xF)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
