//! The example's HTTP interface. The request target, leading slash and query included, is the key.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /key`, value as body | 204 once it is committed and applied |
//! | `GET /key` | 200 and the value, or 404; linearizable on any node |
//! | `POST /4`, peer URL as body | 204 once node 4 is a member; it votes as soon as it has caught up |
//! | `DELETE /4` | 204 once node 4 is no member |
//!
//! A node that does not lead answers 307 with the leader's address (`curl -L` follows it).

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use quorate::{ChangeError, Consistency, MembershipChange, NodeId, Raft, ReplicaId, RequestError};

use crate::store;

/// The largest value in bytes.
const VALUE_BYTES_MAX: usize = 4 << 20;

/// The routes on top of a replica.
pub fn router(raft: Raft) -> axum::Router {
    axum::Router::new().fallback(serve).with_state(raft)
}

async fn serve(State(raft): State<Raft>, request: Request) -> Response {
    let method = request.method().clone();
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let body = match axum::body::to_bytes(request.into_body(), VALUE_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => {
            return (StatusCode::PAYLOAD_TOO_LARGE, format!("{method} failed: {error}\n")).into_response();
        }
    };
    match method {
        Method::PUT => done(raft.apply(store::put(target.as_bytes(), &body)).await.map(|_| ()), &target),
        Method::GET => get(&raft, target).await,
        Method::POST => match node_id(&target) {
            Some(id) => add(&raft, id, &body, &target).await,
            None => bad_id("POST"),
        },
        Method::DELETE => match node_id(&target) {
            Some(id) => remove(&raft, id, &target).await,
            None => bad_id("DELETE"),
        },
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            [(header::ALLOW, "PUT, GET, POST, DELETE")],
            "Method not allowed\n",
        )
            .into_response(),
    }
}

async fn get(raft: &Raft, key: String) -> Response {
    match raft.query(key.clone(), Consistency::Linearizable).await {
        Ok(found) if found.response.is_empty() => (StatusCode::NOT_FOUND, "Failed to GET\n").into_response(),
        Ok(found) => found.response.slice(1..).into_response(),
        Err(error) => failure(&error, &key),
    }
}

async fn add(raft: &Raft, id: u64, url: &Bytes, target: &str) -> Response {
    let Some(address) = std::str::from_utf8(url).ok().and_then(crate::peer_address) else {
        return (
            StatusCode::BAD_REQUEST,
            "Failed on POST: the body must be a URL like http://127.0.0.1:42379\n",
        )
            .into_response();
    };
    let status = raft.status();
    let next = status.membership.next_replica_in(status.membership_id, status.term);
    if id != next.0 {
        let text = format!("Failed on POST: no id is given twice, the next one is {next}\n");
        return (StatusCode::CONFLICT, text).into_response();
    }
    let change = MembershipChange::AddLearner {
        node: NodeId(id),
        peer_address: address,
        client_address: String::new(),
    };
    done(raft.change_membership(change, None).await.map(|_| ()), target)
}

async fn remove(raft: &Raft, id: u64, target: &str) -> Response {
    done(raft.change_membership(MembershipChange::Remove(ReplicaId(id)), None).await.map(|_| ()), target)
}

/// The id in `/4`, decimal or with 0x, 0o or 0b.
fn node_id(target: &str) -> Option<u64> {
    let digits = target.strip_prefix('/')?;
    let parsed = match digits.get(..2) {
        Some("0x") => u64::from_str_radix(&digits[2..], 16),
        Some("0o") => u64::from_str_radix(&digits[2..], 8),
        Some("0b") => u64::from_str_radix(&digits[2..], 2),
        _ => digits.parse(),
    };
    parsed.ok().filter(|id| *id != 0)
}

fn bad_id(verb: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("Failed on {verb}: the path must be a node's number, like /4\n"))
        .into_response()
}

fn done(result: Result<(), RequestError>, target: &str) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => failure(&error, target),
    }
}

/// Each failure as what a client can do about it.
fn failure(error: &RequestError, target: &str) -> Response {
    let status = match error {
        RequestError::NotLeader { leader: Some(leader) } if !leader.client_address.is_empty() => {
            let location = format!("http://{}{target}", leader.client_address);
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)], Body::empty())
                .into_response();
        }
        RequestError::NotLeader { .. } | RequestError::Busy { .. } | RequestError::Stopped { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        RequestError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        RequestError::Change(ChangeError::NotMember) => StatusCode::NOT_FOUND,
        RequestError::Change(ChangeError::Propose(_) | ChangeError::NotReady) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        RequestError::Change(_) => StatusCode::CONFLICT,
        RequestError::OutcomeUnknown | _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::node_id;

    #[test]
    fn node_ids_are_numbers_above_zero() {
        assert_eq!(node_id("/4"), Some(4));
        assert_eq!(node_id("/0x10"), Some(16));
        assert_eq!(node_id("/0"), None);
        assert_eq!(node_id("/four"), None);
        assert_eq!(node_id("/"), None);
    }
}
