//! As much of SPDY/3.1 as containerd's streaming server asks of a client.
//!
//! In and out: frames over a connection that was upgraded already. A client opens streams
//! with headers (compressed with SPDY's dictionary), sends data, and closes its half of a
//! stream with FIN, which is how standard input ends. From the server come data, FIN, RST,
//! PING (answered) and GOAWAY; all else is tolerated. The server's headers are never looked
//! at, so they are not decompressed either. Neither side of this protocol in Kubernetes keeps
//! to flow control windows; TCP's own holds a fast sender back.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FLAG_FIN: u8 = 1;
const HEADER_LEN: usize = 8;
/// Largest control frame accepted; SPDY asks for 8 KiB at least.
const CONTROL_LEN_MAX: usize = 64 << 10;
/// Data of large frames is handed on in pieces of this size.
const DATA_PIECE_LEN: usize = 32 << 10;
/// Largest data frame sent.
const DATA_LEN_MAX: usize = 64 << 10;

/// The header names and values of the SPDY/3 dictionary that are length-prefixed.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date etag expect \
    expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location \
    max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version \
    HTTP/1.1 url public set-cookie keep-alive origin";

/// What follows them, plain.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417\
    502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr \
    May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,\
    image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=\
    gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary of SPDY/3's header compression.
fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::new();
    for word in DICTIONARY_WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        dictionary.extend_from_slice(&(word.len() as u32).to_be_bytes());
        dictionary.extend_from_slice(word.as_bytes());
    }
    dictionary.extend_from_slice(DICTIONARY_TAIL.as_bytes());
    dictionary
}

/// Something the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Data of a stream; with `fin` the last.
    Data {
        /// Which stream.
        stream: u32,
        /// The data, at most 32 KiB.
        data: Bytes,
        /// Whether the server's half of the stream has ended.
        fin: bool,
    },
    /// The stream has ended both ways.
    Reset(u32),
    /// Has to be sent back.
    Ping(u32),
    /// The server ends the connection soon.
    GoAway,
    /// Something without consequence.
    Other,
}

/// The half that sends.
pub(super) struct Sender<W> {
    writer: W,
    compress: Compress,
    next_stream: u32,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    /// A sender for a connection on which nothing was sent yet.
    pub(super) fn new(writer: W) -> io::Result<Self> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&dictionary()).map_err(io::Error::other)?;
        Ok(Self { writer, compress, next_stream: 1 })
    }

    /// Opens a stream; returns its id.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let stream = self.next_stream;
        // Clients use odd numbers.
        self.next_stream += 2;
        let block = self.compressed(headers)?;
        let mut frame = control(SYN_STREAM, 0, 10 + block.len());
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(&[0; 6]); // no associated stream, priority or slot
        frame.extend_from_slice(&block);
        self.write(&frame).await?;
        Ok(stream)
    }

    /// Sends data; with `fin`, there will be no more.
    pub(super) async fn data(&mut self, stream: u32, data: &[u8], fin: bool) -> io::Result<()> {
        let mut pieces = data.chunks(DATA_LEN_MAX).peekable();
        if pieces.peek().is_none() {
            return self.data_frame(stream, &[], fin).await;
        }
        while let Some(piece) = pieces.next() {
            self.data_frame(stream, piece, fin && pieces.peek().is_none()).await?;
        }
        Ok(())
    }

    async fn data_frame(&mut self, stream: u32, data: &[u8], fin: bool) -> io::Result<()> {
        let mut frame = Vec::with_capacity(HEADER_LEN + data.len());
        frame.extend_from_slice(&(stream & 0x7fff_ffff).to_be_bytes());
        frame.extend_from_slice(&flags_and_len(if fin { FLAG_FIN } else { 0 }, data.len()));
        frame.extend_from_slice(data);
        self.write(&frame).await
    }

    /// Answers a PING.
    pub(super) async fn ping(&mut self, id: u32) -> io::Result<()> {
        let mut frame = control(PING, 0, 4);
        frame.extend_from_slice(&id.to_be_bytes());
        self.write(&frame).await
    }

    /// Ends the sending half of the connection.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }

    async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.writer.write_all(frame).await?;
        self.writer.flush().await
    }

    /// Header blocks share one compression context for the connection's life.
    fn compressed(&mut self, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut consumed = 0;
        loop {
            let before = self.compress.total_in();
            self.compress
                .compress_vec(&plain[consumed..], &mut block, FlushCompress::Sync)
                .map_err(io::Error::other)?;
            consumed += (self.compress.total_in() - before) as usize;
            // With room left over, everything was flushed.
            if consumed == plain.len() && block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(256);
        }
    }
}

fn control(kind: u16, flags: u8, len: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + len);
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&flags_and_len(flags, len));
    frame
}

