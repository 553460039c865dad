//! As much of D-Bus as it takes to speak with one service: calls, their answers with file descriptors, and signals.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Longest message that is taken: the protocol's own limit is larger, what is spoken here is far below.
const MESSAGE_MAX: usize = 1 << 20;
/// Signals that may come while an answer is waited for; more are lost, the oldest first.
const SIGNALS_MAX: usize = 16;
/// Descriptors that a message may bring.
const FDS_MAX: usize = 4;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Call = 1,
    /// An answer.
    Return = 2,
    /// A refusal.
    Error = 3,
    /// A signal.
    Signal = 4,
}

/// A message; what is not there is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The sender's number of it.
    pub serial: u32,
    /// The number of what it answers.
    pub reply_to: u32,
    /// The object.
    pub path: String,
    /// The interface.
    pub interface: String,
    /// What is called or told.
    pub member: String,
    /// The name of an error.
    pub error: String,
    /// To whom.
    pub destination: String,
    /// From whom; the bus fills it in.
    pub sender: String,
    /// Types of the body.
    pub signature: String,
    /// Descriptors that came with it.
    pub fds: u32,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// A call without arguments.
    pub fn call(destination: &str, path: &str, interface: &str, member: &str) -> Self {
        Self {
            kind: Kind::Call,
            serial: 0,
            reply_to: 0,
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            error: String::new(),
            destination: destination.to_owned(),
            sender: String::new(),
            signature: String::new(),
            fds: 0,
            body: Vec::new(),
        }
    }

    /// The same with arguments that are text.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.signature = "s".repeat(arguments.len());
        for argument in arguments {
            put_text(&mut self.body, argument);
        }
        self
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let texts = [
            (1, "o", &self.path),
            (2, "s", &self.interface),
            (3, "s", &self.member),
            (4, "s", &self.error),
            (6, "s", &self.destination),
        ];
        for (code, kind, text) in texts.into_iter().filter(|(_, _, text)| !text.is_empty()) {
            open_field(&mut fields, code, kind);
            put_text(&mut fields, text);
        }
        for (code, number) in [(5, self.reply_to), (9, self.fds)].into_iter().filter(|(_, number)| *number > 0) {
            open_field(&mut fields, code, "u");
            put_u32(&mut fields, number);
        }
        if !self.signature.is_empty() {
            open_field(&mut fields, 8, "g");
            put_signature(&mut fields, &self.signature);
        }
        let mut bytes = vec![b'l', self.kind as u8, 0, 1];
        put_u32(&mut bytes, len(&self.body));
        put_u32(&mut bytes, self.serial);
        put_u32(&mut bytes, len(&fields));
        bytes.extend(fields);
        pad(&mut bytes, 8);
        bytes.extend(&self.body);
        bytes
    }

    /// Takes the first message off the bytes; `None` if it is not whole yet.
    pub fn decode(bytes: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some(head) = bytes.get(..16) else { return Ok(None) };
        if head[0] != b'l' || head[3] != 1 {
            return Err(wrong("a byte order or version that is not spoken here"));
        }
        let mut reader = Reader { bytes, at: 4 };
        let (body_len, serial, fields_len) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let (body_len, fields_len) = (body_len as usize, fields_len as usize);
        if body_len > MESSAGE_MAX || fields_len > MESSAGE_MAX {
            return Err(wrong("a message that is too long"));
        }
        let body_at = (16 + fields_len).next_multiple_of(8);
        if bytes.len() < body_at + body_len {
            return Ok(None);
        }
        let mut message = Self::call("", "", "", "");
        message.kind = match bytes[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err(wrong("an unknown kind of message")),
        };
        message.serial = serial;
        let mut reader = Reader { bytes: &bytes[..16 + fields_len], at: 16 };
        while reader.at < reader.bytes.len() {
            reader.align(8);
            message.take_field(&mut reader)?;
        }
        message.body = bytes[body_at..body_at + body_len].to_vec();
        bytes.drain(..body_at + body_len);
        Ok(Some(message))
    }

    fn take_field(&mut self, reader: &mut Reader<'_>) -> io::Result<()> {
        let code = reader.u8()?;
        let kind = reader.signature()?;
        match kind.as_str() {
            "s" | "o" => {
                let text = reader.text()?;
                match code {
                    1 => self.path = text,
                    2 => self.interface = text,
                    3 => self.member = text,
                    4 => self.error = text,
                    6 => self.destination = text,
                    7 => self.sender = text,
                    _ => {}
                }
            }
            "u" => match (code, reader.u32()?) {
                (5, number) => self.reply_to = number,
                (9, number) => self.fds = number,
                _ => {}
            },
            "g" => self.signature = reader.signature()?,
            _ => return Err(wrong("an unknown field")),
        }
        Ok(())
    }

    /// The body of a signal that says yes or no.
    pub fn boolean(&self) -> io::Result<bool> {
        match self.signature.as_str() {
            "b" => Ok(Reader { bytes: &self.body, at: 0 }.u32()? != 0),
            _ => Err(wrong("something other than yes or no")),
        }
    }

    /// The body of a property that is a number.
    pub fn number(&self) -> io::Result<u64> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        if self.signature != "v" || reader.signature()? != "t" {
            return Err(wrong("something other than a number"));
        }
        reader.align(8);
        let low = reader.u32()?;
        Ok(u64::from(reader.u32()?) << 32 | u64::from(low))
    }

    /// Why something was refused.
    fn refusal(&self) -> io::Error {
        let text = Reader { bytes: &self.body, at: 0 }.text().unwrap_or_default();
        io::Error::other(format!("{}: {text}", self.error))
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the bus sent {what}"))
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_u32(bytes: &mut Vec<u8>, number: u32) {
    pad(bytes, 4);
    bytes.extend(number.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, len(text.as_bytes()));
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn put_signature(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    bytes.extend(signature.as_bytes());
    bytes.push(0);
}

/// Fields begin 16 bytes into a message: what is aligned among them is aligned in it.
fn open_field(bytes: &mut Vec<u8>, code: u8, kind: &str) {
    pad(bytes, 8);
    bytes.push(code);
    put_signature(bytes, kind);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let found = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let found = found.ok_or_else(|| wrong("a message that ends too soon"))?;
        self.at += count;
        Ok(found)
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&mut self, count: usize) -> io::Result<String> {
        let text = String::from_utf8(self.take(count)?.to_vec()).map_err(|_| wrong("text that is not UTF-8"))?;
        self.take(1)?;
        Ok(text)
    }

    fn text(&mut self) -> io::Result<String> {
        let count = self.u32()? as usize;
        self.string(count)
    }

    fn signature(&mut self) -> io::Result<String> {
        let count = usize::from(self.u8()?);
        self.string(count)
    }
}

/// A connection to a bus.
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    signals: VecDeque<Message>,
}

