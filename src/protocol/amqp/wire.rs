//! The elementary types of AMQP 0-9-1 (section 4.2), read and written by hand where it happens for
//! each message; the crate `amq-protocol` does the rest.

use crate::error::{Error, Result};

/// Takes values off the front of a slice.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| Error::decode("an AMQP frame ends in the middle of a value"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut value = [0; N];
        value.copy_from_slice(self.take(N)?);
        Ok(value)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A short string.
    pub(super) fn short(&mut self) -> Result<&'a str> {
        let length = usize::from(self.u8()?);
        std::str::from_utf8(self.take(length)?)
            .map_err(|_| Error::decode("a name in an AMQP frame is not UTF-8"))
    }

    /// A long string.
    pub(super) fn long(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// What follows a length, as a reader of its own.
    pub(super) fn part(&mut self) -> Result<Self> {
        self.long().map(Self)
    }
}

/// Appends a short string. `what` names it in errors.
///
/// # Errors
/// `Encode` when it is longer than 255 bytes.
pub(super) fn put_short(out: &mut Vec<u8>, what: &str, text: &str) -> Result<()> {
    let length = u8::try_from(text.len()).map_err(|_| {
        let start: String = text.chars().take(40).collect();
        Error::encode(format!("{what} is longer than the 255 bytes that AMQP allows: '{start}...'"))
    })?;
    out.push(length);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}
