//! Between the protocol's types and ours. The protocol's live and die at the edge.

use std::time::Duration;

use bytes::Bytes;
use quorate::{Consistency, Dedupe, SessionId};
use quorate_client::proto;
use quorate_kv::{Condition, KvCommand};

use crate::error::ApiError;

/// The longest idempotency key in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

pub(crate) fn condition_to_proto(condition: Condition) -> Option<proto::Condition> {
    use proto::condition::Kind;
    let kind = match condition {
        Condition::Any => return None,
        Condition::Absent => Kind::Absent(true),
        Condition::Present => Kind::Present(true),
        Condition::Version(version) => Kind::Version(version),
        Condition::Value(value) => Kind::Value(value),
    };
    Some(proto::Condition { kind: Some(kind) })
}

pub(crate) fn condition(condition: Option<proto::Condition>) -> Result<Condition, ApiError> {
    use proto::condition::Kind;
    match condition.and_then(|condition| condition.kind) {
        None => Ok(Condition::Any),
        Some(Kind::Absent(true)) => Ok(Condition::Absent),
        Some(Kind::Present(true)) => Ok(Condition::Present),
        Some(Kind::Absent(false) | Kind::Present(false)) => {
            Err(ApiError::invalid("condition.absent and condition.present must be true when they are given"))
        }
        Some(Kind::Version(version)) => Ok(Condition::Version(version)),
        Some(Kind::Value(value)) => Ok(Condition::Value(value)),
    }
}

pub(crate) fn dedupe_to_proto(dedupe: Dedupe) -> Option<proto::Dedupe> {
    use proto::dedupe::Kind;
    let kind = match dedupe {
        Dedupe::None => return None,
        Dedupe::Session { session, sequence, acked_below } => {
            Kind::Session(proto::SessionSequence { session: session.0, sequence, acked_below })
        }
        // The leader computes the fingerprint again from the same command.
        Dedupe::Key { key, .. } => Kind::IdempotencyKey(key),
    };
    Some(proto::Dedupe { kind: Some(kind) })
}

pub(crate) fn dedupe(dedupe: Option<proto::Dedupe>, command: &KvCommand) -> Result<Dedupe, ApiError> {
    use proto::dedupe::Kind;
    match dedupe.and_then(|dedupe| dedupe.kind) {
        None => Ok(Dedupe::None),
        Some(Kind::Session(place)) if place.sequence == 0 => {
            Err(ApiError::invalid("a session's sequence numbers begin with 1"))
        }
        Some(Kind::Session(place)) => Ok(Dedupe::Session {
            session: SessionId(place.session),
            sequence: place.sequence,
            acked_below: place.acked_below,
        }),
        Some(Kind::IdempotencyKey(key)) => idempotency_key(key, command),
    }
}

/// A write's idempotency key, tied to what the write does.
pub(crate) fn idempotency_key(key: Bytes, command: &KvCommand) -> Result<Dedupe, ApiError> {
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let message = format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(ApiError::invalid(message));
    }
    Ok(Dedupe::Key { key, fingerprint: fnv1a(&command.encode()) })
}

pub(crate) fn consistency(consistency: i32, age_max_millis: u32) -> Result<Consistency, ApiError> {
    let asked = proto::Consistency::try_from(consistency);
    if age_max_millis != 0 && asked != Ok(proto::Consistency::Recent) {
        return Err(ApiError::invalid("age_max_millis is for reads that may be a little old: ask for those"));
    }
    match asked {
        Ok(proto::Consistency::Linearizable) => Ok(Consistency::Linearizable),
        Ok(proto::Consistency::Stale) => Ok(Consistency::Stale),
        Ok(proto::Consistency::Lease) => Ok(Consistency::Lease),
        Ok(proto::Consistency::Recent) if age_max_millis == 0 => {
            Err(ApiError::invalid("age_max_millis is missing: how many milliseconds may the answer be old?"))
        }
        Ok(proto::Consistency::Recent) => {
            Ok(Consistency::Recent { age_max: Duration::from_millis(age_max_millis.into()) })
        }
        Err(_) => Err(ApiError::invalid(format!("consistency {consistency} is not known to this node"))),
    }
}

/// FNV-1a, 64 bits: the same everywhere and forever, unlike the standard library's hashers. Tells requests
/// apart by accident, not against an attacker.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_the_published_hash() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn how_old_an_answer_may_be_is_said_with_that_consistency_and_no_other() {
        let ask = |asked: proto::Consistency, age| consistency(asked.into(), age);
        assert_eq!(ask(proto::Consistency::Lease, 0).unwrap(), Consistency::Lease);
        let age_max = Duration::from_millis(250);
        assert_eq!(ask(proto::Consistency::Recent, 250).unwrap(), Consistency::Recent { age_max });
        assert!(ask(proto::Consistency::Recent, 0).is_err());
        assert!(ask(proto::Consistency::Linearizable, 250).is_err());
        assert!(consistency(99, 0).is_err());
    }

    #[test]
    fn the_same_key_on_another_request_has_another_fingerprint() {
        let put = |value: &'static str| KvCommand::Put {
            key: "k".into(),
            value: value.into(),
            condition: Condition::Any,
        };
        let dedupe = |command: &KvCommand| idempotency_key("once".into(), command).unwrap();
        assert_eq!(dedupe(&put("a")), dedupe(&put("a")));
        assert_ne!(dedupe(&put("a")), dedupe(&put("b")));
        assert!(idempotency_key(Bytes::new(), &put("a")).is_err());
        assert!(idempotency_key(vec![b'x'; 256].into(), &put("a")).is_err());
    }
}
