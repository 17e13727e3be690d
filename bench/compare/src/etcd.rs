//! The three calls of etcd's gRPC that are compared, with the fields that they need.

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// One connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Etcd {
    grpc: tonic::client::Grpc<Channel>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

impl Etcd {
    /// Connects to a server (`host:port`).
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(address: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?;
        Ok(Self { grpc: tonic::client::Grpc::new(channel) })
    }

    /// Whether this server leads.
    ///
    /// # Errors
    /// As the server says.
    pub async fn leads(&mut self) -> Result<bool, Status> {
        let status: StatusResponse = self.call(StatusRequest {}, "/etcdserverpb.Maintenance/Status").await?;
        Ok(status.header.is_some_and(|header| header.member_id == status.leader))
    }

    /// Sets a key.
    ///
    /// # Errors
    /// As the server says.
    pub async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Status> {
        let _put: PutResponse = self.call(PutRequest { key, value }, "/etcdserverpb.KV/Put").await?;
        Ok(())
    }

    /// Reads a key, linearizably.
    ///
    /// # Errors
    /// As the server says.
    pub async fn get(&mut self, key: Bytes) -> Result<Option<Bytes>, Status> {
        let mut found: RangeResponse = self.call(RangeRequest { key }, "/etcdserverpb.KV/Range").await?;
        Ok(found.kvs.pop().map(|item| item.value))
    }

    async fn call<Q, A>(&mut self, request: Q, path: &'static str) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let path = http::uri::PathAndQuery::from_static(path);
        Ok(self.grpc.unary(Request::new(request), path, codec).await?.into_inner())
    }
}
