//! [`Key`]: the bytes of a key, as they lie in a hash table.
//!
//! **Invariant:** it hashes and compares as the slice does. A short key has no allocation: most are a number or two, and
//! comparing them with what is looked for reads the table's own memory.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

/// With so many bytes, the length and the tag, a key takes 24 bytes.
const SHORT: usize = 22;

/// A key.
pub(super) enum Key {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl Key {
    fn bytes(&self) -> &[u8] {
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

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::HashMap;

    use super::*;

    #[test]
    fn keys_of_any_length_are_found() {
        let all: Vec<Vec<u8>> = (0..60).map(|length| vec![7; length]).collect();
        let map: HashMap<Key, usize> = all.iter().map(|key| (Key::from(key.as_slice()), key.len())).collect();
        assert_eq!(map.len(), all.len());
        for key in &all {
            assert_eq!(map.get(key.as_slice()), Some(&key.len()));
        }
        assert_eq!(size_of::<Key>(), 24);
    }
}
