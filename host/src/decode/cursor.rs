//! Reads a frame from front to back. Never reads past its end, never believes a length that it has not checked.

use crate::lsn::Lsn;
use crate::problem::Outcome;

use super::protocol_error;

pub(super) struct Cursor<'a> {
    frame: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Self {
        Cursor { frame, at: 0 }
    }

    pub(super) fn left(&self) -> usize {
        self.frame.len() - self.at
    }

    fn take<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let bytes = self.frame[self.at..].first_chunk().ok_or_else(|| protocol_error("it is too short"))?;
        self.at += N;
        Ok(*bytes)
    }

    pub(super) fn byte(&mut self) -> Outcome<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Outcome<u16> {
        self.take().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Outcome<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Outcome<i64> {
        self.take().map(i64::from_be_bytes)
    }

    pub(super) fn lsn(&mut self) -> Outcome<Lsn> {
        self.take().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self) -> Outcome<&'a str> {
        let rest = &self.frame[self.at..];
        let end = rest.iter().position(|byte| *byte == 0).ok_or_else(|| protocol_error("a name has no end"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| protocol_error("a name is not UTF-8"))
    }

    /// Steps over `length` bytes; where they start. The frame is shorter than 4 GiB, so a position fits.
    pub(super) fn skip(&mut self, length: u32) -> Outcome<u32> {
        if length as usize > self.left() {
            return Err(protocol_error("a value is longer than its frame"));
        }
        let start = self.at as u32;
        self.at += length as usize;
        Ok(start)
    }

    pub(super) fn end(&self) -> Outcome<()> {
        if self.left() == 0 { Ok(()) } else { Err(protocol_error("it is too long")) }
    }
}
