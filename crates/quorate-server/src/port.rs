//! The service behind the client port: lets a request in, finds who answers it, and counts it.
//!
//! ```text
//!                      ┌─ /quorate.v1.KV/…, /quorate.v1.Cluster/… ─► grpc.rs, without a detour
//!   request ─► gate ─►─┤
//!                      └─ anything else ───────────────────────────► router of http.rs
//! ```
//!
//! * What a request holds (a permit, room for its bytes) it holds until its answer begins.
//! * A request that was broken off because there was no room is `busy`, whatever its handler made of that.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::response::IntoResponse as _;
use http::{Request, Response};
use hyper::body::Incoming;
use quorate_client::proto::cluster_server::ClusterServer;
use quorate_client::proto::kv_server::KvServer;
use tokio::sync::OwnedSemaphorePermit;
use tonic::body::Body;
use tower::{Service as _, ServiceExt as _};

use crate::error::ApiError;
use crate::gate::{Gate, STREAM, busy, code_of, is_always_answered, is_grpc, operation};
use crate::grpc::Grpc;
use crate::members::shutting_down;
use crate::room::Held;
use crate::stream_room::measured;

/// See the module's head.
pub(crate) struct Port {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kv: KvServer<Grpc>,
    pub(crate) cluster: ClusterServer<Grpc>,
    pub(crate) http: Router,
}

/// An answer under way.
type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// A request that is being answered, with what it holds meanwhile.
pub(crate) struct Passing {
    gate: Arc<Gate>,
    operation: &'static str,
    started: Instant,
    is_grpc: bool,
    /// An error: it was not let in.
    work: Result<Answering, Option<ApiError>>,
    held: Option<Held>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Port {
    /// Answers `request`.
    pub(crate) fn pass(&self, request: Request<Incoming>) -> Passing {
        let operation = operation(request.method(), request.uri().path());
        let mut passing = Passing {
            gate: Arc::clone(&self.gate),
            operation,
            started: Instant::now(),
            is_grpc: is_grpc(request.headers()),
            work: Err(None),
            held: None,
            permit: None,
        };
        passing.work = self.admit(&mut passing, request).map_err(Some);
        passing
    }

    /// Lets a request in, with what it holds until it is answered.
    fn admit(&self, passing: &mut Passing, request: Request<Incoming>) -> Result<Answering, ApiError> {
        let gate = &self.gate;
        if is_always_answered(passing.operation) {
            return Ok(self.route(request));
        }
        if gate.is_stopping() {
            return Err(shutting_down());
        }
        if passing.operation == STREAM {
            return Ok(self.route(measured(request.map(axum::body::Body::new), &gate.room)));
        }
        let permit = gate.permit()?;
        let (request, held) = gate.room.admit(request).map_err(|_| busy("bytes of requests"))?;
        (passing.held, passing.permit) = (Some(held), Some(permit));
        Ok(self.route(request))
    }

    fn route<B>(&self, request: Request<B>) -> Answering
    where
        B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError> + Send + 'static,
    {
        let path = request.uri().path();
        if path.starts_with("/quorate.v1.KV/") {
            return self.kv.clone().call(request);
        }
        if path.starts_with("/quorate.v1.Cluster/") {
            return self.cluster.clone().call(request);
        }
        let answer = self.http.clone().oneshot(request.map(axum::body::Body::new));
        Box::pin(async move { answer.await.map(|answer| answer.map(Body::new)) })
    }
}

impl Future for Passing {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let outcome = match &mut this.work {
            Ok(work) => match work.as_mut().poll(context) {
                Poll::Ready(Ok(answer)) => Ok(answer),
                Poll::Ready(Err(never)) => match never {},
                Poll::Pending => return Poll::Pending,
            },
            Err(refusal) => Err(refusal.take().unwrap_or_else(shutting_down)),
        };
        let (held, permit) = (this.held.take(), this.permit.take());
        let outcome = match held {
            Some(held) if held.was_full() => Err(busy("bytes of requests")),
            Some(_) | None => outcome,
        };
        drop(permit);
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) if this.is_grpc => error.into_status().into_http(),
            Err(error) => error.into_response().map(Body::new),
        };
        if this.operation != STREAM {
            this.gate.metrics().observe(this.operation, code_of(&answer), this.started.elapsed());
        }
        Poll::Ready(Ok(answer))
    }
}
