//! Mutual TLS between nodes: both sides show a certificate, and a certificate is good for one node only.
//!
//! ```text
//!   connecting side (node 1)                       accepting side (node 2)
//!     ClientHello, "node-2.quorate.internal"  ──►
//!                                             ◄──  certificate: signed by the CA, names node-2
//!     certificate: signed by the CA           ──►
//!     Hello { speaker: node 1, … }            ──►  the certificate must name node-1, else Refused
//!     ─────────── from here on the frames of a plain connection, inside TLS ───────────
//! ```
//!
//! * A node with the id N shows a certificate with the DNS name `node-N.DOMAIN`, in exactly these words: a
//!   wildcard names nobody. What a node says in its `Hello` counts only if its certificate says the same.
//! * TLS 1.3 only, and no resumed sessions: every connection verifies again, so that a reload or an expiry is
//!   noticed by every connection made after it. Connections that exist already are left alone.
//! * Certificates that cannot work are refused when they are loaded, not when the first peer complains; after
//!   a failed reload those from before stay.
//!
//! Not here: revocation lists (give certificates short lives), who may be a member (the membership decides).

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_core::NodeId;
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::transport::tls_error::{CertificateProblem, TlsError, TlsLoadError, TlsPart};

/// The domain of the names in certificates, unless another is configured.
const DOMAIN: &str = "quorate.internal";

/// Where PEM text comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum PemSource {
    /// This file, read at start and at every reload.
    File(PathBuf),
    /// These bytes.
    Bytes(Bytes),
}

impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            // It may be a private key.
            Self::Bytes(bytes) => write!(f, "Bytes(<{} bytes>)", bytes.len()),
        }
    }
}

/// The certificates that a node shows to its peers and those it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificates of the authorities that sign nodes' certificates. More than one while the authority is
    /// being replaced.
    pub ca: PemSource,
    /// This node's certificate, then the intermediate ones, if any. It names `node-ID.DOMAIN` as DNS name and may
    /// be used for both serverAuth and clientAuth.
    pub certificate: PemSource,
    /// The certificate's private key: PKCS#8, SEC1 or PKCS#1, not encrypted.
    pub key: PemSource,
    /// The domain of the names in certificates. Default `quorate.internal`. Clusters that share an authority
    /// need one each.
    pub domain: String,
}

impl TlsConfig {
    /// Three PEM files, and the default domain.
    pub fn files(ca: impl Into<PathBuf>, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let file = |path: PathBuf| PemSource::File(path);
        Self {
            ca: file(ca.into()),
            certificate: file(certificate.into()),
            key: file(key.into()),
            domain: DOMAIN.to_owned(),
        }
    }

    /// The DNS name that the certificate of `node` must have.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> String {
        format!("node-{node}.{}", self.domain)
    }
}

/// A node's certificates, loaded; shared by its connections.
pub struct PeerTls {
    config: TlsConfig,
    node: NodeId,
    current: Mutex<Loaded>,
}

