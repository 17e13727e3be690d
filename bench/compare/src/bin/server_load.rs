//! Load on a cluster that runs already: etcd by its gRPC, Quorate by single calls or by the client library's stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use quorate_client::proto::kv_client::KvClient;
use quorate_client::proto::{GetRequest, PutRequest};
use quorate_client::{Client, ClientOptions};
use quorate_compare::etcd::Etcd;
use quorate_compare::{Outcome, closed_loop};
use tonic::transport::Channel;

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    Etcd,
    QuorateUnary,
    QuorateStream,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    Put,
    Get,
}

#[derive(Parser)]
struct Args {
    #[arg(long, value_enum)]
    target: Target,
    #[arg(long, value_enum)]
    operation: Operation,
    /// Client addresses of all nodes; the load goes to the one that leads.
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    #[arg(long)]
    clients: usize,
    /// Connections that the clients share.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
}

type Failure = Box<dyn std::error::Error>;

/// The keys are written before they are read.
const KEYS: u64 = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args = Args::parse();
    match args.target {
        Target::Etcd => etcd(&args).await?.print(),
        Target::QuorateUnary => quorate_unary(&args).await?.print(),
        Target::QuorateStream => quorate_stream(&args).await?.print(),
    }
    Ok(())
}

fn key(client: usize, sequence: u64) -> String {
    // Spread, and the same for every contestant.
    let spread = (client as u64).wrapping_mul(7919).wrapping_add(sequence.wrapping_mul(104_729));
    format!("key-{:08}", spread % KEYS)
}

async fn etcd(args: &Args) -> Result<Outcome, Failure> {
    let mut leader = None;
    for endpoint in &args.endpoints {
        if Etcd::connect(endpoint).await?.leads().await? {
            leader = Some(endpoint.clone());
        }
    }
    let leader = leader.ok_or("no etcd server leads")?;
    let mut connections = Vec::new();
    for _ in 0..args.connections.min(args.clients) {
        connections.push(Etcd::connect(&leader).await?);
    }
    let (connections, value) = (Arc::new(connections), Bytes::from(vec![b'x'; args.value_bytes]));
    let operation = args.operation;
    let run = move |client: usize, sequence: u64| {
        let (mut connection, value) = (connections[client % connections.len()].clone(), value.clone());
        async move {
            let key = key(client, sequence).into();
            match operation {
                Operation::Put => connection.put(key, value).await.is_ok(),
                Operation::Get => connection.get(key).await.is_ok(),
            }
        }
    };
    Ok(closed_loop(args.clients, Duration::from_secs_f64(args.seconds), run).await)
}

/// The client address of the node that leads.
async fn quorate_leader(endpoints: &[String]) -> Result<String, Failure> {
    let client = Client::connect(endpoints.iter().cloned(), ClientOptions::default())?;
    let status = client.status().await?;
    Ok(status.leader.map(|leader| leader.client_address).ok_or("no Quorate node leads")?)
}

async fn quorate_unary(args: &Args) -> Result<Outcome, Failure> {
    let leader = quorate_leader(&args.endpoints).await?;
    let mut connections = Vec::new();
    for _ in 0..args.connections.min(args.clients) {
        let channel = Channel::from_shared(format!("http://{leader}"))?.tcp_nodelay(true).connect().await?;
        connections.push(KvClient::new(channel));
    }
    let (connections, value) = (Arc::new(connections), Bytes::from(vec![b'x'; args.value_bytes]));
    let operation = args.operation;
    let run = move |client: usize, sequence: u64| {
        let (mut connection, value) = (connections[client % connections.len()].clone(), value.clone());
        async move {
            let key = key(client, sequence).into();
            match operation {
                Operation::Put => {
                    connection.put(PutRequest { key, value, ..PutRequest::default() }).await.is_ok()
                }
                Operation::Get => connection.get(GetRequest { key, ..GetRequest::default() }).await.is_ok(),
            }
        }
    };
    Ok(closed_loop(args.clients, Duration::from_secs_f64(args.seconds), run).await)
}

async fn quorate_stream(args: &Args) -> Result<Outcome, Failure> {
    let leader = quorate_leader(&args.endpoints).await?;
    let options = ClientOptions { in_flight_max: args.clients.max(1), ..ClientOptions::default() };
    let connections = args.connections.min(args.clients);
    let clients: Result<Vec<_>, _> =
        (0..connections).map(|_| Client::connect([leader.clone()], options.clone())).collect();
    let (clients, value) = (Arc::new(clients?), Bytes::from(vec![b'x'; args.value_bytes]));
    let operation = args.operation;
    let run = move |client: usize, sequence: u64| {
        let (connection, value) = (clients[client % clients.len()].clone(), value.clone());
        async move {
            let key = key(client, sequence);
            match operation {
                Operation::Put => connection.put(key, value).await.is_ok(),
                Operation::Get => connection.get(key).await.is_ok(),
            }
        }
    };
    Ok(closed_loop(args.clients, Duration::from_secs_f64(args.seconds), run).await)
}
