//! Who gets in over TLS, who does not, and what both sides are told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_core::{GroupId, LogIndex, Message, MessageBody, NodeId, ReplicaId, Term};
use quorate_host::{Lane, Outbound, PeerBody, PeerMessage};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::{ClusterId, TransportConfig};
use crate::conformance::transport::{Fabric, run};
use crate::transport::handshake::Identity;
use crate::transport::tcp_tests::{Counted, PATIENCE, until};
use crate::transport::{
    CertificateProblem, Inbound, PeerTls, PemSource, TcpTransport, TlsConfig, TlsLoadError, TlsPart,
    Transport,
};

/// Signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate with one name, both uses, and what `alter` makes of it, with its key.
    fn sign(&self, name: &str, alter: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        alter(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// What node `node` needs.
    fn config(&self, node: u64) -> TlsConfig {
        config(&self.pem, self.sign(&name(node), |_| {}))
    }
}

fn config(ca: &str, (certificate, key): (String, String)) -> TlsConfig {
    let bytes = |text: String| PemSource::Bytes(text.into());
    TlsConfig {
        ca: bytes(ca.to_owned()),
        certificate: bytes(certificate),
        key: bytes(key),
        ..TlsConfig::files("", "", "")
    }
}

fn name(node: u64) -> String {
    format!("node-{node}.quorate.internal")
}

fn expired(params: &mut CertificateParams) {
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
}

/// A transport that counts what it gets.
struct Party {
    transport: TcpTransport,
    counted: Arc<Counted>,
    node: NodeId,
}

impl Party {
    /// Its certificates may be such that no peer accepts them. `None`: plain TCP.
    async fn start(node: u64, tls: Option<TlsConfig>) -> Self {
        let tls = tls.map(|tls| Arc::new(PeerTls::load_unchecked(tls, NodeId(node)).unwrap()));
        Self::start_with(node, tls).await
    }

    async fn start_with(node: u64, tls: Option<Arc<PeerTls>>) -> Self {
        let node = NodeId(node);
        let identity = Identity { cluster: ClusterId(9), node, incarnation: node.0, started: 1 };
        let config =
            TransportConfig { connect_timeout: Duration::from_secs(2), ..TransportConfig::default() };
        let transport = match tls {
            Some(tls) => TcpTransport::bind_tls("127.0.0.1:0", None, identity, config, tls).await,
            None => TcpTransport::bind("127.0.0.1:0", None, identity, config).await,
        };
        let (transport, counted) = (transport.unwrap(), Arc::<Counted>::default());
        transport.start(Arc::clone(&counted) as Arc<dyn Inbound>);
        Self { transport, counted, node }
    }

    fn send(&self, to: &Self) {
        self.send_to(to.node, to.transport.address());
    }

    fn send_to(&self, to: NodeId, address: SocketAddr) {
        let body = MessageBody::Heartbeat { commit: LogIndex(1), read_round: 1 };
        let raft = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), epoch: 0, body };
        let message = PeerMessage { group: GroupId(1), body: PeerBody::Raft(raft) };
        self.transport.send(vec![Outbound {
            to,
            address: address.to_string(),
            lane: Lane::Control,
            message,
        }]);
    }

    fn received(&self) -> u64 {
        self.counted.received.load(Ordering::Relaxed)
    }

    /// Sends to `to` until it is there.
    async fn reaches(&self, to: &Self) {
        let before = to.received();
        until("the message must arrive", || {
            self.send(to);
            to.received() > before
        })
        .await;
    }

    /// Sends to `to`, who must not get it; returns the reason that this side knows.
    async fn is_refused_by(&self, to: &Self) -> String {
        let (reported, before) = (self.counted.unreachable.load(Ordering::Relaxed), to.received());
        self.send(to);
        let told = || self.counted.unreachable.load(Ordering::Relaxed) > reported;
        until("the sender must be told", told).await;
        assert_eq!(to.received(), before, "nothing may be delivered");
        let status = self.transport.peers().into_iter().find(|peer| peer.node == to.node).unwrap();
        assert!(status.refused > 0 && !status.connected, "{status:?}");
        assert!(self.transport.stats().handshakes_refused > 0);
        status.error.unwrap()
    }

    async fn has_counted_a_refusal(&self) {
        until("it is counted", || self.transport.stats().handshakes_refused > 0).await;
    }
}

#[track_caller]
fn contains(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} should be in {text:?}");
}

/// Nodes on loopback; a restarted one listens where it did before.
struct Tls {
    authority: Authority,
    addresses: BTreeMap<NodeId, String>,
    started: u64,
}