impl Bus {
    /// Connects to the bus whose socket this is, as the user that the process has.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        let mut bus = Self { stream, serial: 0, bytes: Vec::new(), fds: VecDeque::new(), signals: VecDeque::new() };
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        bus.stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes()).await?;
        bus.expect("OK").await?;
        bus.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n").await?;
        bus.expect("AGREE_UNIX_FD").await?;
        bus.stream.write_all(b"BEGIN\r\n").await?;
        let hello = Message::call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello");
        bus.ask(hello).await?;
        Ok(bus)
    }

    async fn expect(&mut self, word: &str) -> io::Result<()> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line);
                let said = line.split_whitespace().next().unwrap_or_default();
                return if said == word { Ok(()) } else { Err(io::Error::other(format!("the bus says {said}"))) };
            }
            if self.bytes.len() > MESSAGE_MAX {
                return Err(wrong("a line that is too long"));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        let (bytes, fds) = (&mut self.bytes, &mut self.fds);
        let socket = &self.stream;
        let count = socket
            .async_io(Interest::READABLE, || {
                let mut buffer = [0u8; 4096];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let got = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        fds.extend(rights);
                    }
                }
                bytes.extend(&buffer[..got.bytes]);
                Ok(got.bytes)
            })
            .await?;
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    async fn next_message(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = Message::decode(&mut self.bytes)? {
                return Ok(message);
            }
            self.receive().await?;
        }
    }

    /// Sends a message; returns its number.
    pub async fn send(&mut self, mut message: Message) -> io::Result<u32> {
        self.serial += 1;
        message.serial = self.serial;
        self.stream.write_all(&message.encode()).await?;
        Ok(self.serial)
    }

    /// Calls, and waits for the answer.
    pub async fn ask(&mut self, call: Message) -> io::Result<Message> {
        let serial = self.send(call).await?;
        loop {
            let message = self.next_message().await?;
            match message.kind {
                Kind::Return if message.reply_to == serial => return Ok(message),
                Kind::Error if message.reply_to == serial => return Err(message.refusal()),
                Kind::Signal => {
                    if self.signals.len() == SIGNALS_MAX {
                        self.signals.pop_front();
                    }
                    self.signals.push_back(message);
                }
                _ => {}
            }
        }
    }

    /// The descriptor that came with an answer.
    pub fn descriptor(&mut self) -> io::Result<OwnedFd> {
        self.fds.pop_front().ok_or_else(|| wrong("no descriptor"))
    }

    /// The next signal.
    pub async fn signal(&mut self) -> io::Result<Message> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(signal);
        }
        loop {
            let message = self.next_message().await?;
            if message.kind == Kind::Signal {
                return Ok(message);
            }
        }
    }

    /// The next call from another; for services.
    #[cfg(test)]
    pub async fn called(&mut self) -> io::Result<Message> {
        loop {
            let message = self.next_message().await?;
            if message.kind == Kind::Call {
                return Ok(message);
            }
        }
    }

    /// Sends a message with a descriptor; for services.
    #[cfg(test)]
    pub async fn send_with(&mut self, mut message: Message, fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        self.serial += 1;
        message.serial = self.serial;
        message.fds = 1;
        let bytes = message.encode();
        let socket = &self.stream;
        let sent = socket
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                let fds = [fd];
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
                Ok(sendmsg(socket, &[io::IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty())?)
            })
            .await?;
        assert_eq!(sent, bytes.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_however_it_comes() {
        let mut message = Message::call("org.a", "/b", "org.c", "D").with(&["one", "", "drei"]);
        message.serial = 7;
        message.reply_to = 3;
        let (bytes, mut came) = (message.encode(), Vec::new());
        for byte in &bytes[..bytes.len() - 1] {
            came.push(*byte);
            assert_eq!(Message::decode(&mut came).unwrap(), None);
        }
        came.push(bytes[bytes.len() - 1]);
        came.extend(&bytes);
        assert_eq!(Message::decode(&mut came).unwrap(), Some(message.clone()));
        assert_eq!(Message::decode(&mut came).unwrap(), Some(message));
        assert!(came.is_empty());
    }

    #[test]
    fn bodies_say_yes_no_and_numbers() {
        let mut signal = Message::call("", "/", "i", "m");
        signal.signature = "b".into();
        put_u32(&mut signal.body, 1);
        assert!(signal.boolean().unwrap() && signal.number().is_err());
        let mut property = Message::call("", "/", "i", "m");
        property.signature = "v".into();
        put_signature(&mut property.body, "t");
        pad(&mut property.body, 8);
        property.body.extend(5_000_000_000u64.to_le_bytes());
        assert_eq!(property.number().unwrap(), 5_000_000_000);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), little in any::<bool>()) {
            let mut bytes = bytes;
            if little && bytes.len() >= 16 {
                bytes[0] = b'l';
                bytes[3] = 1;
                bytes[5..8].fill(0);
                bytes[13..16].fill(0);
            }
            if let Ok(Some(message)) = Message::decode(&mut bytes) {
                let _ = (message.boolean(), message.number(), message.refusal());
            }
        }
    }
}
