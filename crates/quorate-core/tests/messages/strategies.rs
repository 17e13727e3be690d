//! Any message: mostly plausible numbers, sometimes absurd ones.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_core::{
    Append, AppendReply, Entry, EntryPayload, LogId, LogIndex, Membership, Message, MessageBody, ReplicaId,
    SnapshotMeta, Term, VoteRequest, decode_membership,
};

use crate::group::{membership, membership_bytes};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0_u64..7, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 2), 1 => any::<u64>()]
}

fn position() -> impl Strategy<Value = LogId> {
    (number(), number()).prop_map(|(term, index)| LogId::new(term, index))
}

pub(crate) fn any_membership() -> impl Strategy<Value = Arc<Membership>> {
    let plain = (0_u64..5)
        .prop_map(|voters| Arc::new(if voters == 0 { Membership::default() } else { membership(voters) }));
    let role = prop::sample::select(vec![0x01_u8, 0x02, 0x03, 0x04, 0x81, 0x84, 0x82, 0xc1, 0xc2, 0x41]);
    let joint = (prop::sample::select(vec![0x80_u8, 0x40]), prop::collection::vec(role, 1..5))
        .prop_map(|(joint, roles)| Arc::new(decode_membership(&membership_bytes(joint, &roles)).unwrap()));
    prop_oneof![2 => plain, 1 => joint]
}

fn payload() -> impl Strategy<Value = EntryPayload> {
    prop_oneof![
        Just(EntryPayload::Noop),
        Just(EntryPayload::Withheld),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| EntryPayload::Command(Bytes::from(bytes))),
        any_membership().prop_map(EntryPayload::Membership),
    ]
}

pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
    (position(), payload()).prop_map(|(id, payload)| Entry { id, payload })
}

/// Entries that follow `prev` in terms that do not fall, most of the time.
fn append() -> impl Strategy<Value = Append> {
    let run = prop::collection::vec((0_u64..2, payload()), 0..4);
    let any = prop::collection::vec(any_entry(), 0..4);
    (position(), run, prop::option::weighted(0.2, any), number(), number()).prop_map(
        |(prev, run, any, commit, read_round)| {
            let mut last = prev;
            let following = run.into_iter().map(|(rise, payload)| {
                last = LogId {
                    term: Term(last.term.0.saturating_add(rise)),
                    index: LogIndex(last.index.0.saturating_add(1)),
                };
                Entry { id: last, payload }
            });
            let following = following.collect();
            Append { prev, entries: any.unwrap_or(following).into(), commit: LogIndex(commit), read_round }
        },
    )
}

pub(crate) fn any_meta() -> impl Strategy<Value = SnapshotMeta> {
    (position(), any_membership(), position()).prop_map(|(last, membership, membership_id)| SnapshotMeta {
        last,
        membership,
        membership_id,
    })
}

fn body() -> impl Strategy<Value = MessageBody> {
    let request = || (position(), any::<bool>()).prop_map(|(last, transfer)| VoteRequest { last, transfer });
    let small = prop_oneof![
        request().prop_map(MessageBody::PreVote),
        any::<bool>().prop_map(|granted| MessageBody::PreVoteReply { granted }),
        request().prop_map(MessageBody::Vote),
        any::<bool>().prop_map(|granted| MessageBody::VoteReply { granted }),
        (number(), number()).prop_map(|(matched, read_round)| {
            MessageBody::AppendReply(AppendReply::Accepted { matched: LogIndex(matched), read_round })
        }),
        (number(), position(), number()).prop_map(|(prev, hint, last)| {
            MessageBody::AppendReply(AppendReply::Rejected {
                prev: LogIndex(prev),
                hint,
                last: LogIndex(last),
            })
        }),
        (number(), number())
            .prop_map(|(commit, read_round)| MessageBody::Heartbeat { commit: LogIndex(commit), read_round }),
        (number(), position())
            .prop_map(|(read_round, last)| MessageBody::HeartbeatReply { read_round, last }),
        any_meta().prop_map(MessageBody::InstallSnapshot),
    ];
    let rare = prop_oneof![
        Just(MessageBody::TimeoutNow),
        number().prop_map(|at_least| MessageBody::RequestSnapshot { at_least: LogIndex(at_least) }),
        (position(), number()).prop_map(|(last, round)| MessageBody::Quiesce { last, round }),
        number().prop_map(|request| MessageBody::ReadIndex { request }),
        (number(), prop::option::of(number()))
            .prop_map(|(request, index)| MessageBody::ReadIndexReply { request, index: index.map(LogIndex) }),
    ];
    prop_oneof![3 => small.boxed(), 1 => rare.boxed(), 2 => append().prop_map(MessageBody::Append).boxed()]
}

pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    let replica = || (0_u64..6).prop_map(ReplicaId);
    (replica(), replica(), number(), prop_oneof![9 => Just(0), 1 => number()], body())
        .prop_map(|(from, to, term, epoch, body)| Message { from, to, term: Term(term), epoch, body })
}
