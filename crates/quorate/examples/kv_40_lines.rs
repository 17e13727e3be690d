//! The key-value service of the README: `cargo run -p quorate --example kv_40_lines -- 1`, and 2, and 3.
use quorate::*;
use std::{collections::BTreeMap, error::Error, io::Read};

#[derive(Default)]
struct Kv(BTreeMap<String, String>);

impl StateMachine for Kv {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        let text = String::from_utf8_lossy(command.data);
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        Ok(self.0.insert(key.into(), value.into()).unwrap_or_default().into())
    }
    fn query(&self, key: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.0.get(&*String::from_utf8_lossy(key)).cloned().unwrap_or_default().into())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let lines: String = self.0.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        Ok(Box::new(BytesSnapshot::new(lines)))
    }
    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let text = std::io::read_to_string(content)?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        self.0 = pairs.map(|(key, value)| (key.into(), value.into())).collect();
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let id: u64 = std::env::args().nth(1).ok_or("which node is this: 1, 2 or 3?")?.parse()?;
    let address = |id| format!("127.0.0.1:3910{id}");
    let members = (1..=3).map(|id| Member::voter(NodeId(id), address(id))).collect();
    let node = Node::start(NodeConfig::durable(NodeId(id), address(id), format!("kv-data/{id}"))).await?;
    let raft = node.open_group(GroupId(1), Start::Bootstrap { members }, Kv::default()).await?;
    for line in std::io::stdin().lines() {
        let answer = match line? {
            pair if pair.contains('=') => raft.apply(pair).await.map(|applied| applied.response),
            key => raft.query(key, Consistency::Linearizable).await.map(|found| found.response),
        };
        eprintln!("{answer:?}"); // a follower answers queries; commands go to the leader it names
    }
    Ok(()) // the node stops when it is dropped
}
