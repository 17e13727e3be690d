//! The encoding: the exact bytes, the way back, and what garbage does.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_core::{
    Append, AppendReply, Entries, Entry, EntryPayload, LogId, LogIndex, Message, MessageBody, ReplicaId,
    SnapshotMeta, Term, decode_entry, decode_membership, decode_message, decode_snapshot_meta, encode_entry,
    encode_membership, encode_message, encode_snapshot_meta, encoded_entry_len,
};

use crate::group::{membership, membership_bytes};
use crate::strategies::{any_entry, any_membership, any_message, any_meta};

fn bytes_of(encode: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::new();
    encode(&mut out);
    Bytes::from(out)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn command(term: u64, index: u64, text: &'static str) -> Entry {
    Entry { id: LogId::new(term, index), payload: EntryPayload::Command(Bytes::from_static(text.as_bytes())) }
}

/// These bytes are on people's disks and between nodes of different versions: a change here is a
/// change of the format.
#[test]
fn the_bytes_are_these() {
    let noop = Entry { id: LogId::new(3, 258), payload: EntryPayload::Noop };
    assert_eq!(hex(&bytes_of(|out| encode_entry(&noop, out))), "0103000000000000000201000000000000");
    let withheld = Entry { payload: EntryPayload::Withheld, ..noop };
    assert_eq!(hex(&bytes_of(|out| encode_entry(&withheld, out))), "0403000000000000000201000000000000");
    assert_eq!(
        hex(&bytes_of(|out| encode_entry(&command(1, 2, "hi"), out))),
        "02010000000000000002000000000000006869"
    );
    let one = "00000000000000000200000000000000010001000000000000000100000000000000010400\
               6e313a310000";
    assert_eq!(hex(&bytes_of(|out| encode_membership(&membership(1), out))), one);
    let entry = Entry { id: LogId::new(1, 2), payload: EntryPayload::Membership(Arc::new(membership(1))) };
    assert_eq!(
        hex(&bytes_of(|out| encode_entry(&entry, out))),
        format!("0301000000000000000200000000000000{one}")
    );
    let meta = SnapshotMeta {
        last: LogId::new(5, 6),
        membership: Arc::new(membership(1)),
        membership_id: LogId::new(1, 2),
    };
    assert_eq!(
        hex(&bytes_of(|out| encode_snapshot_meta(&meta, out))),
        format!("0500000000000000060000000000000001000000000000000200000000000000{one}")
    );
}

/// From 1 and 2 to 1 and 3, with 4 demoted: joint, automatic. Bit 7 of a role: outgoing, bit 6: leaving.
#[test]
fn the_bytes_of_a_joint_membership_are_these() {
    let member =
        |id: u8, role: &str| format!("0{id}000000000000000{id}00000000000000{role}04006e3{id}3a310000");
    let [one, two, three, four] =
        [(1, "81"), (2, "c1"), (3, "01"), (4, "82")].map(|(id, role)| member(id, role));
    let bytes = membership_bytes(0x80, &[0x81, 0xc1, 0x01, 0x82]);
    assert_eq!(hex(&bytes), format!("000000000000000005000000000000000480{one}{two}{three}{four}"));

    let membership = decode_membership(&bytes).unwrap();
    let joint = membership.joint().unwrap();
    let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect::<Vec<_>>();
    assert_eq!(membership.incoming_voters().collect::<Vec<_>>(), ids(&[1, 3]));
    assert_eq!(joint.outgoing_voters().collect::<Vec<_>>(), ids(&[1, 2, 4]));
    assert_eq!(joint.leaving().collect::<Vec<_>>(), ids(&[2]));
    assert!(joint.leaves_automatically());
    assert_eq!(membership.voters().collect::<Vec<_>>(), ids(&[1, 2, 3, 4]));
    assert_eq!(membership.validate(), Ok(()));
    assert_eq!(bytes_of(|out| encode_membership(&membership, out)), bytes);
    // A witness, and a learner that is to be promoted, have roles of their own.
    let witness = decode_membership(&membership_bytes(0, &[0x01, 0x04])).unwrap();
    assert!(witness.is_witness(ReplicaId(2)) && witness.is_voter(ReplicaId(2)));
    assert_eq!(witness.validate(), Ok(()));
    let joining = decode_membership(&membership_bytes(0, &[0x01, 0x03])).unwrap();
    assert!(joining.is_joining(ReplicaId(2)) && !joining.is_voter(ReplicaId(2)));
    assert_eq!(joining.validate(), Ok(()));
    let explicit = decode_membership(&membership_bytes(0x40, &[0x81, 0x01])).unwrap();
    assert!(!explicit.joint().unwrap().leaves_automatically());
}

#[test]
fn bytes_of_no_joint_state_are_refused() {
    let refused =
        |joint, roles: &[u8]| decode_membership(&membership_bytes(joint, roles)).unwrap_err().expected;
    assert_eq!(refused(0xc0, &[0x81, 0x01]), "one way to leave the joint state");
    assert_eq!(refused(0, &[0x81, 0x01]), "a role outside of a joint state");
    assert_eq!(refused(0x80, &[0x80, 0x01]), "a role");
}

#[test]
fn the_bytes_of_messages_are_these() {
    let message = |body| Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(3), epoch: 4, body };
    let head = "01000000000000000200000000000000030000000000000004000000000000\
                00";
    let append = Append {
        prev: LogId::new(2, 7),
        entries: vec![command(3, 8, "x")].into(),
        commit: LogIndex(6),
        read_round: 5,
    };
    let rejected = AppendReply::Rejected { prev: LogIndex(9), hint: LogId::new(1, 4), last: LogIndex(5) };
    let expected = [
        (
            MessageBody::Append(append),
            format!(
                "05{head}02000000000000000700000000000000060000000000000005000000000000000100000012000000\
                 020300000000000000080000000000000078"
            ),
        ),
        (
            MessageBody::AppendReply(rejected),
            format!("07{head}0900000000000000010000000000000004000000000000000500000000000000"),
        ),
        (
            MessageBody::Heartbeat { commit: LogIndex(6), read_round: 5 },
            format!("08{head}06000000000000000500000000000000"),
        ),
        (
            MessageBody::Quiesce { last: LogId::new(3, 6), round: 5 },
            format!("0e{head}030000000000000006000000000000000500000000000000"),
        ),
        (MessageBody::RequestSnapshot { at_least: LogIndex(6) }, format!("0f{head}0600000000000000")),
        (MessageBody::TimeoutNow, format!("0b{head}")),
        (MessageBody::VoteReply { granted: true }, format!("04{head}01")),
        (
            MessageBody::ReadIndexReply { request: 7, index: Some(LogIndex(8)) },
            format!("0d{head}0700000000000000010800000000000000"),
        ),
    ];
    for (body, bytes) in expected {
        assert_eq!(hex(&bytes_of(|out| encode_message(&message(body), out))), bytes);
    }
}

