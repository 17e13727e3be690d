//! Which node a new connection comes from: the one thing a proxy has to know about the peer protocol.
//!
//! ```text
//!   0        4     8         9      10      12       20         24        28   36        52       60
//!   ├────────┼─────┼─────────┼──────┼───────┼────────┼──────────┼─────────┼────┼─────────┼────────┼───
//!   │ length │ crc │ version │ kind │ flags │ magic  │ versions │ channel │ to │ cluster │ sender │ …
//! ```
//!
//! The first frame of every connection, its hello (docs/formats.md). Nothing is checked beyond what it
//! takes to find the sender: checking is the business of the node it is passed on to.

/// No more than this is read to find the sender.
pub(crate) const BYTES_MAX: usize = 4096;
const KIND_AT: usize = 9;
const KIND_HELLO: u8 = 1;
const MAGIC_AT: usize = 12;
const MAGIC: &[u8] = b"QUORATE\0";
const SENDER_AT: usize = 52;

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// This node is connecting.
    From(u64),
    /// More bytes are needed.
    Incomplete,
    /// This is not a node.
    Unknown,
}

/// Looks at the first bytes of a connection.
pub(crate) fn parse(bytes: &[u8]) -> Hello {
    let magic = bytes.get(MAGIC_AT..).unwrap_or_default();
    let known = magic.len().min(MAGIC.len());
    if magic.get(..known) != MAGIC.get(..known) || bytes.get(KIND_AT).is_some_and(|kind| *kind != KIND_HELLO)
    {
        return Hello::Unknown;
    }
    match bytes.get(SENDER_AT..).and_then(<[u8]>::first_chunk::<8>) {
        Some(sender) => Hello::From(u64::from_le_bytes(*sender)),
        None => Hello::Incomplete,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A hello of `node`, as far as a proxy looks.
    pub(crate) fn hello_of(node: u64) -> Vec<u8> {
        let mut bytes = vec![0; SENDER_AT];
        bytes[KIND_AT] = KIND_HELLO;
        bytes[MAGIC_AT..MAGIC_AT + MAGIC.len()].copy_from_slice(MAGIC);
        bytes.extend_from_slice(&node.to_le_bytes());
        bytes
    }

    #[test]
    fn sender_is_found_however_few_bytes_arrive_at_once() {
        let hello = hello_of(7);
        for length in 0..hello.len() {
            assert_eq!(parse(&hello[..length]), Hello::Incomplete, "{length} bytes");
        }
        assert_eq!(parse(&hello), Hello::From(7));
    }

    /// The library once widened the cluster id, and the proxy took half of it for the sender: it
    /// then cut links that a partition should have left alone.
    #[test]
    fn sender_is_found_in_the_hello_that_the_library_sends() {
        let fixtures = include_str!("../../../quorate/tests/fixtures/peer_frames.txt");
        let hex = fixtures.lines().find_map(|line| line.strip_prefix("hello ")).expect("a hello");
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        let hello: Vec<u8> = (0..hex.trim().len()).step_by(2).map(byte).collect();
        assert_eq!(parse(&hello), Hello::From(3));
    }

    #[test]
    fn browser_on_the_wrong_port_is_turned_away() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), Hello::Unknown);
    }
}
