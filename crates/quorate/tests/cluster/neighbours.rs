//! Groups that share their nodes: what one of them does, or suffers, is not for the others to bear.

use std::future::Future;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, Command, Consistency, Dedupe, GroupId, MachineError, MemoryNetwork, Node, NodeConfig,
    NodeId, Raft, RequestError, SnapshotSource, Start, StateMachine,
};

use crate::harness::{ELECTION_TIMEOUT, Lines, PATIENCE};

/// A door that machines wait at.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Default)]
struct Waiting {
    is_open: bool,
    count: usize,
}

impl Door {
    fn pass(&self) {
        let (state, moved) = &*self.0;
        let mut state = state.lock().unwrap();
        state.count += 1;
        moved.notify_all();
        drop(moved.wait_while(state, |state| !state.is_open).unwrap());
    }

    /// Blocks until so many wait.
    fn wait_for(&self, count: usize) {
        let (state, moved) = &*self.0;
        let waited = moved.wait_timeout_while(state.lock().unwrap(), PATIENCE, |state| state.count < count);
        assert!(!waited.unwrap().1.timed_out(), "fewer than {count} machines wait");
    }

    fn open(&self) {
        let (state, moved) = &*self.0;
        state.lock().unwrap().is_open = true;
        moved.notify_all();
    }
}

/// Opens the door when a test ends early, or its nodes could not be stopped.
struct OpensAtTheEnd(Door);

impl Drop for OpensAtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Remembers commands; at one that says `wait` it waits at the door.
struct Waits {
    lines: Lines,
    door: Door,
}

impl StateMachine for Waits {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        if command.data.starts_with(b"wait") {
            self.door.pass();
        }
        self.lines.apply(command)
    }
    fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
        self.lines.query(request)
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.lines.snapshot()
    }
    fn restore(&mut self, content: &mut dyn Read, end: BatchEnd<'_>) -> Result<(), MachineError> {
        self.lines.restore(content, end)
    }
}

async fn start_nodes(adjust: fn(&mut NodeConfig)) -> Vec<Node> {
    let network = MemoryNetwork::new(3);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let mut config = NodeConfig { node: NodeId(id), ..NodeConfig::default() };
        config.group.core.election_timeout = ELECTION_TIMEOUT;
        config.group.core.heartbeat_interval = Duration::from_millis(40);
        adjust(&mut config);
        nodes.push(Node::start_on(config, Arc::new(network.transport(NodeId(id)))).await.unwrap());
    }
    nodes
}

/// Opens a group on all nodes.
async fn open<M: StateMachine + 'static>(nodes: &[Node], id: u64, machine: impl Fn() -> M) -> Vec<Raft> {
    let members: Vec<_> = nodes.iter().map(Node::member).collect();
    let mut rafts = Vec::new();
    for node in nodes {
        let start = Start::Bootstrap { members: members.clone() };
        rafts.push(node.open_group(GroupId(id), start, machine()).await.unwrap());
    }
    rafts
}