fn flags_and_len(flags: u8, len: usize) -> [u8; 4] {
    let len = (len as u32).to_be_bytes();
    [flags, len[1], len[2], len[3]]
}

/// The half that receives.
pub(super) struct Receiver<R> {
    reader: R,
    buffer: BytesMut,
    /// Rest of the data frame that is being handed on: stream, bytes to come, FIN at its end.
    rest: Option<(u32, usize, bool)>,
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// A receiver for a connection from which nothing was read yet.
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new(), rest: None }
    }

    /// The next frame, or none at the end of the connection. May be dropped and called again.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.parse()? {
                return Ok(Some(frame));
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<Frame>> {
        if let Some((stream, left, fin)) = self.rest {
            return Ok(self.data_piece(stream, left, fin));
        }
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let word = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let flags = header[4];
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        if word & 0x8000_0000 == 0 {
            self.buffer.advance(HEADER_LEN);
            return Ok(self.data_piece(word, len, flags & FLAG_FIN != 0));
        }
        if len > CONTROL_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a SPDY control frame is too large"));
        }
        if self.buffer.len() < HEADER_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        let body = self.buffer.split_to(len);
        let number = body.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        let frame = match ((word & 0xffff) as u16, number) {
            (RST_STREAM, Some(stream)) => Frame::Reset(stream & 0x7fff_ffff),
            (PING, Some(id)) => Frame::Ping(id),
            (GOAWAY, _) => Frame::GoAway,
            _ => Frame::Other,
        };
        Ok(Some(frame))
    }

    /// Hands on what there is of a data frame.
    fn data_piece(&mut self, stream: u32, left: usize, fin: bool) -> Option<Frame> {
        let len = left.min(DATA_PIECE_LEN).min(self.buffer.len());
        if len == 0 && left > 0 {
            self.rest = Some((stream, left, fin));
            return None;
        }
        let data = self.buffer.split_to(len).freeze();
        let left = left - len;
        self.rest = (left > 0).then_some((stream, left, fin));
        Some(Frame::Data { stream, data, fin: fin && left == 0 })
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};
    use proptest::prelude::*;

    use super::*;

    fn adler32(bytes: &[u8]) -> u32 {
        let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        assert_eq!(adler32(&dictionary), 0xe3c6_a7c2);
    }

    #[tokio::test]
    async fn headers_of_all_streams_are_read_back_through_one_context() {
        let mut sent = Vec::new();
        let mut sender = Sender::new(&mut sent).unwrap();
        for (number, kind) in ["error", "stdin", "stdout"].iter().enumerate() {
            let id = sender.open(&[("streamtype", kind), ("port", "8080")]).await.unwrap();
            assert_eq!(id as usize, 2 * number + 1);
        }
        drop(sender);
        let mut decompress = Decompress::new(true);
        let mut rest = sent.as_slice();
        for kind in ["error", "stdin", "stdout"] {
            let len = u32::from_be_bytes([0, rest[5], rest[6], rest[7]]) as usize;
            assert_eq!(rest[..4], [0x80, 3, 0, 1]);
            let block = &rest[18..8 + len];
            let mut plain = Vec::with_capacity(4096);
            let mut used = 0;
            // The first block asks for the dictionary before it yields anything.
            let first = decompress.total_in() == 0;
            if first {
                let before = decompress.total_in();
                assert!(decompress.decompress_vec(block, &mut plain, FlushDecompress::Sync).is_err());
                used = (decompress.total_in() - before) as usize;
                decompress.set_dictionary(&dictionary()).unwrap();
            }
            decompress.decompress_vec(&block[used..], &mut plain, FlushDecompress::Sync).unwrap();
            let text = String::from_utf8_lossy(&plain).into_owned();
            assert!(text.contains("streamtype") && text.contains(kind) && text.contains("8080"), "{text:?}");
            rest = &rest[8 + len..];
        }
    }

    #[tokio::test]
    async fn large_frames_come_in_pieces_and_end_once() {
        let mut sent = Vec::new();
        let data: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        Sender::new(&mut sent).unwrap().data(5, &data, true).await.unwrap();
        let mut receiver = Receiver::new(sent.as_slice());
        let mut received = Vec::new();
        let mut ends = 0;
        while let Some(frame) = receiver.next().await.unwrap() {
            let Frame::Data { stream: 5, data, fin } = frame else { panic!("{frame:?}") };
            assert_eq!(ends, 0, "data after the end");
            received.extend_from_slice(&data);
            ends += usize::from(fin);
        }
        assert_eq!((received, ends), (data, 1));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut receiver = Receiver::new(bytes.as_slice());
                while let Ok(Some(_)) = receiver.next().await {}
            });
        }
    }
}
