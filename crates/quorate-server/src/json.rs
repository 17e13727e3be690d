//! The JSON of the HTTP API.
//!
//! Keys and values are bytes and JSON is text: a key or value that is UTF-8 is in `key` or `value`, any other in
//! `key_base64` or `value_base64` (standard alphabet, padded). Exactly one of the two is there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_client::proto;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::service::Page;

/// The body of `POST /v1/members`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemberAdd {
    pub(crate) node_id: u64,
    pub(crate) peer_address: String,
    pub(crate) client_address: Option<String>,
}

/// The body of `POST /v1/leader/transfer`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Transfer {
    pub(crate) node_id: Option<u64>,
}

pub(crate) fn page(index: u64, page: &Page) -> Value {
    let items: Vec<Value> = page
        .items
        .iter()
        .map(|item| {
            let mut json = json!({ "version": item.version });
            put_bytes(&mut json, "key", &item.key);
            put_bytes(&mut json, "value", &item.value);
            json
        })
        .collect();
    let mut json = json!({ "index": index, "items": items, "more": page.next.is_some() });
    if let Some(next) = &page.next {
        put_bytes(&mut json, "next_start", next);
    }
    json
}

/// Puts bytes under `name` if they are text, under `name` + `_base64` otherwise.
fn put_bytes(json: &mut Value, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => json[name] = text.into(),
        Err(_) => json[format!("{name}_base64")] = STANDARD.encode(bytes).into(),
    }
}

pub(crate) fn cluster_id(cluster_id: u64) -> String {
    format!("{cluster_id:016x}")
}

pub(crate) fn status(status: &proto::StatusResponse) -> Value {
    let leader = status
        .leader
        .as_ref()
        .map(|leader| json!({ "node_id": leader.node_id, "client_address": leader.client_address }));
    json!({
        "cluster_id": cluster_id(status.cluster_id),
        "node_id": status.node_id,
        "replica_id": status.replica_id,
        "server_version": status.server_version,
        "role": role(status.role()),
        "term": status.term,
        "leader": leader,
        "ready": status.ready,
        "last_index": status.last_index,
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
        "compacted_index": status.compacted_index,
        "snapshot_index": status.snapshot_index,
        "peer_address": status.peer_address,
        "client_address": status.client_address,
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
    })
}

pub(crate) fn members(list: &proto::MemberListResponse) -> Value {
    json!({
        "cluster_id": cluster_id(list.cluster_id),
        "index": list.index,
        "members": list.members.iter().map(member).collect::<Vec<_>>(),
    })
}

fn member(member: &proto::Member) -> Value {
    let progress = member.progress.map(|progress| {
        json!({
            "matched_index": progress.matched_index,
            "recently_active": progress.recently_active,
            "receiving_snapshot": progress.receiving_snapshot,
        })
    });
    json!({
        "node_id": member.node_id,
        "replica_id": member.replica_id,
        "voter": member.voter,
        "leader": member.leader,
        "peer_address": member.peer_address,
        "client_address": member.client_address,
        "progress": progress,
    })
}

const fn role(role: proto::Role) -> &'static str {
    match role {
        proto::Role::Follower => "follower",
        proto::Role::PreCandidate => "pre_candidate",
        proto::Role::Candidate => "candidate",
        proto::Role::Leader => "leader",
    }
}
