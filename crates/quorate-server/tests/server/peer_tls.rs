//! Nodes that talk to each other over TLS.

use quorate_server::{InitialMember, NodeId, Server, StartMode, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::support::{Cluster, eventually, free_address};

/// The files of node `node`, signed by the authority in `ca_pem`.
fn certify(cluster: &Cluster, node: u64, issuer: &Issuer<'static, KeyPair>, ca_pem: &str) -> TlsConfig {
    let mut params = CertificateParams::new(vec![format!("node-{node}.quorate.internal")]).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let file = |suffix: &str| cluster.data_dir(node).with_extension(suffix);
    std::fs::write(file("ca"), ca_pem).unwrap();
    std::fs::write(file("cert"), params.signed_by(&key, issuer).unwrap().pem()).unwrap();
    std::fs::write(file("key"), key.serialize_pem()).unwrap();
    TlsConfig::files(file("ca"), file("cert"), file("key"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_over_tls_and_get_new_certificates_while_they_run() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca_pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);

    let mut cluster = Cluster::new();
    let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
    let member = |(node, peer_address): (u64, &String)| InitialMember {
        node: NodeId(node),
        peer_address: peer_address.clone(),
        client_address: None,
    };
    let members: Vec<InitialMember> = (1..=3).zip(&addresses).map(member).collect();
    for (node, address) in (1..=3).zip(&addresses) {
        let mut config = cluster.config(node, StartMode::InitialCluster(members.clone()));
        config.peer_listen.clone_from(address);
        config.peer_tls = Some(certify(&cluster, node, &issuer, &ca_pem));
        if node == 3 {
            // A node with another's certificate does not start, and has done nothing yet.
            let mut stolen = config.clone();
            stolen.peer_tls = Some(certify(&cluster, 2, &issuer, &ca_pem));
            let error = Server::start(stolen).await.unwrap_err().to_string();
            assert!(error.starts_with("--peer-tls-cert: TLS: this node's own certificate"), "{error}");
            assert!(!cluster.data_dir(3).exists());
        }
        cluster.start(config).await.unwrap();
    }
    cluster.settled(3).await;
    assert!(!cluster.server(1).reload_tls().await.unwrap(), "nothing has changed");
    for node in 1..=3 {
        certify(&cluster, node, &issuer, &ca_pem);
    }
    eventually("all certificates are read", async || {
        cluster.server(1).reload_tls().await.ok().filter(|new| *new)
    })
    .await;
    // Node 2 comes back with its new certificate.
    cluster.stop(2).await;
    cluster.restart(2).await;
    cluster.settled(3).await;
    for node in cluster.nodes() {
        cluster.stop(node).await;
    }
}
