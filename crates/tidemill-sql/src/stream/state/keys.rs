//! [`Keys`]: keys as bytes, one after the other, and how keys are sorted.
//!
//! **Invariant:** a key costs its bytes and where they end: no allocation of its own.

/// Some keys.
#[derive(Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    /// How many bytes they take.
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    pub(super) fn extend(&mut self, others: &Keys) {
        others.iter().for_each(|key| self.push(key));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }

    /// Each of them once, in order.
    pub(super) fn in_order(&self) -> Keys {
        let mut keys: Vec<(&[u8], ())> = self.iter().map(|key| (key, ())).collect();
        sort_by_key(&mut keys);
        keys.dedup();
        let mut sorted = Keys { bytes: Vec::new(), ends: Vec::with_capacity(keys.len()) };
        keys.into_iter().for_each(|(key, ())| sorted.push(key));
        sorted
    }
}

/// Puts rows in the order of their keys. Most comparisons end within the first bytes, which are laid beside each other:
/// keys themselves lie anywhere in memory.
pub(in crate::stream) fn sort_by_key<T: Copy>(rows: &mut Vec<(&[u8], T)>) {
    let mut by_head: Vec<(u128, (&[u8], T))> = rows.drain(..).map(|row| (head_of(row.0), row)).collect();
    by_head.sort_unstable_by(|(head, (key, _)), (other_head, (other, _))| {
        head.cmp(other_head).then_with(|| key.cmp(other))
    });
    rows.extend(by_head.into_iter().map(|(_, row)| row));
}

/// The first bytes of a key as a number that is ordered as they are; what a short key lacks counts as zeros.
fn head_of(key: &[u8]) -> u128 {
    let mut head = [0; 16];
    let length = key.len().min(head.len());
    head[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_as_slices_are() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut model: Vec<Vec<u8>> = Vec::new();
        let mut keys = Keys::default();
        for _ in 0..3_000 {
            let key: Vec<u8> = (0..random.usize(0..22)).map(|_| random.u8(0..2)).collect();
            keys.push(&key);
            model.push(key);
        }
        assert!(keys.iter().eq(model.iter().map(Vec::as_slice)));
        model.sort_unstable();
        model.dedup();
        assert!(keys.in_order().iter().eq(model.iter().map(Vec::as_slice)));
    }
}
