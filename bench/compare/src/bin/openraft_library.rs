//! Three openraft nodes and their clients in one process, with logs in memory and function calls for a network.
//!
//! The store is written here because the one that openraft publishes turns every entry into JSON. Replication goes
//! through openraft's own pipelined `stream_append`. No snapshots are taken, nothing is purged.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry as _;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::{Config, EntryPayload, OptionalSend, Raft, SnapshotPolicy};
use quorate_compare::closed_loop;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    clients: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 128)]
    command_bytes: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// A command.
#[derive(Clone, Debug)]
struct Payload(Bytes);

impl Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// Commands are bytes, answers are nothing.
    TypeConfig: D = Payload, R = (), Node = ()
);

type Node = Raft<TypeConfig, Machine>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Kept {
    entries: BTreeMap<u64, EntryOf<TypeConfig>>,
    purged: Option<LogIdOf<TypeConfig>>,
    vote: Option<VoteOf<TypeConfig>>,
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Kept>>);

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EntryOf<TypeConfig>>, io::Error> {
        Ok(lock(&self.0).entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig>>, io::Error> {
        Ok(lock(&self.0).vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let log = lock(&self.0);
        let last = log.entries.last_key_value().map(|(_, entry)| entry.log_id());
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }
    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }
    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        lock(&self.0).vote = Some(*vote);
        Ok(())
    }
    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<TypeConfig>> + OptionalSend,
    {
        lock(&self.0).entries.extend(entries.into_iter().map(|entry| (entry.index(), entry)));
        callback.io_completed(Ok(()));
        Ok(())
    }
    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> Result<(), io::Error> {
        lock(&self.0).entries.split_off(&last.map_or(0, |last| last.index() + 1));
        Ok(())
    }
    async fn purge(&mut self, upto: LogIdOf<TypeConfig>) -> Result<(), io::Error> {
        let mut log = lock(&self.0);
        log.entries = log.entries.split_off(&(upto.index() + 1));
        log.purged = Some(upto);
        Ok(())
    }
}

#[derive(Default)]
struct Applied {
    count: u64,
    last: Option<LogIdOf<TypeConfig>>,
    membership: StoredMembershipOf<TypeConfig>,
}

/// Counts what it is given.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<Applied>>);

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = u64;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, u64>, io::Error> {
        let applied = lock(&self.0);
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: applied.last,
            last_membership: applied.membership.clone(),
        };
        Ok(SnapshotOf::<TypeConfig, u64> { meta, snapshot: applied.count })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = u64;
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>), io::Error> {
        let applied = lock(&self.0);
        Ok((applied.last, applied.membership.clone()))
    }
    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut applied = lock(&self.0);
            applied.last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(_) => applied.count += 1,
                EntryPayload::Membership(members) => {
                    applied.membership = StoredMembershipOf::<TypeConfig>::new(Some(entry.log_id), members);
                }
                EntryPayload::Blank => {}
            }
            drop(applied);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }
    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: u64,
    ) -> Result<(), io::Error> {
        let membership = meta.last_membership.clone();
        *lock(&self.0) = Applied { count: snapshot, last: meta.last_log_id, membership };
        Ok(())
    }
    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, u64>>, io::Error> {
        Ok(None)
    }
}

/// All nodes, once they are there.
static NODES: OnceLock<Vec<Node>> = OnceLock::new();

/// A network of function calls.
struct Calls;

/// Calls one node.
struct Call(u64);

impl Call {
    fn node(&self) -> Result<&'static Node, Unreachable<TypeConfig>> {
        let index = usize::try_from(self.0 - 1).unwrap_or(usize::MAX);
        NODES.get().and_then(|nodes| nodes.get(index)).ok_or_else(|| Unreachable::new(&not_there()))
    }
}

fn not_there() -> io::Error {
    io::Error::other("not there")
}

fn unreachable(error: impl std::error::Error + 'static) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkFactory<TypeConfig> for Calls {
    type Network = Call;

    async fn new_client(&mut self, target: u64, _: &()) -> Call {
        Call(target)
    }
}

impl RaftNetworkV2<TypeConfig> for Call {
    type SnapshotData = u64;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.node()?.append_entries(request).await.map_err(unreachable)
    }
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let answers = self.node()?.stream_append(input);
            let answers: BoxStream<'s, _> = Box::pin(answers.map(|answer| answer.map_err(unreachable)));
            Ok(answers)
        })
    }
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.node()?.vote(request).await.map_err(unreachable)
    }
    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, u64>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let failed = |error| StreamingError::Unreachable(Unreachable::new(&error));
        self.node()?.install_full_snapshot(vote, snapshot).await.map_err(failed)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        heartbeat_interval: 500,
        election_timeout_min: 2000,
        election_timeout_max: 4000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    let config = Arc::new(config.validate()?);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::new(id, Arc::clone(&config), Calls, Log::default(), Machine::default()).await?);
    }
    let leader = nodes[0].clone();
    NODES.set(nodes).map_err(|_| not_there())?;
    leader.initialize(BTreeMap::from([(1, ()), (2, ()), (3, ())])).await?;
    let within = Some(Duration::from_secs(20));
    leader.wait(within).current_leader(1, "the first node leads").await?;
    let payload = Bytes::from(vec![b'x'; args.command_bytes]);
    let operation = move |_, _| {
        let (leader, payload) = (leader.clone(), Payload(payload.clone()));
        async move { leader.client_write(payload).await.is_ok() }
    };
    closed_loop(args.clients, Duration::from_secs_f64(args.seconds), operation).await.print();
    for node in NODES.get().into_iter().flatten() {
        node.shutdown().await?;
    }
    Ok(())
}
