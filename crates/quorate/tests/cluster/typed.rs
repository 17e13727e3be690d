//! The typed face: numbers in, numbers out, over a machine that keeps lines of text.

use quorate::{Bytes, Consistency, MachineError, Protocol, RequestError, TypedError, TypedRaft};

use crate::harness::{Cluster, memory};

struct Numbers;

impl Protocol for Numbers {
    type Command = u64;
    type Response = u8;
    type Query = ();
    type Answer = Vec<u64>;

    fn encode_command(command: &u64) -> Bytes {
        command.to_string().into()
    }
    fn decode_response(bytes: &[u8]) -> Result<u8, MachineError> {
        let text = String::from_utf8_lossy(bytes);
        text.parse().map_err(|error| MachineError::with("a count", error))
    }
    fn encode_query((): &()) -> Bytes {
        Bytes::new()
    }
    fn decode_answer(bytes: &[u8]) -> Result<Vec<u64>, MachineError> {
        let text = String::from_utf8_lossy(bytes);
        let numbers = text.lines().map(str::parse).collect::<Result<_, _>>();
        numbers.map_err(|error| MachineError::with("numbers", error))
    }
}

#[tokio::test]
async fn commands_and_answers_have_the_types_of_their_machine() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.leader().await;
    let typed = TypedRaft::<Numbers>::new(cluster.rafts[&leader].clone());
    let (first, one) = typed.apply(&70).await.unwrap();
    let (second, two) = typed.clone().apply(&80).await.unwrap();
    assert!((one, two) == (1, 2) && first < second);
    let (applied, numbers) = typed.query(&(), Consistency::Linearizable).await.unwrap();
    assert_eq!(numbers, [70, 80]);
    assert!(applied >= second.index);
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let refused = TypedRaft::<Numbers>::new(cluster.rafts[&follower].clone()).apply(&90).await.unwrap_err();
    assert!(matches!(refused, TypedError::Request(RequestError::NotLeader { .. })), "{refused}");
    // Something that is no number is in the state: the question was answered, but not in this protocol.
    typed.raft().apply("words").await.unwrap();
    let confused = typed.query(&(), Consistency::Linearizable).await.unwrap_err();
    assert!(matches!(confused, TypedError::NotUnderstood(_)), "{confused}");
    cluster.shutdown().await;
}
