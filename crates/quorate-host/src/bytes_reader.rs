//! Reading what this crate encodes: little-endian, every length checked before it is believed.

use bytes::Bytes;
use quorate_core::{DecodeError, LogId, LogIndex, Term};

/// Takes values off the front of some bytes, remembering where it is.
pub(crate) struct BytesReader {
    bytes: Bytes,
    at: usize,
}

impl BytesReader {
    pub(crate) fn new(bytes: &Bytes) -> Self {
        Self { bytes: bytes.clone(), at: 0 }
    }

    pub(crate) const fn fail(&self, expected: &'static str) -> DecodeError {
        DecodeError { offset: self.at, expected }
    }

    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// Everything not read yet.
    pub(crate) fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        rest
    }

    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        let end = self.at.checked_add(N).filter(|end| *end <= self.bytes.len()).ok_or(self.fail(expected))?;
        array.copy_from_slice(&self.bytes[self.at..end]);
        self.at = end;
        Ok(array)
    }

    pub(crate) fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array(expected)?))
    }

    pub(crate) fn u32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(expected)?))
    }

    pub(crate) fn u64(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(expected)?))
    }

    /// A big-endian number: only in keys, whose byte order is their order.
    pub(crate) fn u64_big_endian(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array(expected)?))
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self, expected: &'static str) -> Result<bool, DecodeError> {
        match self.u8(expected)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError { offset: self.at - 1, expected }),
        }
    }

    pub(crate) fn log_id(&mut self, expected: &'static str) -> Result<LogId, DecodeError> {
        Ok(LogId { term: Term(self.u64(expected)?), index: LogIndex(self.u64(expected)?) })
    }

    /// A `u32` length and as many bytes, shared with the input.
    pub(crate) fn bytes(&mut self, expected: &'static str) -> Result<Bytes, DecodeError> {
        let length = usize::try_from(self.u32(expected)?).unwrap_or(usize::MAX);
        let end =
            self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(self.fail(expected))?;
        let slice = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(slice)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) const fn end(&self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(self.fail("the end")) }
    }
}

/// Appends a `u32` length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_sized(out, |out| out.extend_from_slice(bytes));
}

/// Appends a `u32` length and as many bytes as `put` does.
pub(crate) fn put_sized<T>(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let result = put(out);
    let length = u32::try_from(out.len() - start - 4);
    let length = length.expect("everything that is encoded is limited far below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    result
}

pub(crate) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(crate) fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    put_u64(out, id.term.0);
    put_u64(out, id.index.0);
}
