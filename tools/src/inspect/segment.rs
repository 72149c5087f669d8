//! Segments.
pub(crate) const NOT_YET: u8 = 0;
