//! [`Key`]: the bytes of a key, as they lie in a session.
//!
//! **Invariant:** a short key has no allocation: most are a number or two, and comparing them with what is looked for reads
//! the memory of their session.

/// With so many bytes, the length and the tag, a key takes 24 bytes.
const SHORT: usize = 22;

/// A key.
pub(super) enum Key {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl Key {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Key::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Key::Long(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Key {
        match u8::try_from(key.len()) {
            Ok(length) if key.len() <= SHORT => {
                let mut bytes = [0; SHORT];
                bytes[..key.len()].copy_from_slice(key);
                Key::Short(length, bytes)
            }
            _ => Key::Long(key.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_any_length_are_found() {
        let all: Vec<Vec<u8>> = (0..60).map(|length| vec![7; length]).collect();
        for key in &all {
            assert_eq!(Key::from(key.as_slice()).bytes(), key);
        }
        assert_eq!(size_of::<Key>(), 24);
    }
}
