//! What TCP connections do with peers that are not what they should be.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_core::{GroupId, LogIndex, Message, MessageBody, NodeId, ReplicaId, Term};
use quorate_host::{Lane, Outbound, PeerBody, PeerMessage};
use quorate_storage::{Disk, DiskFault, DiskFile, DiskLock, KnownPeers, MemDisk};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::config::{ClusterId, TransportConfig};
use crate::transport::frame::{
    Channel, Frame, FrameError, HANDSHAKE_BYTES_MAX, Hello, Speaker, read_frame, write_hello, write_message,
    write_refused, write_welcome,
};
use crate::transport::handshake::{Identity, Refusal};
use crate::transport::{AddressResolver, Inbound, TcpTransport, Transport};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Counts what a transport delivers.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) received: AtomicU64,
    pub(super) unreachable: AtomicU64,
}

impl Inbound for Counted {
    fn received(&self, _: NodeId, _: PeerMessage) -> bool {
        self.received.fetch_add(1, Ordering::Relaxed);
        true
    }
    fn unreachable(&self, _: NodeId) {
        self.unreachable.fetch_add(1, Ordering::Relaxed);
    }
}

fn identity(node: u64) -> Identity {
    Identity { cluster: ClusterId(9), node: NodeId(node), incarnation: 100 + node, started: 1000 }
}

async fn start(identity: Identity) -> (TcpTransport, Arc<Counted>) {
    let config = TransportConfig { frame_bytes_max: 4 << 20, ..TransportConfig::default() };
    let transport = TcpTransport::bind("127.0.0.1:0", None, identity, config).await.unwrap();
    let counted = Arc::new(Counted::default());
    transport.start(Arc::clone(&counted) as Arc<dyn Inbound>);
    (transport, counted)
}

fn hello(node: u64, to: u64) -> Hello {
    let speaker = Speaker {
        cluster: ClusterId(9),
        node: NodeId(node),
        incarnation: 100 + node,
        started: 1000,
        address: "127.0.0.1:9".to_owned(),
    };
    Hello { versions: (1, 1), channel: Channel::Consensus, to: NodeId(to), speaker }
}

fn heartbeat() -> PeerMessage {
    let body = MessageBody::Heartbeat { commit: LogIndex(1), read_round: 1 };
    let raft = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), epoch: 0, body };
    PeerMessage { group: GroupId(1), body: PeerBody::Raft(raft) }
}

/// Says `hello` and returns the answer, with the stream to go on.
async fn greet(transport: &TcpTransport, hello: &Hello) -> (TcpStream, Option<Frame>) {
    let mut stream = TcpStream::connect(transport.address()).await.unwrap();
    let mut out = Vec::new();
    write_hello(hello, &mut out);
    stream.write_all(&out).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, read_frame(&mut stream, HANDSHAKE_BYTES_MAX)).await;
    let frame = answer.unwrap().unwrap().map(|(frame, _)| frame);
    (stream, frame)
}

pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = tokio::time::interval(Duration::from_millis(2));
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        pause.tick().await;
    }
}

/// Reads until the other side closes the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    // A reset is as good as an end.
    drop(read.expect("the connection must be closed"));
}

