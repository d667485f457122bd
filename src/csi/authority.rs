//! Lets the kubelet's registration client in.
//!
//! The kubelet (1.36, `pkg/kubelet/pluginmanager`) dials the registration socket by its path, and its gRPC library then
//! sends that path as `:authority`. A path is no authority, so the HTTP/2 library here resets the stream
//! (kubernetes/kubernetes 108254, hyperium/h2 487). What comes from the client is therefore passed through this, which
//! writes `localhost` there, as the kubelet itself does when it calls the CSI socket.

use std::io;

use futures::{Stream, StreamExt};
use loona_hpack::{Decoder, Encoder};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;

/// The client's first bytes on every HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: usize = 24;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// What a frame may hold unless something else is agreed on (RFC 9113, 4.2); nothing else is.
const MAX_FRAME: usize = 16_384;
const BUFFER: usize = 64 * 1024;

/// The connections of a socket, each with a plausible `:authority`.
pub(super) fn localhost(
    connections: impl Stream<Item = io::Result<UnixStream>>,
) -> impl Stream<Item = io::Result<DuplexStream>> {
    connections.map(|connection| {
        let (client_read, mut client_write) = connection?.into_split();
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let (mut read, mut write) = tokio::io::split(ours);
        tokio::spawn(async move {
            let answers = async {
                tokio::io::copy(&mut read, &mut client_write).await?;
                client_write.shutdown().await
            };
            let requests = async {
                let passed = pass(client_read, &mut write).await;
                write.shutdown().await?;
                passed
            };
            if let (Err(error), _) | (_, Err(error)) = tokio::join!(requests, answers) {
                tracing::debug!(%error, "a registration connection ended");
            }
        });
        Ok(theirs)
    })
}

/// Passes frames on, header blocks with their `:authority` replaced.
async fn pass(mut from: impl AsyncRead + Unpin, to: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::new());
    let mut block: Option<(Vec<u8>, u8)> = None;
    loop {
        let mut head = [0; 9];
        match from.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if length > MAX_FRAME {
            return Err(io::Error::other("a frame is larger than was agreed on"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        let (kind, flags) = (head[3], head[4]);
        match (kind, block.take()) {
            (HEADERS, None) => block = Some((fragment(&payload, flags)?.to_vec(), flags)),
            (CONTINUATION, Some((mut so_far, first))) if so_far.len() <= MAX_FRAME => {
                so_far.extend_from_slice(&payload);
                block = Some((so_far, first | flags));
            }
            (HEADERS | CONTINUATION, _) => return Err(io::Error::other("a header block is out of order")),
            (_, _) => {
                to.write_all(&head).await?;
                to.write_all(&payload).await?;
                continue;
            }
        }
        if flags & END_HEADERS == 0 {
            continue;
        }
        let Some((complete, flags)) = block.take() else { continue };
        let renamed = rename(&complete, &mut decoder, &mut encoder)?;
        let length = u32::try_from(renamed.len()).unwrap_or(u32::MAX).to_be_bytes();
        let flags = (flags & !(PADDED | PRIORITY)) | END_HEADERS;
        to.write_all(&[length[1], length[2], length[3], HEADERS, flags]).await?;
        to.write_all(&head[5..9]).await?;
        to.write_all(&renamed).await?;
    }
}

/// The header block fragment of a HEADERS frame, without padding and priority.
fn fragment(payload: &[u8], flags: u8) -> io::Result<&[u8]> {
    let wrong = || io::Error::other("a HEADERS frame is too short for its flags");
    let (padding, rest) = match flags & PADDED != 0 {
        true => payload.split_first().map(|(length, rest)| (usize::from(*length), rest)).ok_or_else(wrong)?,
        false => (0, payload),
    };
    let skipped = if flags & PRIORITY != 0 { 5 } else { 0 };
    let end = rest.len().checked_sub(padding).filter(|end| *end >= skipped).ok_or_else(wrong)?;
    Ok(&rest[skipped..end])
}

fn rename(block: &[u8], decoder: &mut Decoder<'_>, encoder: &mut Encoder<'_>) -> io::Result<Vec<u8>> {
    let mut headers = decoder.decode(block).map_err(|error| io::Error::other(format!("{error:?}")))?;
    for (name, value) in &mut headers {
        if name == b":authority" {
            *value = b"localhost".to_vec();
        }
    }
    let renamed = encoder.encode(headers.iter().map(|(name, value)| (&name[..], &value[..])));
    if renamed.len() > MAX_FRAME {
        return Err(io::Error::other("a header block is too large"));
    }
    Ok(renamed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    async fn passed(frames: &[Vec<u8>]) -> io::Result<Vec<u8>> {
        let mut input = vec![b'p'; PREFACE];
        input.extend(frames.concat());
        let mut output = Vec::new();
        pass(&input[..], &mut output).await.map(|()| output[PREFACE..].to_vec())
    }

    #[tokio::test]
    async fn a_path_becomes_localhost_and_all_else_stays() {
        let sent = [(&b":path"[..], &b"/GetInfo"[..]), (&b":authority"[..], &b"/var/lib/kubelet/x.sock"[..])];
        let mut client = Encoder::new();
        // Twice: the second refers to the first's entries in the table.
        let (one, two) = (client.encode(sent), client.encode(sent));
        let (start, end) = one.split_at(3);
        let data = frame(0, 1, b"body");
        let frames = [
            frame(HEADERS, 0, start),
            frame(CONTINUATION, END_HEADERS, end),
            data.clone(),
            frame(HEADERS, END_HEADERS | 1, &two),
        ];
        let got = passed(&frames).await.unwrap();

        let mut server = Decoder::new();
        let mut rest = &got[..];
        for expected_flags in [END_HEADERS, END_HEADERS | 1] {
            let length = usize::from(rest[1]) << 8 | usize::from(rest[2]);
            assert_eq!((rest[3], rest[4]), (HEADERS, expected_flags));
            let headers = server.decode(&rest[9..9 + length]).unwrap();
            assert_eq!(
                headers,
                [(b":path".to_vec(), b"/GetInfo".to_vec()), (b":authority".to_vec(), b"localhost".to_vec())]
            );
            rest = &rest[9 + length..];
            if let Some(after) = rest.strip_prefix(&data[..]) {
                rest = after;
            }
        }
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn nonsense_ends_the_connection() {
        for wrong in [
            frame(CONTINUATION, END_HEADERS, b""),
            frame(HEADERS, END_HEADERS | PADDED, &[9, 1]),
            frame(HEADERS, END_HEADERS | PRIORITY, &[1, 2]),
            vec![0xff; 9],
        ] {
            assert!(passed(&[wrong]).await.is_err());
        }
    }

    proptest! {
        #[test]
        fn any_frames_are_survived(
            frames in proptest::collection::vec(
                (prop_oneof![Just(HEADERS), Just(CONTINUATION), any::<u8>()], any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)),
                0..6,
            ),
            rest in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut frames: Vec<_> = frames.iter().map(|(kind, flags, payload)| frame(*kind, *flags, payload)).collect();
            frames.push(rest);
            let _ = futures::executor::block_on(passed(&frames));
        }
    }
}
