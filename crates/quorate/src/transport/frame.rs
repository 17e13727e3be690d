//! The frames on a peer connection.
//!
//! ```text
//!   0        4         8         9      10      12
//!   ├────────┼─────────┼─────────┼──────┼───────┼──────────┤
//!   │ length │ crc32c  │ version │ kind │ flags │ body …   │      little-endian
//!   └────────┴─────────┴─────────┴──────┴───────┴──────────┘
//!     of what follows    ◄──── covered by length and crc ──►
//!     the crc
//! ```
//!
//! * A length is checked against the limit, and there is room for it (`reading_room.rs`), before anything is
//!   allocated for it.
//! * The checksum is checked before anything is parsed; what is parsed never panics.
//! * Unknown flags and bytes after the known fields of a handshake are ignored, so that later
//!   versions can add some; an unknown version or kind ends the connection.

use bytes::Bytes;
use quorate_core::NodeId;
use quorate_host::{PeerMessage, decode_peer_message, encode_peer_message};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::ClusterId;
use crate::transport::handshake::Refusal;
use crate::transport::reading_room::ReadingRoom;

/// The version of the frame layout.
pub(crate) const FRAME_VERSION: u8 = 1;
/// The versions of the conversation this build can hold.
pub(crate) const PROTOCOL_VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;
/// The largest frame during a handshake, in bytes.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 4096;
/// Length and checksum.
const PREFIX_BYTES: usize = 8;
/// Version, kind and flags.
const HEADER_BYTES: usize = 4;
/// What a handshake begins with: an HTTP client on the wrong port is told apart at once.
const MAGIC: [u8; 8] = *b"QUORATE\0";

const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
const KIND_REFUSED: u8 = 3;
const KIND_MESSAGE: u8 = 4;

/// Which of the two connections between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Channel {
    /// Control messages and appends.
    Consensus,
    /// Snapshot pieces.
    Bulk,
}

/// The first frame on a connection, from the side that connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The protocol versions it can speak.
    pub(crate) versions: (u16, u16),
    /// What the connection is for.
    pub(crate) channel: Channel,
    /// Which node it wants to reach.
    pub(crate) to: NodeId,
    /// Who it is.
    pub(crate) speaker: Speaker,
}

/// The answer to a [`Hello`] that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// The protocol version both use from now on.
    pub(crate) version: u16,
    /// Who it is.
    pub(crate) speaker: Speaker,
}

/// Who is speaking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Speaker {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// The data directory, by a random number it got when it was created.
    pub(crate) incarnation: u64,
    /// When the process started, in nanoseconds since 1970: tells two processes apart.
    pub(crate) started: u64,
    /// Where it is reached.
    pub(crate) address: String,
}

/// Anything that can stand in a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    Refused(Refusal),
    Message(PeerMessage),
}

/// Why a connection cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("a frame of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("a frame of {bytes} bytes is too short")]
    TooShort { bytes: usize },
    #[error("a frame of {bytes} bytes took too long while others waited for the room it takes")]
    Slow { bytes: usize },
    #[error("a frame's checksum does not match")]
    Checksum,
    #[error("frame version {0} is unknown to this build")]
    Version(u8),
    #[error("frame kind {0} is unknown to this build")]
    Kind(u8),
    #[error("this is not a quorate peer")]
    Magic,
    #[error("it speaks TLS, and this node does not: give both nodes certificates, or neither")]
    Tls,
    #[error("the body of a frame is malformed: {0}")]
    Body(quorate_core::DecodeError),
}

/// Reads one frame; `None` when the peer closed the connection between two frames.
pub(crate) async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Option<(Frame, usize)>, FrameError> {
    read_frame_in(reader, bytes_max, None).await
}

/// The same, in `room`.
pub(crate) async fn read_frame_in(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
    room: Option<&ReadingRoom>,
) -> Result<Option<(Frame, usize)>, FrameError> {
    let mut prefix = [0_u8; PREFIX_BYTES];
    match reader.read_exact(&mut prefix).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3] = prefix;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    // The first bytes of TLS, where a short frame should begin.
    if length > bytes_max && bytes_max == HANDSHAKE_BYTES_MAX && (l0, l1) == (0x16, 0x03) {
        return Err(FrameError::Tls);
    }
    if length > bytes_max {
        return Err(FrameError::TooLarge { bytes: length, bytes_max });
    }
    if length < HEADER_BYTES {
        return Err(FrameError::TooShort { bytes: length });
    }
    let held = match room {
        Some(room) => room.enter(length).await,
        None => None,
    };
    let mut content = vec![0_u8; length];
    let reading = reader.read_exact(&mut content);
    match room.filter(|_| held.is_some()) {
        Some(room) => room.read(reading).await.ok_or(FrameError::Slow { bytes: length })??,
        None => reading.await?,
    };
    let frame = parse(u32::from_le_bytes([c0, c1, c2, c3]), Bytes::from(content))?;
    Ok(Some((frame, PREFIX_BYTES + length)))
}

