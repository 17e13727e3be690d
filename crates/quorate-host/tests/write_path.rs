//! docs/write_path.md shows what one write does. Here it is done, and compared.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use quorate_core::NodeId;
use quorate_host::{Answer, Request};
use support::{Cluster, propose, query, text};

#[test]
fn the_documented_trace_is_what_a_write_does() {
    let mut cluster = Cluster::new(3);
    assert_eq!(cluster.request(NodeId(1), Request::Campaign), Ok(Answer::Campaigned));
    assert_eq!(cluster.leader(), NodeId(1));
    cluster.pass(500);
    cluster.trace = Some(Vec::new());
    let answer = cluster.request(NodeId(1), propose("greeting=hello"));
    let printed: String = cluster.trace.take().unwrap().iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(text(answer), "0 greeting=hello");
    assert_eq!(text(cluster.request(NodeId(3), query())), "1");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/write_path.md");
    let document = std::fs::read_to_string(path).unwrap();
    assert!(document.contains(&printed), "docs/write_path.md does not show this trace:\n{printed}");
}