#[test]
fn an_error_says_where_and_what() {
    let truncated = Bytes::from_static(&[1, 0, 0]);
    let error = decode_entry(&truncated).unwrap_err();
    assert_eq!(error.to_string(), "at byte 1: expected a term");
    let mut long = bytes_of(|out| encode_membership(&membership(1), out)).to_vec();
    long.push(0);
    assert_eq!(decode_membership(&Bytes::from(long)).unwrap_err().expected, "the end");
}

/// A length that is not there must not be allocated.
#[test]
fn a_lying_count_of_entries_is_refused_before_anything_is_allocated() {
    let append =
        Append { prev: LogId::default(), entries: Entries::new(), commit: LogIndex(0), read_round: 0 };
    let body = MessageBody::Append(append);
    let message = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), epoch: 0, body };
    let mut bytes = bytes_of(|out| encode_message(&message, out)).to_vec();
    let count = bytes.len() - 4;
    bytes[count..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_message(&Bytes::from(bytes)).unwrap_err().expected, "as many entries as are said");
}

#[test]
fn payloads_share_the_bytes_they_came_in() {
    let bytes = bytes_of(|out| encode_entry(&command(1, 2, "hello"), out));
    let EntryPayload::Command(payload) = decode_entry(&bytes).unwrap().payload else { panic!("a command") };
    assert_eq!(payload.as_ptr(), bytes[17..].as_ptr());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_comes_back(
        entry in any_entry(), members in any_membership(), meta in any_meta(), message in any_message(),
    ) {
        let bytes = bytes_of(|out| encode_entry(&entry, out));
        prop_assert_eq!(bytes.len(), encoded_entry_len(&entry));
        prop_assert_eq!(decode_entry(&bytes).unwrap(), entry);
        prop_assert_eq!(&decode_membership(&bytes_of(|out| encode_membership(&members, out))).unwrap(), &*members);
        prop_assert_eq!(decode_snapshot_meta(&bytes_of(|out| encode_snapshot_meta(&meta, out))).unwrap(), meta);
        prop_assert_eq!(decode_message(&bytes_of(|out| encode_message(&message, out))).unwrap(), message);
    }

    /// One value has one encoding: whatever can be decoded encodes to the same bytes again.
    #[test]
    fn garbage_is_refused_or_means_what_it_says(
        message in any_message(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = bytes_of(|out| encode_message(&message, out)).to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let bytes = Bytes::from(bytes);
        if let Ok(decoded) = decode_message(&bytes) {
            prop_assert_eq!(bytes_of(|out| encode_message(&decoded, out)), bytes);
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(noise);
        drop(decode_entry(&bytes));
        drop(decode_membership(&bytes));
        drop(decode_snapshot_meta(&bytes));
        drop(decode_message(&bytes));
    }
}