/// Parses what follows the checksum.
fn parse(checksum: u32, content: Bytes) -> Result<Frame, FrameError> {
    if crc32c::crc32c(&content) != checksum {
        return Err(FrameError::Checksum);
    }
    let &[version, kind, _, _] =
        content.first_chunk::<HEADER_BYTES>().ok_or(FrameError::TooShort { bytes: content.len() })?;
    if version != FRAME_VERSION {
        return Err(FrameError::Version(version));
    }
    let body = content.slice(HEADER_BYTES..);
    match kind {
        KIND_HELLO => parse_hello(&body).map(Frame::Hello),
        KIND_WELCOME => parse_welcome(&body).map(Frame::Welcome),
        KIND_REFUSED => parse_refused(&body).map(Frame::Refused),
        KIND_MESSAGE => decode_peer_message(&body).map(Frame::Message).map_err(FrameError::Body),
        unknown => Err(FrameError::Kind(unknown)),
    }
}

/// Appends a message's frame to `out`; `false`, and nothing appended, if it is over `bytes_max`.
pub(crate) fn write_message(message: &PeerMessage, bytes_max: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    begin(KIND_MESSAGE, out);
    encode_peer_message(message, out);
    finish(start, bytes_max, out)
}

/// Appends a `Hello` frame to `out`.
pub(crate) fn write_hello(hello: &Hello, out: &mut Vec<u8>) {
    let start = out.len();
    begin(KIND_HELLO, out);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&hello.versions.0.to_le_bytes());
    out.extend_from_slice(&hello.versions.1.to_le_bytes());
    out.push(match hello.channel {
        Channel::Consensus => 1,
        Channel::Bulk => 2,
    });
    out.extend_from_slice(&[0; 3]);
    out.extend_from_slice(&hello.to.0.to_le_bytes());
    write_speaker(&hello.speaker, out);
    finish(start, HANDSHAKE_BYTES_MAX, out);
}

/// Appends a `Welcome` frame to `out`.
pub(crate) fn write_welcome(welcome: &Welcome, out: &mut Vec<u8>) {
    let start = out.len();
    begin(KIND_WELCOME, out);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&welcome.version.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    write_speaker(&welcome.speaker, out);
    finish(start, HANDSHAKE_BYTES_MAX, out);
}

/// Appends a `Refused` frame to `out`.
pub(crate) fn write_refused(refusal: &Refusal, out: &mut Vec<u8>) {
    let (code, detail) = match refusal {
        Refusal::OtherCluster { theirs } => (1_u16, theirs.0),
        Refusal::OtherNode { theirs } => (2, u128::from(theirs.0)),
        Refusal::OtherDirectory => (3, 0),
        Refusal::Superseded => (4, 0),
        Refusal::Version { min, max } => (5, u128::from(*min) | u128::from(*max) << 16),
        Refusal::SameNodeId => (6, 0),
        Refusal::TooManyConnections => (7, 0),
        Refusal::Certificate => (8, 0),
        Refusal::TlsRequired => (9, 0),
        Refusal::PlainOnly => (10, 0),
        Refusal::NotNoted => (11, 0),
        Refusal::Other { code } => (*code, 0),
    };
    let start = out.len();
    begin(KIND_REFUSED, out);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&detail.to_le_bytes());
    finish(start, HANDSHAKE_BYTES_MAX, out);
}

fn begin(kind: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    out.extend_from_slice(&[FRAME_VERSION, kind, 0, 0]);
}

/// Fills in length and checksum of the frame that begins at `start`.
fn finish(start: usize, bytes_max: usize, out: &mut Vec<u8>) -> bool {
    let content = out.get(start + PREFIX_BYTES..).unwrap_or_default();
    let length = match u32::try_from(content.len()) {
        Ok(length) if content.len() <= bytes_max => length,
        Ok(_) | Err(_) => {
            out.truncate(start);
            return false;
        }
    };
    let checksum = crc32c::crc32c(content);
    if let Some(prefix) = out.get_mut(start..start + PREFIX_BYTES) {
        let (length_field, checksum_field) = prefix.split_at_mut(4);
        length_field.copy_from_slice(&length.to_le_bytes());
        checksum_field.copy_from_slice(&checksum.to_le_bytes());
    }
    true
}