/// A peer's pod comes back at another address, and nobody changes the membership.
#[tokio::test]
async fn the_resolver_is_asked_again_for_every_attempt_to_connect() {
    let (there, _) = start(identity(2)).await;
    let table = Arc::new(Mutex::new(vec![there.address()]));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (lookup, log) = (Arc::clone(&table), Arc::clone(&asked));
    let resolver = AddressResolver::new(move |node, recorded: String| {
        log.lock().unwrap().push((node, recorded));
        let found = lookup.lock().unwrap().clone();
        async move { Ok(found) }
    });
    let config = TransportConfig { resolver: Some(resolver), ..TransportConfig::default() };
    let here = TcpTransport::bind("127.0.0.1:0", None, identity(1), config).await.unwrap();
    here.start(Arc::new(Counted::default()));
    let connected = || here.peers().first().is_some_and(|peer| peer.connected);
    let send = || {
        let (to, address, message) = (NodeId(2), "two.invalid:1".to_owned(), heartbeat());
        here.send(vec![Outbound { to, address, lane: Lane::Control, message }]);
    };
    send();
    until("the resolver's answer must be dialled", connected).await;
    assert_eq!(asked.lock().unwrap()[0], (NodeId(2), "two.invalid:1".to_owned()));
    there.stop().await;
    until("the connection must end", || !connected()).await;
    table.lock().unwrap().clear();
    send();
    let told = || here.peers()[0].error.as_ref().is_some_and(|error| error.contains("knows no address"));
    until("nothing found must be told", told).await;
    let (elsewhere, _) = start(identity(2)).await;
    table.lock().unwrap().push(elsewhere.address());
    let again = || {
        send();
        connected()
    };
    until("the new address must be dialled", again).await;
    elsewhere.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn a_stranger_is_told_why_it_is_refused() {
    let (transport, _) = start(identity(2)).await;
    let other_cluster =
        Hello { speaker: Speaker { cluster: ClusterId(8), ..hello(1, 2).speaker }, ..hello(1, 2) };
    let later_version = Hello { versions: (7, 9), ..hello(1, 2) };
    for (hello, expected) in [
        (other_cluster, Refusal::OtherCluster { theirs: ClusterId(9) }),
        (hello(1, 3), Refusal::OtherNode { theirs: NodeId(2) }),
        (hello(2, 2), Refusal::SameNodeId),
        (later_version, Refusal::Version { min: 1, max: 1 }),
    ] {
        let (mut stream, answer) = greet(&transport, &hello).await;
        assert_eq!(answer, Some(Frame::Refused(expected)));
        closed(&mut stream).await;
    }
    assert_eq!(transport.stats().handshakes_refused, 4);
    transport.stop().await;
}

/// A wiped directory may have forgotten a vote it gave.
#[tokio::test]
async fn a_wiped_node_is_refused_while_its_old_directory_is_remembered() {
    let (transport, _) = start(identity(2)).await;
    let (stream, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    drop(stream);
    let wiped =
        Hello { speaker: Speaker { incarnation: 7, started: 2000, ..hello(1, 2).speaker }, ..hello(1, 2) };
    let (_stream, answer) = greet(&transport, &wiped).await;
    assert_eq!(answer, Some(Frame::Refused(Refusal::OtherDirectory)));
    transport.stop().await;
}

async fn start_on(identity: Identity, disk: &MemDisk) -> TcpTransport {
    start_knowing(identity, KnownPeers::open(Arc::new(disk.clone())).unwrap()).await
}

async fn start_knowing(identity: Identity, known_peers: KnownPeers) -> TcpTransport {
    let config = TransportConfig::default();
    let transport = TcpTransport::bind("127.0.0.1:0", None, identity, config).await.unwrap();
    transport.remember(known_peers);
    transport.start(Arc::new(Counted::default()));
    transport
}

/// The votes that a wiped directory gave count for those who have been restarted since, too.
#[tokio::test]
async fn a_wiped_node_is_refused_after_its_peer_was_restarted() {
    let disk = MemDisk::new();
    let transport = start_on(identity(2), &disk).await;
    let (stream, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    drop(stream);
    transport.stop().await;
    disk.crash(1);

    let transport = start_on(identity(2), &disk).await;
    let wiped =
        Hello { speaker: Speaker { incarnation: 7, started: 2000, ..hello(1, 2).speaker }, ..hello(1, 2) };
    let (_stream, answer) = greet(&transport, &wiped).await;
    assert_eq!(answer, Some(Frame::Refused(Refusal::OtherDirectory)));
    let (_stream, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    transport.stop().await;
}

/// Who is not noted must not be heard: it could come back wiped, and nobody would know.
#[tokio::test]
async fn a_peer_that_cannot_be_noted_is_refused_until_it_can() {
    let disk = MemDisk::new();
    let transport = start_on(identity(2), &disk).await;
    disk.fail_at(disk.operations(), DiskFault::Error);
    let (mut stream, answer) = greet(&transport, &hello(1, 2)).await;
    assert_eq!(answer, Some(Frame::Refused(Refusal::NotNoted)));
    closed(&mut stream).await;
    let (_stream, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    transport.stop().await;
}

/// A disk that creates no file while somebody else has `held`.
struct HeldDisk {
    disk: MemDisk,
    held: Arc<tokio::sync::Mutex<()>>,
    creates: Arc<AtomicU64>,
}

impl Disk for HeldDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.creates.fetch_add(1, Ordering::Relaxed);
        drop(self.held.blocking_lock());
        self.disk.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.list(directory)
    }
    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.disk.create_dir_all(directory)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_dir(directory)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.disk.lock(path)
    }
}

/// Noting a stranger once held up every handshake, and a thread of the runtime, for as long as the disk took.
#[tokio::test]
async fn a_slow_disk_holds_up_strangers_only() {
    let held = Arc::<tokio::sync::Mutex<()>>::default();
    let disk = HeldDisk { disk: MemDisk::new(), held: Arc::clone(&held), creates: Arc::default() };
    let transport = start_knowing(identity(2), KnownPeers::open(Arc::new(disk)).unwrap()).await;
    let (stream, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    drop(stream);

    let slow = held.lock().await;
    let mut stranger = TcpStream::connect(transport.address()).await.unwrap();
    let mut out = Vec::new();
    write_hello(&hello(3, 2), &mut out);
    stranger.write_all(&out).await.unwrap();
    let (_stream, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
    drop(slow);
    let answer = tokio::time::timeout(PATIENCE, read_frame(&mut stranger, HANDSHAKE_BYTES_MAX)).await;
    assert!(matches!(answer, Ok(Ok(Some((Frame::Welcome(_), _))))), "{answer:?}");
    transport.stop().await;
}

/// When a transport has ended another process may have the directory: nothing may be written there any more.
#[tokio::test]
async fn the_end_waits_for_a_note_that_is_being_made() {
    let (held, creates) = (Arc::<tokio::sync::Mutex<()>>::default(), Arc::<AtomicU64>::default());
    let disk = HeldDisk { disk: MemDisk::new(), held: Arc::clone(&held), creates: Arc::clone(&creates) };
    let transport = start_knowing(identity(2), KnownPeers::open(Arc::new(disk)).unwrap()).await;
    let slow = held.lock().await;
    let mut stranger = TcpStream::connect(transport.address()).await.unwrap();
    let mut out = Vec::new();
    write_hello(&hello(3, 2), &mut out);
    stranger.write_all(&out).await.unwrap();
    until("it is being noted", || creates.load(Ordering::Relaxed) == 1).await;
    let mut stop = transport.stop();
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut stop).await.is_err());
    drop(slow);
    tokio::time::timeout(PATIENCE, stop).await.unwrap();
}

/// Two nodes that have nothing to say to each other: one comes back with nothing, and with a vote it forgot.
#[tokio::test]
async fn a_node_that_was_only_met_is_refused_when_it_comes_back_emptied() {
    let disk = MemDisk::new();
    let transport = start_on(identity(2), &disk).await;
    let (other, counted) = start(identity(1)).await;
    transport.meet(vec![(NodeId(1), other.address().to_string())]);
    until("the other node must be met", || transport.has_met(NodeId(1))).await;
    assert_eq!(counted.received.load(Ordering::Relaxed), 0);
    transport.stop().await;
    other.stop().await;

    let transport = start_on(identity(2), &disk).await;
    let wiped = Hello { speaker: Speaker { incarnation: 7, ..hello(1, 2).speaker }, ..hello(1, 2) };
    let (_stream, answer) = greet(&transport, &wiped).await;
    assert_eq!(answer, Some(Frame::Refused(Refusal::OtherDirectory)));
    transport.stop().await;
}

/// Nobody loses anything when a node cannot be met yet: it is no news for the groups. It is tried again.
#[tokio::test]
async fn a_node_that_starts_later_is_met_then() {
    let (transport, counted) = start(identity(2)).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    transport.meet(vec![(NodeId(1), free.clone())]);
    until("it must be tried", || transport.peers()[0].error.is_some()).await;
    let config = TransportConfig::default();
    let other = TcpTransport::bind(&free, None, identity(1), config).await.unwrap();
    other.start(Arc::new(Counted::default()));
    until("the other node must be met", || transport.has_met(NodeId(1))).await;
    assert_eq!(counted.unreachable.load(Ordering::Relaxed), 0);
    transport.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn of_two_copies_of_a_directory_the_later_process_is_believed() {
    let (transport, _) = start(identity(2)).await;
    let (mut first, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    let (mut first_bulk, _) = greet(&transport, &Hello { channel: Channel::Bulk, ..hello(1, 2) }).await;
    let later = Hello { speaker: Speaker { started: 2000, ..hello(1, 2).speaker }, ..hello(1, 2) };
    let (second, answer) = greet(&transport, &later).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    closed(&mut first).await;
    closed(&mut first_bulk).await;
    let (_again, answer) = greet(&transport, &hello(1, 2)).await;
    assert_eq!(answer, Some(Frame::Refused(Refusal::Superseded)));
    // When the later one is gone, a clock that went back does not lock the node out.
    drop(second);
    let gone = || transport.acquaintances_live(NodeId(1)) == 0;
    until("the later process must be noticed to be gone", gone).await;
    let (_again, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    transport.stop().await;
}

#[tokio::test]
async fn the_refused_side_knows_the_reason_too() {
    let (transport, counted) = start(identity(1)).await;
    let (other, _) = start(Identity { cluster: ClusterId(8), ..identity(2) }).await;
    let address = other.address().to_string();
    transport.send(vec![Outbound { to: NodeId(2), address, lane: Lane::Control, message: heartbeat() }]);
    until("the other node must be reported", || counted.unreachable.load(Ordering::Relaxed) > 0).await;
    let error = transport.peers()[0].error.clone().unwrap();
    assert!(error.contains("belongs to cluster 00000000000000000000000000000008"), "{error}");
    assert!(transport.stats().handshakes_refused > 0 && other.stats().handshakes_refused > 0);
    transport.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn another_node_at_the_address_is_noticed() {
    let (transport, counted) = start(identity(1)).await;
    let (other, other_counted) = start(identity(3)).await;
    let address = other.address().to_string();
    transport.send(vec![Outbound { to: NodeId(2), address, lane: Lane::Control, message: heartbeat() }]);
    until("the node must be reported", || counted.unreachable.load(Ordering::Relaxed) > 0).await;
    let error = transport.peers()[0].error.clone().unwrap();
    assert!(error.contains("node 3 answers at this address"), "{error}");
    assert_eq!(other_counted.received.load(Ordering::Relaxed), 0);
    transport.stop().await;
    other.stop().await;
}

/// Every kind of broken input ends its connection and nothing else.
#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let (transport, counted) = start(identity(2)).await;
    let (mut good, answer) = greet(&transport, &hello(1, 2)).await;
    assert!(matches!(answer, Some(Frame::Welcome(_))));
    let mut valid = Vec::new();
    assert!(write_message(&heartbeat(), 1 << 20, &mut valid));
    let flipped = |at: usize| {
        let mut bytes = valid.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let mut empty_body = Vec::new();
    write_refused(&Refusal::Superseded, &mut empty_body);
    let mut second_hello = Vec::new();
    write_hello(&hello(3, 2), &mut second_hello);
    let mut cases: Vec<(bool, Vec<u8>)> = vec![
        (false, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (false, valid.clone()),
        (false, vec![0xff; 64]),
        (true, (5_u32 << 20).to_le_bytes().into_iter().chain([0; 4]).collect()),
        (true, [[1_u8, 0, 0, 0], [0; 4], [0; 4]].concat()),
        (true, second_hello),
    ];
    cases.extend((0..valid.len()).map(|at| (true, flipped(at))));
    let before = transport.stats();
    let count = cases.len() as u64;
    for (after_handshake, bytes) in cases {
        let mut stream = if after_handshake {
            greet(&transport, &hello(3, 2)).await.0
        } else {
            TcpStream::connect(transport.address()).await.unwrap()
        };
        stream.write_all(&bytes).await.unwrap();
        // Ends a frame whose broken length asks for more.
        stream.shutdown().await.unwrap();
        closed(&mut stream).await;
    }
    let malformed = transport.stats().malformed - before.malformed;
    assert!(malformed + 40 > count && malformed <= count, "{malformed} of {count}");
    assert_eq!(counted.received.load(Ordering::Relaxed), 0, "nothing broken may be delivered");
    good.write_all(&valid).await.unwrap();
    until("the good peer is still heard", || counted.received.load(Ordering::Relaxed) == 1).await;
    transport.stop().await;
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_before_it_is_read() {
    let mut bytes = u32::MAX.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0; 4]);
    let read = read_frame(&mut bytes.as_slice(), 1 << 20).await;
    assert!(matches!(read, Err(FrameError::TooLarge { bytes_max: 1_048_576, .. })), "{read:?}");
}

/// The story of a peer that begins large messages on all its connections and ends none of them. What was begun takes no
/// more than the limit, heartbeats pass, and whoever has a whole message gets it through, again and again.
#[tokio::test]
async fn half_sent_messages_share_a_limit_and_starve_nobody() {
    const ROOM: usize = 8 << 20;
    let config = TransportConfig {
        frame_bytes_max: 4 << 20,
        reading_bytes_max: ROOM,
        write_timeout: Duration::from_millis(400),
        ..TransportConfig::default()
    };
    let transport = TcpTransport::bind("127.0.0.1:0", None, identity(2), config).await.unwrap();
    let counted = Arc::new(Counted::default());
    transport.start(Arc::clone(&counted) as Arc<dyn Inbound>);
    let mut large = Vec::new();
    assert!(write_message(&append(1, 3 << 20), 4 << 20, &mut large));
    let half = &large[..100_000];
    let mut halves = Vec::new();
    for node in 10..20 {
        let (mut stream, answer) = greet(&transport, &hello(node, 2)).await;
        assert!(matches!(answer, Some(Frame::Welcome(_))), "{answer:?}");
        stream.write_all(half).await.unwrap();
        halves.push(stream);
    }
    let held = || usize::try_from(transport.stats().reading_bytes).unwrap();
    until("two of them are arriving", || held() > ROOM / 2).await;
    assert!(held() <= ROOM);
    let (mut good, _) = greet(&transport, &hello(1, 2)).await;
    let mut small = Vec::new();
    assert!(write_message(&heartbeat(), 4 << 20, &mut small));
    let mut expected = 0;
    for (bytes, what) in
        [(&small, "a heartbeat needs no room"), (&large, "its turn comes"), (&large, "again")]
    {
        good.write_all(bytes).await.unwrap();
        expected += 1;
        until(what, || {
            assert!(held() <= ROOM);
            counted.received.load(Ordering::Relaxed) == expected
        })
        .await;
        // Those that lost their connections come again.
        let (mut stream, _) = greet(&transport, &hello(9 + expected, 2)).await;
        stream.write_all(half).await.unwrap();
        halves.push(stream);
    }
    drop(halves);
    until("nothing is held for those that are gone", || held() == 0).await;
    transport.stop().await;
}

/// With room for all, nobody is hurried.
#[tokio::test]
async fn a_slow_message_is_waited_for_when_nobody_needs_its_room() {
    let config = TransportConfig { write_timeout: Duration::from_millis(200), ..TransportConfig::default() };
    let transport = TcpTransport::bind("127.0.0.1:0", None, identity(2), config).await.unwrap();
    let counted = Arc::new(Counted::default());
    transport.start(Arc::clone(&counted) as Arc<dyn Inbound>);
    let mut large = Vec::new();
    assert!(write_message(&append(1, 200_000), 4 << 20, &mut large));
    let (mut stream, _) = greet(&transport, &hello(1, 2)).await;
    let mut pause = tokio::time::interval(Duration::from_millis(60));
    for part in large.chunks(large.len() / 6) {
        pause.tick().await;
        stream.write_all(part).await.unwrap();
    }
    until("it is read to its end", || counted.received.load(Ordering::Relaxed) == 1).await;
    transport.stop().await;
}

/// Whatever arrives, it is an error or a frame, never a panic.
#[tokio::test]
async fn random_bytes_never_panic() {
    let mut valid = Vec::new();
    write_hello(&hello(1, 2), &mut valid);
    assert!(write_message(&heartbeat(), 1 << 20, &mut valid));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..5_000 {
        let mut bytes = valid.clone();
        for _ in 0..next() % 4 + 1 {
            let at = usize::try_from(next()).unwrap() % bytes.len();
            bytes[at] = next().to_le_bytes()[0];
        }
        // With the checksum put right, the parsers behind it are reached too.
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if let Some(content) = bytes.get(8..8 + length) {
            let checksum = crc32c::crc32c(content);
            bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        }
        let mut reader = bytes.as_slice();
        while let Ok(Some(_)) = read_frame(&mut reader, HANDSHAKE_BYTES_MAX).await {}
    }
}

/// A peer that reads slowly gets the newest heartbeat before the megabytes that were queued earlier.
#[tokio::test]
async fn a_heartbeat_overtakes_the_appends_that_wait() {
    const APPENDS: u64 = 24;
    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = peer.local_addr().unwrap().to_string();
    let (transport, _) = start(identity(1)).await;
    let outbound = |lane, message| Outbound { to: NodeId(2), address: address.clone(), lane, message };
    transport.send(vec![outbound(Lane::Control, heartbeat())]);
    let (mut stream, _) = peer.accept().await.unwrap();
    let (hello, _) = read_frame(&mut stream, HANDSHAKE_BYTES_MAX).await.unwrap().unwrap();
    assert!(matches!(hello, Frame::Hello(_)));
    let mut out = Vec::new();
    let speaker = self::hello(2, 1).speaker;
    write_welcome(&crate::transport::frame::Welcome { version: 1, speaker }, &mut out);
    stream.write_all(&out).await.unwrap();
    let (first, _) = read_frame(&mut stream, 4 << 20).await.unwrap().unwrap();
    assert_eq!(first, Frame::Message(heartbeat()));
    let appends = (1..=APPENDS).map(|index| outbound(Lane::Append, append(index, 1 << 20)));
    transport.send(appends.collect());
    let (first, _) = read_frame(&mut stream, 4 << 20).await.unwrap().unwrap();
    assert_eq!(first, Frame::Message(append(1, 1 << 20)));
    transport.send(vec![outbound(Lane::Control, heartbeat())]);
    let mut before = 0;
    loop {
        let read = tokio::time::timeout(PATIENCE, read_frame(&mut stream, 4 << 20)).await.unwrap();
        if read.unwrap().unwrap().0 == Frame::Message(heartbeat()) {
            break;
        }
        before += 1;
    }
    assert!(before < APPENDS / 2, "{before} appends of 1 MiB went before the heartbeat");
    transport.stop().await;
}

fn append(index: u64, bytes: usize) -> PeerMessage {
    let payload = quorate_core::EntryPayload::Command(vec![7; bytes].into());
    let id = |index| quorate_core::LogId::new(1, index);
    let body = MessageBody::Append(quorate_core::Append {
        prev: id(index - 1),
        entries: vec![quorate_core::Entry { id: id(index), payload }].into(),
        commit: LogIndex(0),
        read_round: 0,
    });
    let raft = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), epoch: 0, body };
    PeerMessage { group: GroupId(1), body: PeerBody::Raft(raft) }
}

#[tokio::test]
async fn handshake_frames_survive_the_round_trip() {
    let mut out = Vec::new();
    let hello = hello(1, 2);
    let welcome = crate::transport::frame::Welcome { version: 1, speaker: hello.speaker.clone() };
    write_hello(&hello, &mut out);
    write_welcome(&welcome, &mut out);
    let refusals = [
        Refusal::OtherCluster { theirs: ClusterId(u128::MAX - 1) },
        Refusal::OtherNode { theirs: NodeId(u64::MAX - 1) },
        Refusal::OtherDirectory,
        Refusal::Superseded,
        Refusal::Version { min: 3, max: 500 },
        Refusal::SameNodeId,
        Refusal::TooManyConnections,
        Refusal::Certificate,
        Refusal::TlsRequired,
        Refusal::PlainOnly,
        Refusal::NotNoted,
        Refusal::Other { code: 999 },
    ];
    for refusal in &refusals {
        write_refused(refusal, &mut out);
    }
    let mut reader = out.as_slice();
    let mut frames = Vec::new();
    while let Some((frame, _)) = read_frame(&mut reader, HANDSHAKE_BYTES_MAX).await.unwrap() {
        frames.push(frame);
    }
    let expected: Vec<Frame> = [Frame::Hello(hello), Frame::Welcome(welcome)]
        .into_iter()
        .chain(refusals.into_iter().map(Frame::Refused))
        .collect();
    assert_eq!(frames, expected);
}

/// What `docs/formats.md` says, byte for byte. `UPDATE_GOLDENFILES=1` writes the fixture; then read the
/// difference, and think of the nodes that still run the version before.
#[test]
fn frames_are_what_the_fixture_says() {
    let frame = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let speaker = Speaker {
        cluster: ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        node: NodeId(3),
        incarnation: 0x0123_4567_89ab_cdef,
        started: 1_700_000_000_000_000_000,
        address: "10.0.0.3:7001".to_owned(),
    };
    let hello = Hello { versions: (1, 2), channel: Channel::Bulk, to: NodeId(5), speaker: speaker.clone() };
    let welcome = crate::transport::frame::Welcome { version: 1, speaker };
    let found = [
        ("hello", frame(&|out| write_hello(&hello, out))),
        ("welcome", frame(&|out| write_welcome(&welcome, out))),
        (
            "refused-cluster",
            frame(&|out| write_refused(&Refusal::OtherCluster { theirs: ClusterId(8) }, out)),
        ),
        ("refused-version", frame(&|out| write_refused(&Refusal::Version { min: 1, max: 2 }, out))),
        ("message", frame(&|out| assert!(write_message(&heartbeat(), 1 << 20, out)))),
    ];
    let found: String = found.iter().map(|(name, bytes)| format!("{name} {bytes}\n")).collect();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/peer_frames.txt");
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(file, &found).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap();
    assert!(found == expected, "frames differ from the fixture; they are now:\n{found}");
}