/// Three texts, ready for use.
#[derive(Clone)]
struct Loaded {
    fingerprint: u64,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls")
            .field("config", &self.config)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl PeerTls {
    /// Reads the certificates of `node`. Blocks while files are read.
    ///
    /// # Errors
    /// See [`TlsLoadError`]; also when peers would not accept this node's own certificate.
    pub fn load(config: TlsConfig, node: NodeId) -> Result<Self, TlsLoadError> {
        let pems = Pems::read(&config)?;
        let current = Mutex::new(pems.parse(&config, node, Own::Checked)?);
        Ok(Self { config, node, current })
    }

    /// Reads them again; connections made from now on use what was read. Returns whether anything had
    /// changed. Blocks while files are read.
    ///
    /// # Errors
    /// As for [`PeerTls::load`]; the certificates from before stay in use.
    pub fn reload(&self) -> Result<bool, TlsLoadError> {
        let pems = Pems::read(&self.config)?;
        if pems.fingerprint() == self.current().fingerprint {
            return Ok(false);
        }
        let loaded = pems.parse(&self.config, self.node, Own::Checked)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }

    /// Certificates that peers are expected to refuse.
    #[cfg(test)]
    pub(crate) fn load_unchecked(config: TlsConfig, node: NodeId) -> Result<Self, TlsLoadError> {
        let current = Mutex::new(Pems::read(&config)?.parse(&config, node, Own::Unchecked)?);
        Ok(Self { config, node, current })
    }

    fn current(&self) -> Loaded {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Protects a connection to `node`.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        node: NodeId,
    ) -> std::io::Result<Result<TlsStream<TcpStream>, TlsError>> {
        let name = self.config.name_of(node);
        let Ok(server_name) = ServerName::try_from(name) else {
            // The domain was checked when it was loaded.
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        match TlsConnector::from(self.current().client).connect(server_name, stream).await {
            Ok(stream) => {
                let stream = TlsStream::from(stream);
                let verdict = self.check(&stream, node).map_err(TlsError::Certificate);
                Ok(verdict.map(|()| stream))
            }
            Err(error) => TlsError::from_io(error).map(Err),
        }
    }

    /// Protects a connection that somebody opened; on failure gives the bare connection back.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, (std::io::Result<TlsError>, TcpStream)> {
        let accepted = TlsAcceptor::from(self.current().server).accept(stream).into_fallible().await;
        accepted.map(TlsStream::from).map_err(|(error, stream)| (TlsError::from_io(error), stream))
    }

    /// Whether the certificate at the other end of `stream` is that of `node`.
    pub(crate) fn check(
        &self,
        stream: &TlsStream<TcpStream>,
        node: NodeId,
    ) -> Result<(), CertificateProblem> {
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate =
            certificates.and_then(<[CertificateDer<'_>]>::first).ok_or(CertificateProblem::Missing)?;
        check_name(certificate, &self.config.name_of(node))
    }
}

/// Whether one of the certificate's DNS names is `expected`, word for word.
fn check_name(certificate: &CertificateDer<'_>, expected: &str) -> Result<(), CertificateProblem> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    let parsed = parsed.map_err(|error| CertificateProblem::Other(Box::new(error)))?;
    if parsed.valid_dns_names().any(|name| name.eq_ignore_ascii_case(expected)) {
        return Ok(());
    }
    let presented = parsed.valid_dns_names().map(str::to_owned).collect();
    Err(CertificateProblem::WrongNode { expected: expected.to_owned(), presented })
}

/// Whether a node's own certificate is looked at as a peer would.
#[derive(Clone, Copy)]
enum Own {
    Checked,
    #[cfg(test)]
    Unchecked,
}

/// Three texts as they were read.
struct Pems {
    ca: Bytes,
    certificate: Bytes,
    key: Bytes,
}

impl Pems {
    fn read(config: &TlsConfig) -> Result<Self, TlsLoadError> {
        let read = |part, source: &PemSource| match source {
            PemSource::Bytes(bytes) => Ok(bytes.clone()),
            PemSource::File(path) => {
                let bytes = std::fs::read(path);
                bytes.map(Bytes::from).map_err(|source| TlsLoadError::Read {
                    part,
                    path: path.clone(),
                    source,
                })
            }
        };
        Ok(Self {
            ca: read(TlsPart::Authority, &config.ca)?,
            certificate: read(TlsPart::Certificate, &config.certificate)?,
            key: read(TlsPart::Key, &config.key)?,
        })
    }

    /// Tells texts apart that differ.
    fn fingerprint(&self) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one((&self.ca, &self.certificate, &self.key))
    }

    fn parse(&self, config: &TlsConfig, node: NodeId, own: Own) -> Result<Loaded, TlsLoadError> {
        let unusable = |part| move |source: Cause| TlsLoadError::Unusable { part, source };
        let provider = Arc::new(ring::default_provider());
        let mut authorities = RootCertStore::empty();
        for authority in certificates(TlsPart::Authority, &self.ca)? {
            authorities.add(authority).map_err(|error| unusable(TlsPart::Authority)(error.into()))?;
        }
        let authorities = Arc::new(authorities);
        let chain = certificates(TlsPart::Certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| TlsLoadError::Pem { part: TlsPart::Key, source: error.into() })?;
        let pair = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider);
        pair.map_err(|error| unusable(TlsPart::Key)(error.into()))?;

        let verifiers = Verifiers::new(&authorities, &provider)?;
        match own {
            Own::Checked => verifiers.check_own(&chain, config, node)?,
            #[cfg(test)]
            Own::Unchecked => {}
        }
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(TlsPart::Key)(error.into()))?
            .with_webpki_verifier(verifiers.of_servers);
        let mut client = client
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| unusable(TlsPart::Key)(error.into()))?;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(TlsPart::Key)(error.into()))?
            .with_client_cert_verifier(verifiers.of_clients)
            .with_single_cert(chain, key)
            .map_err(|error| unusable(TlsPart::Key)(error.into()))?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Loaded { fingerprint: self.fingerprint(), client: Arc::new(client), server: Arc::new(server) })
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn certificates(part: TlsPart, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsLoadError> {
    let wrong = |source: Cause| TlsLoadError::Pem { part, source };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| wrong(error.into()))?;
    if found.is_empty() {
        return Err(wrong("no BEGIN CERTIFICATE in it".into()));
    }
    Ok(found)
}

/// What both sides of a connection use to judge the other.
struct Verifiers {
    of_servers: Arc<WebPkiServerVerifier>,
    of_clients: Arc<dyn ClientCertVerifier>,
}

impl Verifiers {
    fn new(authorities: &Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Self, TlsLoadError> {
        let unusable = |source: Cause| TlsLoadError::Unusable { part: TlsPart::Authority, source };
        let of_servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(authorities), Arc::clone(provider));
        let of_clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), Arc::clone(provider));
        Ok(Self {
            of_servers: of_servers.build().map_err(|error| unusable(error.into()))?,
            of_clients: of_clients.build().map_err(|error| unusable(error.into()))?,
        })
    }

    /// Judges this node's own certificate as its peers will, in both roles.
    fn check_own(
        &self,
        chain: &[CertificateDer<'static>],
        config: &TlsConfig,
        node: NodeId,
    ) -> Result<(), TlsLoadError> {
        let own = |error| TlsLoadError::Own(CertificateProblem::from_rustls(error));
        let expected = config.name_of(node);
        let name = ServerName::try_from(expected.clone())
            .map_err(|_invalid| TlsLoadError::Domain { domain: config.domain.clone() })?;
        let Some((certificate, intermediates)) = chain.split_first() else {
            return Err(TlsLoadError::Own(CertificateProblem::Missing));
        };
        // A wildcard would pass the verifier below.
        check_name(certificate, &expected).map_err(TlsLoadError::Own)?;
        let now = UnixTime::now();
        self.of_servers.verify_server_cert(certificate, intermediates, &name, &[], now).map_err(own)?;
        self.of_clients.verify_client_cert(certificate, intermediates, now).map_err(own)?;
        Ok(())
    }
}