fn write_speaker(speaker: &Speaker, out: &mut Vec<u8>) {
    out.extend_from_slice(&speaker.cluster.0.to_le_bytes());
    out.extend_from_slice(&speaker.node.0.to_le_bytes());
    out.extend_from_slice(&speaker.incarnation.to_le_bytes());
    out.extend_from_slice(&speaker.started.to_le_bytes());
    let length = u16::try_from(speaker.address.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(speaker.address.as_bytes().get(..usize::from(length)).unwrap_or_default());
}

fn parse_hello(body: &[u8]) -> Result<Hello, FrameError> {
    let mut fields = Fields::after_magic(body)?;
    Ok(Hello {
        versions: (fields.u16("a version")?, fields.u16("a version")?),
        channel: match fields.take::<4>("a channel")?[0] {
            1 => Channel::Consensus,
            2 => Channel::Bulk,
            _ => return Err(fields.wrong("channel 1 or 2")),
        },
        to: NodeId(fields.u64("a node id")?),
        speaker: fields.speaker()?,
    })
}

fn parse_welcome(body: &[u8]) -> Result<Welcome, FrameError> {
    let mut fields = Fields::after_magic(body)?;
    let version = fields.u16("a version")?;
    fields.take::<6>("padding")?;
    Ok(Welcome { version, speaker: fields.speaker()? })
}

fn parse_refused(body: &[u8]) -> Result<Refusal, FrameError> {
    let mut fields = Fields::after_magic(body)?;
    let code = fields.u16("a code")?;
    fields.take::<6>("padding")?;
    let detail = fields.take::<16>("a detail")?;
    let [n0, n1, n2, n3, n4, n5, n6, n7, ..] = detail;
    Ok(match code {
        1 => Refusal::OtherCluster { theirs: ClusterId(u128::from_le_bytes(detail)) },
        2 => Refusal::OtherNode { theirs: NodeId(u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7])) },
        3 => Refusal::OtherDirectory,
        4 => Refusal::Superseded,
        5 => Refusal::Version { min: u16::from_le_bytes([n0, n1]), max: u16::from_le_bytes([n2, n3]) },
        6 => Refusal::SameNodeId,
        7 => Refusal::TooManyConnections,
        8 => Refusal::Certificate,
        9 => Refusal::TlsRequired,
        10 => Refusal::PlainOnly,
        11 => Refusal::NotNoted,
        code => Refusal::Other { code },
    })
}

/// Reads the fields of a handshake frame one after the other.
struct Fields<'a> {
    body: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    fn after_magic(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut fields = Self { body, offset: 0 };
        if fields.take::<8>("the magic number")? == MAGIC { Ok(fields) } else { Err(FrameError::Magic) }
    }
    fn wrong(&self, expected: &'static str) -> FrameError {
        FrameError::Body(quorate_core::DecodeError { offset: self.offset, expected })
    }
    fn take<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], FrameError> {
        let rest = self.body.get(self.offset..).unwrap_or_default();
        let field = *rest.first_chunk::<N>().ok_or_else(|| self.wrong(expected))?;
        self.offset += N;
        Ok(field)
    }
    fn u16(&mut self, expected: &'static str) -> Result<u16, FrameError> {
        self.take::<2>(expected).map(u16::from_le_bytes)
    }
    fn u64(&mut self, expected: &'static str) -> Result<u64, FrameError> {
        self.take::<8>(expected).map(u64::from_le_bytes)
    }
    fn speaker(&mut self) -> Result<Speaker, FrameError> {
        let cluster = ClusterId(u128::from_le_bytes(self.take("a cluster id")?));
        let node = NodeId(self.u64("a node id")?);
        let incarnation = self.u64("an incarnation")?;
        let started = self.u64("a start time")?;
        let length = usize::from(self.u16("an address length")?);
        if length > quorate_core::ADDRESS_BYTES_MAX {
            return Err(self.wrong("an address of at most 1024 bytes"));
        }
        let address = self.body.get(self.offset..self.offset + length);
        let address = address.and_then(|bytes| std::str::from_utf8(bytes).ok());
        let address = address.ok_or_else(|| self.wrong("an address in UTF-8"))?.to_owned();
        self.offset += length;
        Ok(Speaker { cluster, node, incarnation, started, address })
    }
}
