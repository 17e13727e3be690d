//! The smallest useful state machine, with types: a counter on one node. `cargo run -p quorate --example counter`
//!
//! ```text
//!   TypedRaft<Counter> ──i64──► 8 bytes in the log ──► Counter::apply ──8 bytes──► i64
//! ```
//!
//! On three nodes it is the same program: more members in `Start::Bootstrap`, and a directory for each (`kv_40_lines.rs`).

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, Command, Consistency, GroupId, MachineError, Member, Node, NodeConfig,
    NodeId, Protocol, SnapshotSource, Start, StateMachine, TypedRaft,
};

/// The state: what was added up so far.
#[derive(Default)]
struct Counter(i64);

impl StateMachine for Counter {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        self.0 = self.0.wrapping_add(number(command.data)?);
        Ok(bytes(self.0))
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(bytes(self.0))
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(BytesSnapshot::new(bytes(self.0))))
    }
    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut stored = Vec::new();
        content.read_to_end(&mut stored)?;
        self.0 = number(&stored)?;
        Ok(())
    }
}

/// What its users say and hear.
impl Protocol for Counter {
    type Command = i64;
    type Response = i64;
    type Query = ();
    type Answer = i64;

    fn encode_command(add: &i64) -> Bytes {
        bytes(*add)
    }
    fn decode_response(response: &[u8]) -> Result<i64, MachineError> {
        number(response)
    }
    fn encode_query((): &()) -> Bytes {
        Bytes::new()
    }
    fn decode_answer(answer: &[u8]) -> Result<i64, MachineError> {
        number(answer)
    }
}

fn bytes(number: i64) -> Bytes {
    number.to_le_bytes().to_vec().into()
}

fn number(bytes: &[u8]) -> Result<i64, MachineError> {
    let bytes = bytes.try_into().map_err(|error| MachineError::with("a number has 8 bytes", error))?;
    Ok(i64::from_le_bytes(bytes))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In memory. `NodeConfig::durable` takes a directory.
    let node = Node::start(NodeConfig { node: NodeId(1), ..NodeConfig::default() }).await?;
    let members = vec![Member::voter(NodeId(1), node.peer_advertise())];
    let raft = node.open_group(GroupId(1), Start::Bootstrap { members }, Counter::default()).await?;
    raft.campaign().await?; // or wait for an election timeout
    raft.wait_leader_ready(Duration::from_secs(10)).await?;

    let counter = TypedRaft::<Counter>::new(raft);
    let (first, sum) = counter.apply(&20).await?;
    assert_eq!(sum, 20);
    let (second, sum) = counter.apply(&22).await?;
    assert!(sum == 42 && second > first, "commands are applied in the order of the log");
    let (_, now) = counter.query(&(), Consistency::Linearizable).await?;
    assert_eq!(now, 42);
    eprintln!("counted to {now} in two entries, {first} and {second}");

    node.shutdown().await;
    Ok(())
}
