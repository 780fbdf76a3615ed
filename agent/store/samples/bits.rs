//! A string of bits, written from the front and read back. A reader trusts no length.

/// What was read is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub &'static str);

#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    /// Bits written, of which the last byte may hold fewer than eight.
    len: usize,
}

impl Writer {
    pub fn bit(&mut self, bit: bool) {
        self.bits(bit.into(), 1);
    }

    /// The lowest `count` bits of `value` (at most 64), the highest of them first.
    pub fn bits(&mut self, value: u64, count: u32) {
        let mut left = count;
        while left > 0 {
            let free = 8 - (self.len % 8) as u32;
            if free == 8 {
                self.bytes.push(0);
            }
            let now = left.min(free);
            let chunk = value >> (left - now) & ((1 << now) - 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= (chunk << (free - now)) as u8;
            }
            self.len += now as usize;
            left -= now;
        }
    }

    /// Any number: its length in 7 bits, then its bits.
    pub fn number(&mut self, value: u64) {
        let length = u64::BITS - value.leading_zeros();
        self.bits(length.into(), 7);
        self.bits(value, length);
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub fn bit(&mut self) -> Result<bool, Damaged> {
        Ok(self.bits(1)? == 1)
    }

    /// `count` is at most 64.
    pub fn bits(&mut self, count: u32) -> Result<u64, Damaged> {
        let (mut value, mut left) = (0, count);
        while left > 0 {
            let byte = *self.bytes.get(self.at / 8).ok_or(Damaged("it ends too early"))?;
            let unread = 8 - (self.at % 8) as u32;
            let now = left.min(unread);
            value = value << now | u64::from(byte) >> (unread - now) & ((1 << now) - 1);
            self.at += now as usize;
            left -= now;
        }
        Ok(value)
    }

    pub fn number(&mut self) -> Result<u64, Damaged> {
        match self.bits(7)? as u32 {
            length @ 0..=64 => self.bits(length),
            _ => Err(Damaged("a number is longer than numbers are")),
        }
    }

    /// Nothing but the padding of the last byte is left.
    pub fn finish(mut self) -> Result<(), Damaged> {
        let left = (self.bytes.len() * 8).saturating_sub(self.at);
        match left < 8 && self.bits(left as u32)? == 0 {
            true => Ok(()),
            false => Err(Damaged("it goes on behind its end")),
        }
    }
}
