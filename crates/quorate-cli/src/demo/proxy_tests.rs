//! Stories about wires: a partition stops bytes without losing them, a slow link delays them.

use std::collections::BTreeSet;

use super::super::hello::tests::hello_of;
use super::*;

/// A proxy in front of an echoing "node 2".
struct Scene {
    proxy: SocketAddr,
    network: watch::Sender<Network>,
    upstream: watch::Sender<Option<SocketAddr>>,
    _tasks: JoinSet<()>,
}

async fn scene() -> Scene {
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = watch::Sender::new(Some(node.local_addr().unwrap()));
    let network = watch::Sender::new(Network::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let wire = Wire { target: 2, upstream: upstream.subscribe(), network: network.subscribe() };
    let mut tasks = JoinSet::new();
    tasks.spawn(run(listener, wire));
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = node.accept().await {
            tokio::spawn(async move {
                let (mut reading, mut writing) = stream.split();
                tokio::io::copy(&mut reading, &mut writing).await
            });
        }
    });
    Scene { proxy, network, upstream, _tasks: tasks }
}

/// Connects as node 1 and hears its own hello back.
async fn connect(scene: &Scene) -> TcpStream {
    let mut stream = TcpStream::connect(scene.proxy).await.unwrap();
    stream.write_all(&hello_of(1)).await.unwrap();
    stream
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    timeout(Duration::from_secs(5), stream.read_exact(&mut read)).await.unwrap().unwrap();
    assert_eq!(read, bytes);
}

/// Nothing arrives for as long as it takes to be sure.
async fn expect_silence(stream: &mut TcpStream) {
    let read = timeout(Duration::from_millis(100), stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn partition_holds_bytes_back_until_it_is_healed() {
    let scene = scene().await;
    let mut stream = connect(&scene).await;
    expect(&mut stream, &hello_of(1)).await;

    scene.network.send_modify(|network| network.partition(vec![BTreeSet::from([1])]));
    stream.write_all(b"during").await.unwrap();
    expect_silence(&mut stream).await;
    scene.network.send_modify(Network::heal);
    expect(&mut stream, b"during").await;
}

#[tokio::test]
async fn connection_made_during_a_partition_waits_for_its_end() {
    let scene = scene().await;
    scene.network.send_modify(|network| network.partition(vec![BTreeSet::from([1]), BTreeSet::from([2])]));
    let mut stream = connect(&scene).await;
    expect_silence(&mut stream).await;
    scene.network.send_modify(Network::heal);
    expect(&mut stream, &hello_of(1)).await;
}

#[tokio::test]
async fn slow_link_delays_both_directions() {
    let scene = scene().await;
    let mut stream = connect(&scene).await;
    expect(&mut stream, &hello_of(1)).await;
    scene.network.send_modify(|network| network.slow(2, Duration::from_millis(60)));
    let begun = Instant::now();
    stream.write_all(b"slow").await.unwrap();
    expect(&mut stream, b"slow").await;
    assert!(begun.elapsed() >= Duration::from_millis(120), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn end_of_one_side_reaches_the_other() {
    let scene = scene().await;
    let mut stream = connect(&scene).await;
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(all.ends_with(b"last words"));
}

#[tokio::test]
async fn dead_node_closes_connections_at_once() {
    let scene = scene().await;
    scene.upstream.send_replace(None);
    let mut stream = connect(&scene).await;
    let read = timeout(Duration::from_secs(5), stream.read_u8()).await.unwrap();
    assert!(read.is_err());
}
