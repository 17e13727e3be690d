//! A durable key-value service on three nodes. Run it twice: the second run finds the first one's data.
use quorate::*;
use std::{collections::BTreeMap, error::Error, io::Read, time::Duration};

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
        let text = std::io::read_to_string(content).map_err(|e| MachineError::with("reading", e))?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        self.0 = pairs.map(|(key, value)| (key.into(), value.into())).collect();
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = |id: u64| format!("127.0.0.1:3910{id}");
    let member = |id| Member {
        node: NodeId(id),
        role: MemberRole::Voter,
        peer_address: address(id),
        client_address: String::new(),
    };
    let (mut nodes, mut replicas) = (Vec::new(), Vec::new());
    for id in 1..=3 {
        // In production these are three processes on three machines.
        let (storage, peer_listen) = (Storage::Directory(format!("kv-data/{id}").into()), address(id));
        let config = NodeConfig { node: NodeId(id), storage, peer_listen, ..NodeConfig::default() };
        let node = Node::start(config).await?;
        let start = Start::Bootstrap { members: (1..=3).map(member).collect() };
        replicas.push(node.open_group(GroupId(1), start, Kv::default()).await?);
        nodes.push(node);
    }
    let has_leader = |status: &GroupStatus| status.leader.is_some();
    let status = replicas[0].wait_for(has_leader, Duration::from_secs(10)).await?;
    let leader = replicas.iter().find(|raft| Some(raft.status().replica) == status.leader);
    let written = leader.ok_or("no leader")?.apply("greeting=hello").await?;
    // Any replica answers, and sees everything acknowledged before.
    let answer = replicas[2].query("greeting", Consistency::Linearizable).await?;
    eprintln!(
        "written at {}, read {:?}, before that it was {:?}",
        written.id, answer.response, written.response
    );
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}
