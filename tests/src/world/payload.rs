//! Payloads that name their record: nobody else's bytes can be taken for them.

use bytes::Bytes;

/// Smallest payload.
pub(crate) const PAYLOAD_BYTES_MIN: u64 = 16;

/// The payload of record `id`, of `len` bytes.
pub(crate) fn payload(id: u64, len: u64) -> Bytes {
    assert!(len >= PAYLOAD_BYTES_MIN);
    let mut bytes = Vec::with_capacity(len as usize + 8);
    bytes.extend_from_slice(&id.to_le_bytes());
    let mut word = id ^ 0x7061_6C69_7361_6465;
    while bytes.len() < len as usize {
        word = word.wrapping_mul(0x9FB2_1C65_1E98_DF25).rotate_left(29) ^ id;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len as usize);
    Bytes::from(bytes)
}

/// The record that a payload names, if every byte of it is as it must be.
pub(crate) fn record_of(bytes: &[u8]) -> Option<u64> {
    let (head, _) = bytes.split_first_chunk::<8>()?;
    if (bytes.len() as u64) < PAYLOAD_BYTES_MIN {
        return None;
    }
    let id = u64::from_le_bytes(*head);
    (payload(id, bytes.len() as u64) == bytes).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_its_record() {
        let bytes = payload(77, 123);
        assert_eq!(record_of(&bytes), Some(77));
        let mut other = bytes.to_vec();
        other[100] ^= 1;
        assert_eq!(record_of(&other), None);
    }
}
