//! [`Ripe`]: when an operator should count its memory anew.
//!
//! **Invariant:** between two countings no more came than a small part of the bound, so that counting, which looks at
//! all that is held, costs little for each row.

use tidemill_runtime::Share;

/// What came since the operator last counted.
#[derive(Debug, Default)]
pub(in crate::stream) struct Ripe(usize);

impl Ripe {
    /// So many bytes came; whether it is time to count.
    pub(in crate::stream) fn after(&mut self, bytes: usize, share: &Share) -> bool {
        self.0 += bytes;
        let ripe = self.0 >= share.step();
        if ripe {
            self.0 = 0;
        }
        ripe
    }
}
