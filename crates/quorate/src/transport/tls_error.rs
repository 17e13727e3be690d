//! What can be wrong with certificates and with TLS connections, in words for whoever has to mend it.
//!
//! Both sides see a reason: the one that refuses knows it first-hand, the other from the alert that TLS
//! sends, which is coarser (an alert does not say which node a certificate names).

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as RustlsError};

/// A cause whose type belongs to a library below.
type Cause = Box<dyn StdError + Send + Sync>;

/// What is wrong with a certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// Its time is over.
    #[error("the certificate has expired, or is not valid yet: make a new one (or set the clock right)")]
    Expired,
    /// No trusted authority signed it.
    #[error("no trusted authority signed the certificate: every node needs the same CA file")]
    UnknownAuthority,
    /// It names other nodes.
    #[error("the certificate is for {}, not for {expected}: give each node its own", Names(presented))]
    WrongNode {
        /// The DNS name it should have.
        expected: String,
        /// The names it has.
        presented: Vec<String>,
    },
    /// It must not be used for this.
    #[error("the certificate's extended key usage must have both serverAuth and clientAuth")]
    Usage,
    /// There is none.
    #[error("no certificate was presented: this port wants TLS with a certificate on both sides")]
    Missing,
    /// Something else.
    #[error("the certificate is not acceptable: {0}")]
    Other(#[source] Cause),
}

/// Why a TLS connection was not established.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// This side does not trust the other.
    #[error("refused the peer: {0}")]
    Certificate(#[source] CertificateProblem),
    /// The other side does not trust this one.
    #[error("the peer refused this node's certificate: {0}")]
    RefusedByPeer(#[source] CertificateProblem),
    /// The other side speaks something else.
    #[error("the peer does not speak TLS: give both nodes certificates, or neither")]
    NotTls,
    /// The conversation failed in another way.
    #[error("the TLS handshake failed: {0}")]
    Failed(#[source] Cause),
}

/// Which of the three parts of a [`TlsConfig`](crate::TlsConfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPart {
    /// The certificates of the trusted authorities.
    Authority,
    /// The certificate, with the intermediate ones behind it.
    Certificate,
    /// The private key.
    Key,
}

impl fmt::Display for TlsPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authority => "the CA",
            Self::Certificate => "the certificate",
            Self::Key => "the private key",
        })
    }
}

/// Why certificates cannot be used. After a failed reload those from before go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsLoadError {
    /// A file cannot be read.
    #[error("TLS: {part} cannot be read from {}: {source}", path.display())]
    Read {
        /// Which part.
        part: TlsPart,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The bytes are not PEM, or hold nothing of the kind.
    #[error("TLS: {part} must be PEM: {source}")]
    Pem {
        /// Which part.
        part: TlsPart,
        /// The cause.
        source: Cause,
    },
    /// The part cannot be used, or the key is not that of the certificate.
    #[error("TLS: {part} cannot be used: {source}")]
    Unusable {
        /// Which part.
        part: TlsPart,
        /// The cause.
        source: Cause,
    },
    /// The domain cannot stand in a certificate.
    #[error("TLS: {domain:?} is not a DNS domain: use letters, digits, hyphens and dots")]
    Domain {
        /// The domain.
        domain: String,
    },
    /// No peer would accept this node's own certificate.
    #[error("TLS: this node's own certificate: {0}")]
    Own(#[source] CertificateProblem),
}

/// A list of names for people.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("no DNS name at all") } else { f.write_str(&self.0.join(", ")) }
    }
}

impl CertificateProblem {
    /// From a verifier's verdict.
    pub(crate) fn from_rustls(error: RustlsError) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
        match error {
            RustlsError::InvalidCertificate(problem) => Self::from_certificate(problem),
            RustlsError::NoCertificatesPresented => Self::Missing,
            other => Self::Other(Box::new(other)),
        }
    }

    fn from_certificate(problem: CertificateError) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
        match problem {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Expired,
            // Two authorities with one name differ in what they sign.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::Usage,
            CertificateError::NotValidForNameContext { expected, presented } => Self::WrongNode {
                expected: expected.to_str().into_owned(),
                presented: plain_names(presented),
            },
            other => Self::Other(Box::new(RustlsError::InvalidCertificate(other))),
        }
    }
}

/// rustls lists names as `DnsName("…")`.
fn plain_names(presented: Vec<String>) -> Vec<String> {
    let plain = |name: String| {
        let inner = name.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")"));
        inner.map(str::to_owned).unwrap_or(name)
    };
    presented.into_iter().map(plain).collect()
}

impl TlsError {
    /// From what the TLS stream reports; gives an error back that has nothing to do with TLS.
    pub(crate) fn from_io(error: std::io::Error) -> Result<Self, std::io::Error> {
        if !error.get_ref().is_some_and(|inner| inner.is::<RustlsError>()) {
            return Err(error);
        }
        let kind = error.kind();
        let inner = error.into_inner().map(|inner| inner.downcast::<RustlsError>());
        match inner {
            Some(Ok(error)) => Ok(Self::from_rustls(*error)),
            Some(Err(other)) => Err(std::io::Error::new(kind, other)),
            None => Err(kind.into()),
        }
    }

    fn from_rustls(error: RustlsError) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
        match error {
            RustlsError::InvalidCertificate(_) | RustlsError::NoCertificatesPresented => {
                Self::Certificate(CertificateProblem::from_rustls(error))
            }
            RustlsError::InvalidMessage(_) => Self::NotTls,
            RustlsError::AlertReceived(alert) => Self::from_alert(alert),
            other => Self::Failed(Box::new(other)),
        }
    }

    fn from_alert(alert: AlertDescription) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
        let problem = match alert {
            AlertDescription::CertificateExpired => CertificateProblem::Expired,
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                CertificateProblem::UnknownAuthority
            }
            AlertDescription::CertificateRequired => CertificateProblem::Missing,
            AlertDescription::UnsupportedCertificate => CertificateProblem::Usage,
            AlertDescription::BadCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => {
                CertificateProblem::Other(Box::new(RustlsError::AlertReceived(alert)))
            }
            _ => return Self::Failed(Box::new(RustlsError::AlertReceived(alert))),
        };
        Self::RefusedByPeer(problem)
    }
}
