//! Serves the connections of the client port: one task each, which does all that its calls need.
//!
//! ```text
//!   accepted ─► task: ┌ reads, writes (hyper) ◄──── answers ────┐
//!                     └ a call ─► the connection's own list ─► polled here, all that can go on in one turn
//! ```
//!
//! * Calls of one HTTP/2 connection are no tasks of their own: a batch of answers wakes the task once, and leaves
//!   in one write. Streams of `grpc.rs`, which may work on much at once, have tasks.
//! * When the node stops, connections take no further calls and end when those under way are answered. Dropping
//!   what [`serve`] returns ends them at once.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures_util::stream::{FuturesUnordered, Stream as _};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use tokio::task::JoinSet;

use crate::gate::Stopping;
use crate::listener::{BoundedListener, BoundedStream};
use crate::port::{Passing, Port};

/// Accepts connections until the node stops, and serves them to their end.
pub(crate) async fn serve(mut listener: BoundedListener, port: Arc<Port>, stopping: Arc<Stopping>) {
    let mut connections = JoinSet::new();
    let mut stop = pin!(stopping.wait());
    loop {
        tokio::select! {
            (stream, _) = listener.accept() => {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve_connection(stream, Arc::clone(&port), Arc::clone(&stopping)));
            }
            () = &mut stop => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(stream: BoundedStream, port: Arc<Port>, stopping: Arc<Stopping>) {
    let calls = Calls::default();
    let builder = Builder::new(calls.clone());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), Answers(port)));
    let mut at_work = FuturesUnordered::<Call>::new();
    // Among the calls, so that it is looked at when it has something to say, and not whenever something is read.
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    at_work.push(Box::pin(async move {
        stopping.wait().await;
        told.store(true, Ordering::Relaxed);
    }));
    let mut is_stopping = false;
    std::future::poll_fn(|context| {
        loop {
            // A broken connection is its client's affair.
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            at_work.extend(calls.take());
            while let Poll::Ready(Some(())) = Pin::new(&mut at_work).poll_next(context) {}
            if is_stopping || !stop.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
    })
    .await;
}

/// Calls that have begun and that nobody polls yet.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Calls {
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Calls {
    fn execute(&self, call: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(call));
    }
}

/// The port as hyper sees it.
struct Answers(Arc<Port>);

impl Service<http::Request<Incoming>> for Answers {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Passing;

    fn call(&self, request: http::Request<Incoming>) -> Passing {
        self.0.pass(request)
    }
}
