//! Reading and writing of the rollup's files: big-endian, no optional parts, nothing may follow the last field.
//!
//! Decoding is strict, so that a value has exactly one encoding: field elements must be canonical, lengths are
//! checked against what is left before anything is allocated.

use plonky2::field::types::{Field, Field64, PrimeField64};

use crate::poseidon::{Digest, F};

/// Why bytes are not what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a {0}: it does not begin with that file's magic")]
    Magic(&'static str),
    #[error("the file ends {0} bytes early")]
    Short(usize),
    #[error("{0} bytes follow the end")]
    Long(usize),
    #[error("{0}")]
    Value(&'static str),
}

/// Appends values to a byte vector.
pub trait Write {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    fn put_digest(&mut self, digest: &Digest) {
        for element in digest.0 {
            self.put_u64(element.to_canonical_u64());
        }
    }

    /// A count and then that many values.
    fn put_list<T>(&mut self, items: &[T], each: impl Fn(&mut Self, &T)) {
        self.put_u32(u32::try_from(items.len()).expect("lists of a block stay far below 2^32"));
        for item in items {
            each(self, item);
        }
    }
}

impl Write for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Takes values off the front of a slice.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts behind the magic that the file must begin with; `what` names the kind of file in errors.
    pub fn new(bytes: &'a [u8], magic: &[u8], what: &'static str) -> Result<Self, DecodeError> {
        bytes.strip_prefix(magic).map(Self).ok_or(DecodeError::Magic(what))
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short(len - self.0.len().min(len)))?;
        self.0 = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N)?.try_into().expect("take returns as many bytes as asked for"))
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn element(&mut self) -> Result<F, DecodeError> {
        let value = self.u64()?;
        if value >= F::ORDER {
            return Err(DecodeError::Value("a field element is not below the field's order"));
        }
        Ok(F::from_canonical_u64(value))
    }

    pub fn digest(&mut self) -> Result<Digest, DecodeError> {
        Ok(Digest([self.element()?, self.element()?, self.element()?, self.element()?]))
    }

    /// The counterpart of [`Write::put_list`]; every item must take at least `min_len` bytes.
    pub fn list<T>(
        &mut self,
        min_len: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u32()? as usize;
        let needed = count.saturating_mul(min_len);
        if needed > self.0.len() {
            return Err(DecodeError::Short(needed - self.0.len()));
        }
        (0..count).map(|_| each(self)).collect()
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    pub fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Long(self.0.len())) }
    }
}