impl Fabric for Tls {
    async fn transport(&mut self, node: NodeId) -> Arc<dyn Transport> {
        self.started += 1;
        let identity = Identity { cluster: ClusterId(9), node, incarnation: node.0, started: self.started };
        let listen = self.addresses.get(&node).cloned().unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let tls = Arc::new(PeerTls::load(self.authority.config(node.0), node).unwrap());
        let limits = TransportConfig::default();
        let transport = TcpTransport::bind_tls(&listen, None, identity, limits, tls).await.unwrap();
        self.addresses.insert(node, transport.address().to_string());
        Arc::new(transport)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_inside_tls_conforms() {
    run(|| Tls { authority: Authority::new(), addresses: BTreeMap::new(), started: 0 }).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_either_side() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (a, b) = (Party::start(1, Some(ours.config(1))).await, Party::start(2, Some(theirs.config(2))).await);
    contains(&a.is_refused_by(&b).await, "refused the peer: no trusted authority signed the certificate");
    b.has_counted_a_refusal().await;
    // Who trusts both gets as far as being refused by the other side.
    let trusting = config(&format!("{}{}", ours.pem, theirs.pem), ours.sign(&name(3), |_| {}));
    let c = Party::start(3, Some(trusting)).await;
    let reason = c.is_refused_by(&b).await;
    contains(&reason, "the peer refused this node's certificate: no trusted authority signed");
    c.reaches(&a).await;
}

#[tokio::test]
async fn a_certificate_is_good_for_one_node_only() {
    let authority = Authority::new();
    let a = Party::start(1, Some(authority.config(1))).await;
    // As one who is called: node 2 has the certificate of node 3.
    let b = Party::start(2, Some(authority.config(3))).await;
    let reason = a.is_refused_by(&b).await;
    contains(&reason, "the certificate is for node-3.quorate.internal, not for node-2.quorate.internal");
    b.has_counted_a_refusal().await;
    // As one who calls: it is told inside TLS.
    contains(&b.is_refused_by(&a).await, "the certificate is not that of the node which shows it");
    a.has_counted_a_refusal().await;
    // Whoever pretended to be node 2 has left no trace that locks the true one out.
    let identity = Identity { cluster: ClusterId(9), node: NodeId(2), incarnation: 77, started: 0 };
    let tls = Arc::new(PeerTls::load(authority.config(2), NodeId(2)).unwrap());
    let limits = TransportConfig::default();
    let transport = TcpTransport::bind_tls("127.0.0.1:0", None, identity, limits, tls).await.unwrap();
    let counted = Arc::<Counted>::default();
    transport.start(Arc::clone(&counted) as Arc<dyn Inbound>);
    Party { transport, counted, node: NodeId(2) }.reaches(&a).await;
}

#[tokio::test]
async fn a_wildcard_names_nobody() {
    let authority = Authority::new();
    let a = Party::start(1, Some(authority.config(1))).await;
    let wildcard = config(&authority.pem, authority.sign("*.quorate.internal", |_| {}));
    let b = Party::start(2, Some(wildcard)).await;
    contains(&a.is_refused_by(&b).await, "the certificate is for *.quorate.internal");
    contains(&b.is_refused_by(&a).await, "the certificate is not that of the node which shows it");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_either_side() {
    let authority = Authority::new();
    let a = Party::start(1, Some(authority.config(1))).await;
    let old = config(&authority.pem, authority.sign(&name(2), expired));
    let b = Party::start(2, Some(old)).await;
    contains(&a.is_refused_by(&b).await, "refused the peer: the certificate has expired");
    contains(
        &b.is_refused_by(&a).await,
        "the peer refused this node's certificate: the certificate has expired",
    );
}

#[tokio::test]
async fn a_peer_without_tls_is_told_so_and_so_is_one_with_it() {
    let authority = Authority::new();
    let with = Party::start(1, Some(authority.config(1))).await;
    let without = Party::start(2, None).await;
    contains(&without.is_refused_by(&with).await, "only TLS is spoken there");
    with.has_counted_a_refusal().await;
    contains(&with.is_refused_by(&without).await, "the peer does not speak TLS");
}

#[tokio::test]
async fn a_peer_that_shows_no_certificate_is_refused() {
    let authority = Authority::new();
    let a = Party::start(1, Some(authority.config(1))).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(a.transport.address()).await.unwrap();
    let name = ServerName::try_from(name(1)).unwrap();
    // The verdict comes after this side has finished its half.
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    let error = stream.read(&mut [0; 1]).await.unwrap_err().to_string();
    contains(&error, "CertificateRequired");
    a.has_counted_a_refusal().await;
}

fn write_files(directory: &Path, ca: &str, (certificate, key): &(String, String)) -> TlsConfig {
    let file = |name| directory.join(name);
    std::fs::write(file("ca.pem"), ca).unwrap();
    std::fs::write(file("node.pem"), certificate).unwrap();
    std::fs::write(file("node.key"), key).unwrap();
    TlsConfig::files(file("ca.pem"), file("node.pem"), file("node.key"))
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let both = format!("{}{}", old.pem, new.pem);
    let files = write_files(directory.path(), &both, &old.sign(&name(2), |_| {}));
    let tls = Arc::new(PeerTls::load(files, NodeId(2)).unwrap());
    assert!(!tls.reload().unwrap(), "nothing has changed");
    let b = Party::start_with(2, Some(Arc::clone(&tls))).await;
    let a = Party::start(1, Some(new.config(1))).await;
    contains(&a.is_refused_by(&b).await, "no trusted authority signed the certificate");

    write_files(directory.path(), &both, &new.sign(&name(2), |_| {}));
    assert!(tls.reload().unwrap(), "the files have changed");
    a.reaches(&b).await;
    b.reaches(&a).await;

    // A mistake changes nothing: neither a key that is not the certificate's, nor another node's certificate.
    let (_, other_key) = new.sign(&name(2), |_| {});
    std::fs::write(directory.path().join("node.key"), other_key).unwrap();
    assert!(matches!(tls.reload(), Err(TlsLoadError::Unusable { part: TlsPart::Key, .. })));
    write_files(directory.path(), &both, &new.sign(&name(3), |_| {}));
    let wrong_node = tls.reload();
    assert!(matches!(wrong_node, Err(TlsLoadError::Own(CertificateProblem::WrongNode { .. }))));
    let c = Party::start(3, Some(new.config(3))).await;
    c.reaches(&b).await;
}

#[test]
fn certificates_that_no_peer_would_accept_are_refused_when_loaded() {
    let (authority, other) = (Authority::new(), Authority::new());
    let load = |tls: TlsConfig| PeerTls::load(tls, NodeId(1)).unwrap_err().to_string();
    let own = |pair| load(config(&authority.pem, pair));
    contains(
        &own(authority.sign(&name(1), expired)),
        "this node's own certificate: the certificate has expired",
    );
    contains(&own(other.sign(&name(1), |_| {})), "no trusted authority");
    contains(&own(authority.sign(&name(2), |_| {})), "is for node-2.quorate.internal, not for node-1");
    let for_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    contains(&own(authority.sign(&name(1), for_servers)), "both serverAuth and clientAuth");
    contains(&load(config("nothing", authority.sign(&name(1), |_| {}))), "TLS: the CA must be PEM");
    let (certificate, _) = authority.sign(&name(1), |_| {});
    contains(&own((certificate, "nothing".to_owned())), "TLS: the private key must be PEM");
    let missing = load(TlsConfig::files("/nowhere/ca.pem", "/nowhere/node.pem", "/nowhere/node.key"));
    contains(&missing, "TLS: the CA cannot be read from /nowhere/ca.pem");
    contains(&load(TlsConfig { domain: "a b".to_owned(), ..authority.config(1) }), "is not a DNS domain");
}

#[test]
fn a_private_key_is_not_printed() {
    let text = format!("{:?}", Authority::new().config(1));
    assert!(!text.contains("PRIVATE"), "{text}");
}

/// Neither a caller nor one who is called can hold a connection open for nothing.
#[tokio::test]
async fn a_handshake_that_does_not_go_on_ends_in_time() {
    let authority = Authority::new();
    let tls = || Arc::new(PeerTls::load(authority.config(1), NodeId(1)).unwrap());
    let identity = Identity { cluster: ClusterId(9), node: NodeId(1), incarnation: 1, started: 1 };
    let limits =
        TransportConfig { connect_timeout: Duration::from_millis(100), ..TransportConfig::default() };
    let transport = TcpTransport::bind_tls("127.0.0.1:0", None, identity, limits, tls()).await.unwrap();
    let counted = Arc::<Counted>::default();
    transport.start(Arc::clone(&counted) as Arc<dyn Inbound>);
    for said in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(transport.address()).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        // A reset is as good as an end.
        drop(closed.expect("the connection must be closed"));
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let party = Party { transport, counted, node: NodeId(1) };
    party.send_to(NodeId(2), silent.local_addr().unwrap());
    let told = || party.counted.unreachable.load(Ordering::Relaxed) > 0;
    until("the sender must be told", told).await;
    contains(party.transport.peers()[0].error.as_ref().unwrap(), "did not answer in time");
}
