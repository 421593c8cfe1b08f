//! Commands as they go to the server: arrays of bulk strings.

use bytes::{Bytes, BytesMut};

/// One command in the making.
#[derive(Debug, Clone)]
pub struct Command {
    /// The arguments so far, each with its header.
    packed: BytesMut,
    count: usize,
}

impl Command {
    /// A command without arguments yet.
    pub fn new(name: &str) -> Self {
        Self { packed: BytesMut::with_capacity(64 + name.len()), count: 0 }.arg(name)
    }

    /// The same with one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<[u8]>) -> Self {
        self.push(arg);
        self
    }

    /// The same with a number as the next argument.
    #[must_use]
    pub fn int(mut self, number: impl Into<i64>) -> Self {
        let (text, start) = decimal(number.into());
        self.push(&text[start..]);
        self
    }

    /// The same with more arguments.
    #[must_use]
    pub fn args<A: AsRef<[u8]>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        for arg in args {
            self.push(arg);
        }
        self
    }

    /// Adds an argument.
    pub fn push(&mut self, arg: impl AsRef<[u8]>) {
        let arg = arg.as_ref();
        header(&mut self.packed, b'$', arg.len());
        self.packed.extend_from_slice(arg);
        self.packed.extend_from_slice(b"\r\n");
        self.count += 1;
    }

    /// Writes the whole command to `out`.
    pub fn write_to(&self, out: &mut BytesMut) {
        out.reserve(self.packed.len() + 16);
        header(out, b'*', self.count);
        out.extend_from_slice(&self.packed);
    }

    /// The whole command.
    pub fn pack(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.write_to(&mut out);
        out.freeze()
    }
}

/// Several commands that go out in one write.
#[derive(Debug, Default)]
pub struct Pipeline {
    packed: BytesMut,
    /// Where each command ends.
    ends: Vec<usize>,
}

impl Pipeline {
    /// Without commands yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a command.
    pub fn push(&mut self, command: &Command) -> &mut Self {
        command.write_to(&mut self.packed);
        self.ends.push(self.packed.len());
        self
    }

    /// The number of commands, and so of replies.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes to send.
    pub fn data(&self) -> &[u8] {
        &self.packed
    }

    /// The bytes of one command, counted from 0; none when there is no such.
    pub fn command(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).unwrap_or(&0);
        self.ends.get(at).map_or(&[], |end| &self.packed[*start..*end])
    }
}

fn header(out: &mut BytesMut, kind: u8, number: usize) {
    let (text, start) = decimal(number as i64);
    out.reserve(24);
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&text[start..]);
    out.extend_from_slice(b"\r\n");
}

/// The digits of `number`, at the end of the array from the given place on.
fn decimal(number: i64) -> ([u8; 20], usize) {
    let mut text = [0u8; 20];
    let mut at = text.len();
    let mut left = number.unsigned_abs();
    loop {
        at -= 1;
        text[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        text[at] = b'-';
    }
    (text, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_as_an_array_of_bulk_strings() {
        let command = Command::new("SET").arg("k").int(-120).args(["a", ""]);
        assert_eq!(
            command.pack().as_ref(),
            b"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n-120\r\n$1\r\na\r\n$0\r\n\r\n"
        );
        let mut pipeline = Pipeline::new();
        pipeline.push(&Command::new("PING")).push(&Command::new("TIME"));
        assert_eq!(pipeline.len(), 2);
        assert_eq!(pipeline.data(), b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nTIME\r\n");
        assert_eq!(pipeline.command(1), b"*1\r\n$4\r\nTIME\r\n");
        assert_eq!((pipeline.command(0).len(), pipeline.command(2).len()), (14, 0));
    }

    #[test]
    fn extreme_numbers() {
        for number in [0, 7, i64::MIN, i64::MAX] {
            let (text, start) = decimal(number);
            assert_eq!(std::str::from_utf8(&text[start..]).unwrap(), number.to_string());
        }
    }
}