/// Asks the leader, whoever that is by then, until it says something else than that it is not the
/// leader.
async fn at_leader<T, F>(rafts: &[Raft], ask: impl Fn(Raft) -> F) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let asking = async {
        for raft in rafts.iter().cycle() {
            raft.wait_for(|status| status.leader.is_some(), PATIENCE).await.unwrap();
            match ask(raft.clone()).await {
                Err(RequestError::NotLeader { .. }) => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
        unreachable!("it goes on for ever")
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("an answer in time")
}

async fn say(rafts: &[Raft], what: &str) -> Result<(), RequestError> {
    at_leader(rafts, |raft| async move { raft.apply(what.to_owned()).await.map(drop) }).await
}

async fn content(raft: &Raft) -> String {
    let asking = raft.query("", Consistency::Linearizable);
    let answer = tokio::time::timeout(PATIENCE, asking).await.expect("an answer in time").unwrap();
    String::from_utf8(answer.response.to_vec()).unwrap()
}

/// On every replica of a group the machine waits for something that does not happen. Its users hear
/// that, and the group next to it, on the same nodes, hears nothing of it: not when the users of
/// the first have filled everything that is theirs, which is far more than the nodes would keep for
/// all groups together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_machine_that_stands_still_holds_up_nobody_but_its_group() {
    let nodes = start_nodes(|config| config.queues.backlog_bytes_max = 1 << 20).await;
    let door = Door::default();
    let opens = OpensAtTheEnd(door.clone());
    let stuck = open(&nodes, 1, || Waits { lines: Lines::default(), door: door.clone() }).await;
    let other = open(&nodes, 2, Lines::default).await;
    say(&stuck, "before").await.unwrap();
    let waiting = tokio::spawn({
        let stuck = stuck.clone();
        async move { at_leader(&stuck, |raft| async move { raft.apply("wait").await.map(drop) }).await }
    });
    tokio::task::block_in_place(|| door.wait_for(3));

    // Until its users are told to back off. (A leader that is replaced meanwhile says so, and the
    // next one is asked.)
    let mut taken = Vec::new();
    let large = "x".repeat(64 << 10);
    let refused = loop {
        let (stuck, command) = (stuck.clone(), large.clone());
        let mut asked = tokio::spawn(async move {
            at_leader(&stuck, |raft| {
                let command = command.clone();
                async move { raft.apply(command).await.map(drop) }
            })
            .await
        });
        match tokio::time::timeout(Duration::from_millis(20), &mut asked).await {
            Ok(refused) => break refused.unwrap(),
            Err(_waits) => taken.push(asked),
        }
        assert!(taken.len() < 1000, "its queue has no end");
    };
    assert!(matches!(refused, Err(RequestError::Busy { .. })), "{refused:?}");

    let large = "y".repeat(4 << 10);
    for _ in 0..10 {
        say(&other, &large).await.unwrap();
    }
    for raft in &other {
        assert_eq!(content(raft).await.lines().count(), 10, "at {}", raft.node());
    }
    let asked = at_leader(&stuck, |raft| async move {
        raft.within(Duration::from_millis(20)).query("", Consistency::Linearizable).await
    });
    let asked = asked.await;
    let told = matches!(asked, Err(RequestError::DeadlinePassed { .. } | RequestError::Busy { .. }));
    assert!(told, "{asked:?}");

    door.open();
    waiting.await.unwrap().unwrap();
    // Whoever waited longer than that may have been refused as well, or its leader replaced.
    let asked = taken.len();
    let mut acknowledged = 0;
    for taken in taken {
        acknowledged += usize::from(taken.await.unwrap().is_ok());
    }
    say(&stuck, "after").await.unwrap();
    for raft in &stuck {
        let content = content(raft).await;
        assert!(content.starts_with("before\nwait\nxxx") && content.ends_with("xxx\nafter\n"));
        let kept = content.lines().count() - 3;
        assert!(
            (acknowledged..=asked).contains(&kept),
            "{acknowledged} of {asked} are acknowledged, {kept} kept"
        );
    }
    drop(opens);
    for node in nodes {
        node.shutdown().await;
    }
}

/// The users of one group ask for all they can get. Those of another, who do not, are not told to
/// back off for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_in_one_group_leaves_room_for_the_others() {
    let nodes = start_nodes(|config| config.queues.requests_max = 200).await;
    let greedy = open(&nodes, 1, Lines::default).await;
    let modest = open(&nodes, 2, Lines::default).await;
    // Both at the same node.
    for raft in [&greedy[0], &modest[0]] {
        raft.campaign().await.unwrap();
        raft.wait_leader_ready(PATIENCE).await.unwrap();
    }
    let (is_over, was_refused) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let flood = |_| {
        let (raft, is_over, was_refused) = (greedy[0].clone(), is_over.clone(), was_refused.clone());
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let commands = (0..500).map(|_| "more");
                for outcome in raft.apply_all(commands).await {
                    let refused = matches!(outcome, Err(RequestError::Busy { .. }));
                    was_refused.fetch_or(refused, Ordering::Relaxed);
                }
            }
        })
    };
    let floods: Vec<_> = (0..4).map(flood).collect();
    let mut refused = 0;
    for n in 0..50 {
        let asked =
            at_leader(&modest, |raft| async move { raft.apply_with(n.to_string(), Dedupe::None).await });
        match asked.await {
            Ok(_) => {}
            Err(RequestError::Busy { .. }) => refused += 1,
            // On a machine that is busy with other things, somebody else may lead by then.
            Err(RequestError::OutcomeUnknown) => {}
            Err(other) => panic!("{other}"),
        }
    }
    is_over.store(true, Ordering::Relaxed);
    for flood in floods {
        tokio::time::timeout(PATIENCE, flood).await.expect("an end").unwrap();
    }
    assert!(was_refused.load(Ordering::Relaxed), "there was no flood");
    assert_eq!(refused, 0, "of fifty");
    for node in nodes {
        node.shutdown().await;
    }
}
