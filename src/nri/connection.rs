//! Messages of ttrpc on NRI's multiplexed socket.
//!
//! The socket carries frames: the number of a connection and a length, four bytes each, and then bytes of that
//! connection. These bytes are messages of ttrpc: length and stream, four bytes each, kind and flags, one byte each, and
//! the data. Numbers are big-endian, and a message may be spread over frames (github.com/containerd/nri
//! `pkg/net/multiplex`, github.com/containerd/ttrpc `PROTOCOL.md`).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The connection on which the runtime asks.
pub(super) const PLUGIN: u32 = 1;
/// The connection on which the plug-in asks.
pub(super) const RUNTIME: u32 = 2;

pub(super) const REQUEST: u8 = 1;
pub(super) const RESPONSE: u8 = 2;

const HEADER: usize = 10;
/// The largest data of a message (ttrpc, `messageLengthMax`).
const MAX_DATA: usize = 4 << 20;
/// The runtime reads frames into a buffer of this size, and fails on a larger one.
const MAX_FRAME: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) connection: u32,
    pub(super) stream: u32,
    pub(super) kind: u8,
    pub(super) data: Vec<u8>,
}

/// A socket, and what was read of each connection's next message.
pub(super) struct Connection<S> {
    socket: S,
    unread: [Vec<u8>; 2],
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, unread: Default::default() }
    }

    /// The next message; an error if the socket is closed.
    pub(super) async fn receive(&mut self) -> io::Result<Message> {
        loop {
            for (connection, unread) in [PLUGIN, RUNTIME].into_iter().zip(&mut self.unread) {
                if let Some(message) = take_message(connection, unread)? {
                    return Ok(message);
                }
            }
            let connection = self.socket.read_u32().await?;
            let length = self.socket.read_u32().await? as usize;
            ensure(length <= HEADER + MAX_DATA, "a frame is too long")?;
            let mut frame = vec![0; length];
            self.socket.read_exact(&mut frame).await?;
            match connection {
                PLUGIN => self.unread[0].append(&mut frame),
                RUNTIME => self.unread[1].append(&mut frame),
                _ => {}
            }
        }
    }

    pub(super) async fn send(&mut self, message: &Message) -> io::Result<()> {
        let Message { connection, stream, kind, data } = message;
        let length = |bytes: &[u8]| (bytes.len() as u32).to_be_bytes();
        let mut bytes = [length(data), stream.to_be_bytes()].concat();
        bytes.extend([*kind, 0]);
        bytes.extend(data);
        let mut frames = Vec::with_capacity(bytes.len() + 64);
        for part in bytes.chunks(MAX_FRAME) {
            frames.extend(connection.to_be_bytes());
            frames.extend(length(part));
            frames.extend(part);
        }
        self.socket.write_all(&frames).await
    }
}

fn take_message(connection: u32, unread: &mut Vec<u8>) -> io::Result<Option<Message>> {
    let Some(header) = unread.first_chunk::<HEADER>() else { return Ok(None) };
    let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| header[at + i]));
    let (length, stream, kind) = (word(0) as usize, word(4), header[8]);
    ensure(length <= MAX_DATA, "a message is too long")?;
    if unread.len() < HEADER + length {
        return Ok(None);
    }
    let data = unread[HEADER..HEADER + length].to_vec();
    unread.drain(..HEADER + length);
    Ok(Some(Message { connection, stream, kind, data }))
}

fn ensure(holds: bool, why: &'static str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, why)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(connection: u32, data: Vec<u8>) -> Message {
        Message { connection, stream: 7, kind: REQUEST, data }
    }

    #[tokio::test]
    async fn m3_a_message_has_the_bytes_of_ttrpc_in_a_frame() {
        let (socket, mut runtime) = tokio::io::duplex(64);
        let sent = Message { kind: RESPONSE, ..message(PLUGIN, b"hi".to_vec()) };
        Connection::new(socket).send(&sent).await.unwrap();
        let mut bytes = [0; 20];
        runtime.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, *b"\0\0\0\x01\0\0\0\x0c\0\0\0\x02\0\0\0\x07\x02\0hi");
    }

    #[tokio::test]
    async fn m3_messages_are_read_from_frames_of_any_size() {
        let (mut runtime, socket) = tokio::io::duplex(1 << 20);
        let (asked, answered) = (message(PLUGIN, vec![5; 9000]), message(RUNTIME, vec![]));
        // Two halves of one message, and another connection's message in between; an unknown connection is skipped.
        let bytes = [&[0, 0, 0x23, 0x28, 0, 0, 0, 7, 1, 0][..], &[5; 9000]].concat();
        for (connection, part) in
            [(PLUGIN, &bytes[..4]), (9, b"?"), (RUNTIME, b"\0\0\0\0\0\0\0\x07\x01\0"), (PLUGIN, &bytes[4..])]
        {
            runtime.write_u32(connection).await.unwrap();
            runtime.write_u32(part.len() as u32).await.unwrap();
            runtime.write_all(part).await.unwrap();
        }
        let mut connection = Connection::new(socket);
        assert_eq!(connection.receive().await.unwrap(), answered);
        assert_eq!(connection.receive().await.unwrap(), asked);
        // The runtime can read the frames of a large message, and has the message back.
        let mut peer = Connection::new(runtime);
        connection.send(&asked).await.unwrap();
        assert_eq!(peer.receive().await.unwrap(), asked);
        drop(connection);
        assert!(peer.receive().await.is_err());
    }

    #[tokio::test]
    async fn v10_a_length_beyond_the_protocol_ends_the_connection() {
        for bytes in [&b"\0\0\0\x01\x7f\0\0\0"[..], b"\0\0\0\x01\0\0\0\x0a\x7f\0\0\0\0\0\0\x01\x01\0"] {
            let (mut runtime, socket) = tokio::io::duplex(64);
            runtime.write_all(bytes).await.unwrap();
            let failed = Connection::new(socket).receive().await.unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
        }
    }
}
