//! Who gets chunks compressed, and what of them is made when.

use super::{ReaderId, Readers, Source};
use crate::forward::cut::Cut;

impl Readers {
    /// Whether chunks for a reader are compressed from now on.
    pub fn on_compressed(&mut self, id: ReaderId, compressed: bool) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.compressed = compressed;
            self.drop_compressed();
        }
    }

    /// Nothing is kept that nobody will want.
    pub(super) fn drop_compressed(&mut self) {
        if !self.readers.values().any(|reader| reader.compressed) {
            self.compressor.clear();
        }
    }

    /// The records that a read for a reader found, before [`on_read`](Readers::on_read) says so:
    /// they are compressed if that is how it gets them. A base never is: it is small, and made for
    /// one reader.
    pub fn on_records(&mut self, id: ReaderId, stream: u64, found: &Cut, records: &[u8]) {
        if !found.base && self.readers.get(&id).is_some_and(|reader| reader.compressed) {
            self.compressor.compress(stream, found, records);
        }
    }

    /// The compressed records of a cut instead of their source, where a reader gets those.
    pub(super) fn compressed(
        &mut self,
        id: ReaderId,
        stream: u64,
        cut: &Cut,
        source: Source,
    ) -> Source {
        if let Source::View { view, range } = &source {
            self.on_records(id, stream, cut, &view[range.clone()]);
        }
        if cut.base || !self.readers.get(&id).is_some_and(|reader| reader.compressed) {
            return source;
        }
        self.compressor.find(stream, cut).map_or(source, Source::Compressed)
    }
}
