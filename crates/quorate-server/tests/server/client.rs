//! The client library against real nodes: what its users see when nodes come and go.

use bytes::Bytes;
use quorate_client::{Client, ClientError, ClientOptions, Condition, Consistency, ErrorCode, ScanOptions};
use tokio::task::JoinSet;

use crate::support::{Cluster, PATIENCE, get};

fn rejected(error: ClientError) -> ErrorCode {
    let ClientError::Rejected(rejection) = error else { panic!("not rejected: {error:?}") };
    rejection.code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_does_everything_that_the_store_can() {
    let cluster = Cluster::of_three().await;
    // One endpoint is enough, whichever it is.
    let options = ClientOptions { deadline: PATIENCE, ..ClientOptions::default() };
    let endpoint = cluster.address(cluster.follower().await).to_string();
    let client = Client::connect([endpoint], options).unwrap();
    assert_eq!(client.get("a").await.unwrap(), None);
    let written = client.put("a", "1").await.unwrap();
    assert!(!written.existed);
    let item = client.get("a").await.unwrap().unwrap();
    assert_eq!((&item.value[..], item.version), (&b"1"[..], written.version));

    let refused = client.put_if("a", "2", Condition::Absent).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::ConditionFailed { current_version: Some(version) } if version == written.version)
    );
    let swapped = client.compare_and_swap("a", Some("1".into()), "2").await.unwrap();
    assert!(swapped.existed && swapped.version > written.version);
    client.compare_and_swap("b", None, vec![0xff]).await.unwrap();
    let stale = client.get_with("a", Consistency::Stale).await.unwrap();
    assert!(stale.index > 0);

    let page = client.scan(ScanOptions { limit: 1, ..ScanOptions::default() }).await.unwrap();
    assert_eq!((&page.value.items[0].key[..], page.value.next_start), (&b"a"[..], Some(Bytes::from("b"))));
    assert!(client.delete_if("a", Condition::Version(swapped.version)).await.unwrap().existed);
    assert!(!client.delete("a").await.unwrap().existed);

    let large = vec![1; 1 << 20];
    client.put("large", large.clone()).await.unwrap();
    assert_eq!(client.get("large").await.unwrap().unwrap().value, large);
    for too_large in [(1 << 20) + 1, 8 << 20] {
        let refused = client.put("large", vec![1; too_large]).await.unwrap_err();
        assert_eq!(rejected(refused), ErrorCode::TooLarge);
    }

    let leader = cluster.leader().await;
    assert_eq!(client.member_list().await.unwrap().members.len(), 3);
    assert!(client.status().await.unwrap().ready);
    let status = client.status_of(&cluster.address(leader).to_string()).await.unwrap();
    assert_eq!(status.node_id, leader);
    let follower = cluster.follower().await;
    assert_eq!(client.transfer_leadership(Some(follower)).await.unwrap(), follower);
    assert_eq!(rejected(client.member_remove(9).await.unwrap_err()), ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_leader_is_a_short_wait_and_no_write_is_lost_or_done_twice() {
    const WRITERS: usize = 4;
    const WRITES: u64 = 30;
    let mut cluster = Cluster::of_three().await;
    let client = cluster.client();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = client.clone();
        // Each writer counts up its own key by compare-and-swap: a write that is lost or applied twice
        // breaks the chain.
        writers.spawn(async move {
            let key = format!("counter-{writer}");
            let mut expected = None;
            for number in 1..=WRITES {
                let value = Bytes::from(number.to_string());
                client.compare_and_swap(key.clone(), expected, value.clone()).await.unwrap();
                expected = Some(value);
            }
        });
    }
    let leader = cluster.leader().await;
    cluster.kill(leader);
    cluster.leader().await;
    cluster.restart(leader).await;
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    let leader = cluster.leader().await;
    for writer in 0..WRITERS {
        let value = client.get(format!("counter-{writer}")).await.unwrap().unwrap().value;
        assert_eq!(value, WRITES.to_string());
        let reply = get(cluster.address(leader), &format!("/v1/kv/counter-{writer}")).await;
        assert_eq!(reply.body, WRITES.to_string().as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_another_cluster_is_told_so() {
    let cluster = Cluster::of_one().await;
    let options = ClientOptions { cluster_id: Some(1), ..ClientOptions::default() };
    let client = Client::connect(cluster.endpoints(), options).unwrap();
    assert_eq!(rejected(client.put("a", "1").await.unwrap_err()), ErrorCode::ClusterMismatch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_client_does_not_hold_up_a_stop() {
    let mut cluster = Cluster::new();
    let mut config = cluster.config(1, quorate_server::StartMode::Bootstrap);
    config.timings.drain_timeout = PATIENCE;
    cluster.start(config).await.unwrap();
    cluster.leader().await;
    // Its stream stays open after the answer.
    let client = cluster.client();
    client.put("a", "1").await.unwrap();
    tokio::time::timeout(PATIENCE / 2, cluster.stop(1)).await.expect("nothing is left to drain");
    drop(client);
}
