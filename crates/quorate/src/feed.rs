//! What the host thread shows of a group to everybody who has a handle: its status, its events, how much of it waits.
//!
//! ```text
//!   host thread ── GroupOutlet ──► one place for a group ◄── GroupFeed ── handles look, watch, subscribe
//! ```
//!
//! * One piece of memory, and nothing in it that a group does not need that nobody watches: groups are many. Room for
//!   events is made when somebody subscribes: it is a hundred times what an idle group needs otherwise.
//! * Nobody who watches can hold the host thread up, except for the moment of a look.
//! * It is over when the outlet is dropped: whoever waits is woken, subscribers get what is left.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use quorate_core::RaftEvent;
use quorate_host::{GroupStatus, LatencyHistogram};
use tokio::sync::{Notify, broadcast};

use crate::runtime::gauge::Gauge;

/// How many events of a group are kept for slow subscribers.
const EVENTS_KEPT: usize = 1024;

/// The replica has stopped: nothing will change any more. [`Raft::stopped`](crate::Raft::stopped) says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replica has stopped")]
pub struct ReplicaStopped;

struct Feed {
    shown: RwLock<Shown>,
    /// Told after every change of what is shown.
    changed: Notify,
    events: Mutex<Events>,
    requests: Arc<Gauge>,
    backlog: Arc<Gauge>,
    stopped: OnceLock<String>,
    queued: Mutex<LatencyHistogram>,
}

struct Shown {
    status: GroupStatus,
    /// Counts the changes.
    version: u64,
    is_over: bool,
}

enum Events {
    Unheard,
    Heard(broadcast::Sender<RaftEvent>),
    Over,
}

impl Feed {
    fn look<T>(&self, look: impl FnOnce(&Shown) -> T) -> T {
        look(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is shown; wakes those who watch if `change` says so.
    fn show(&self, change: impl FnOnce(&mut Shown) -> bool) {
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        let wakes = change(&mut shown);
        shown.version += u64::from(wakes);
        drop(shown);
        if wakes {
            self.changed.notify_waiters();
        }
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a handle sees of a replica.
#[derive(Clone)]
pub(crate) struct GroupFeed(Arc<Feed>);

impl GroupFeed {
    pub(crate) fn look<T>(&self, look: impl FnOnce(&GroupStatus) -> T) -> T {
        self.0.look(|shown| look(&shown.status))
    }

    /// What is shown now counts as seen.
    pub(crate) fn watch(&self) -> StatusWatch {
        StatusWatch { seen: self.0.look(|shown| shown.version), feed: self.clone() }
    }

    /// `None`: the replica has stopped.
    pub(crate) fn subscribe(&self) -> Option<broadcast::Receiver<RaftEvent>> {
        let mut events = self.0.events();
        match &*events {
            Events::Over => None,
            Events::Heard(sender) => Some(sender.subscribe()),
            Events::Unheard => {
                let (sender, receiver) = broadcast::channel(EVENTS_KEPT);
                *events = Events::Heard(sender);
                Some(receiver)
            }
        }
    }

    /// The group's part of the requests that wait.
    pub(crate) fn requests(&self) -> &Arc<Gauge> {
        &self.0.requests
    }

    /// The group's part of what waits for disks and state machines.
    pub(crate) fn backlog(&self) -> &Arc<Gauge> {
        &self.0.backlog
    }

    /// Why the replica has stopped by itself. Whoever watches the status is woken when this is set.
    pub(crate) fn stop_reason(&self) -> Option<&String> {
        self.0.stopped.get()
    }

    /// By itself, or because the group was closed.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stop_reason().is_some() || self.0.look(|shown| shown.is_over)
    }

    /// How long requests have waited for the host thread.
    pub(crate) fn queued(&self) -> LatencyHistogram {
        self.0.queued.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The host thread's end. What handles see ends with it.
pub(crate) struct GroupOutlet(GroupFeed);

impl GroupOutlet {
    /// `requests`, `backlog`: the group's parts of those of the node.
    pub(crate) fn new(status: GroupStatus, requests: Arc<Gauge>, backlog: Arc<Gauge>) -> Self {
        Self(GroupFeed(Arc::new(Feed {
            shown: RwLock::new(Shown { status, version: 0, is_over: false }),
            changed: Notify::new(),
            events: Mutex::new(Events::Unheard),
            requests,
            backlog,
            stopped: OnceLock::new(),
            queued: Mutex::default(),
        })))
    }

    pub(crate) const fn feed(&self) -> &GroupFeed {
        &self.0
    }

    /// Shows `status`; wakes those who watch if it says something new.
    pub(crate) fn publish(&self, status: GroupStatus) {
        self.feed().0.show(|shown| {
            let is_new = differs(&shown.status, &status);
            shown.status = status;
            is_new
        });
    }

    /// The replica has stopped; only the first reason counts.
    pub(crate) fn stop(&self, reason: String) {
        if self.feed().0.stopped.set(reason).is_ok() {
            self.feed().0.show(|_| true);
        }
    }

    /// Tells subscribers.
    pub(crate) fn tell(&self, event: RaftEvent) {
        if let Events::Heard(sender) = &*self.feed().0.events()
            && sender.receiver_count() > 0
        {
            // The last subscriber may have left in between.
            drop(sender.send(event));
        }
    }

    pub(crate) fn note_queued(&self, waited: Duration) {
        self.feed().0.queued.lock().unwrap_or_else(PoisonError::into_inner).record(waited);
    }
}

impl Drop for GroupOutlet {
    fn drop(&mut self) {
        *self.feed().0.events() = Events::Over;
        self.feed().0.show(|shown| {
            shown.is_over = true;
            true
        });
    }
}

/// Follows the status of a replica. Any number may; none of them can hold the replica up. States that were over
/// before anybody looked are skipped. Does not keep the replica running.
#[derive(Clone)]
pub struct StatusWatch {
    feed: GroupFeed,
    /// The version that was seen last.
    seen: u64,
}

impl StatusWatch {
    /// What the replica looks like now. It counts as seen.
    pub fn status(&mut self) -> GroupStatus {
        let (status, version) = self.feed.0.look(|shown| (shown.status.clone(), shown.version));
        self.seen = version;
        status
    }

    /// Waits until the status differs from what was seen last, or from what it was when this was made. May be
    /// dropped and called again.
    ///
    /// # Errors
    /// The replica has stopped, whether its last status was seen or not.
    pub async fn changed(&mut self) -> Result<(), ReplicaStopped> {
        let seen = self.seen;
        let news = |shown: &Shown| (shown.version != seen && !shown.is_over).then_some(());
        self.wait(news).await
    }

    /// Waits until `what` holds of the status, and returns that. It must be quick, and ask nothing of the replica
    /// itself, which waits meanwhile. May be dropped and called again.
    ///
    /// # Errors
    /// The replica has stopped, and `what` does not hold of its last status.
    pub async fn wait_for(
        &mut self,
        mut what: impl FnMut(&GroupStatus) -> bool,
    ) -> Result<GroupStatus, ReplicaStopped> {
        self.wait(|shown| what(&shown.status).then(|| shown.status.clone())).await
    }

    async fn wait<T>(&mut self, mut found: impl FnMut(&Shown) -> Option<T>) -> Result<T, ReplicaStopped> {
        loop {
            // Before the look: a change behind it is not missed.
            let changed = self.feed.0.changed.notified();
            let (version, result) = self.feed.0.look(|shown| {
                let over = shown.is_over.then_some(Err(ReplicaStopped));
                (shown.version, found(shown).map(Ok).or(over))
            });
            self.seen = version;
            match result {
                Some(result) => return result,
                None => changed.await,
            }
        }
    }
}

/// What is worth waking those who watch.
fn differs(a: &GroupStatus, b: &GroupStatus) -> bool {
    a.role != b.role
        || a.replica != b.replica
        || a.term != b.term
        || a.leader != b.leader
        || a.leader_ready != b.leader_ready
        || a.rests != b.rests
        || a.leader_hint != b.leader_hint
        || a.last != b.last
        || a.commit != b.commit
        || a.applied != b.applied
        || a.compacted != b.compacted
        || a.snapshot != b.snapshot
        || a.membership_id != b.membership_id
        || a.membership != b.membership
        || a.progress != b.progress
        || a.active_version != b.active_version
        || a.supported_version != b.supported_version
        || a.disk != b.disk
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use quorate_core::{LogId, LogIndex, ReplicaId, RoleName, Term};
    use quorate_host::DiskHealth;

    use super::*;

    fn status(commit: u64) -> GroupStatus {
        GroupStatus {
            role: RoleName::Follower,
            replica: ReplicaId(1),
            term: Term(1),
            leader: None,
            leader_ready: false,
            rests: false,
            heard_leader: None,
            leader_hint: None,
            last: LogId::default(),
            commit: LogIndex(commit),
            applied: LogIndex(0),
            compacted: LogId::default(),
            snapshot: LogId::default(),
            membership: Arc::default(),
            membership_id: LogId::default(),
            progress: Vec::new(),
            active_version: 0,
            supported_version: 0,
            disk: DiskHealth::Works,
            latencies: Arc::default(),
        }
    }

    fn outlet() -> GroupOutlet {
        GroupOutlet::new(status(0), Gauge::new(1, 1), Gauge::new(1, 1))
    }

    fn poll_once<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Who has looked, and waits for the next change, does not miss one that comes before it is asked to wait; nor
    /// is it woken by what it saw.
    #[test]
    fn a_watch_misses_no_change_and_tells_of_none_twice() {
        let outlet = outlet();
        let mut watch = outlet.feed().watch();
        assert_eq!(poll_once(pin!(watch.changed())), Poll::Pending, "nothing has changed since");
        outlet.publish(status(1));
        assert_eq!(poll_once(pin!(watch.changed())), Poll::Ready(Ok(())));
        assert_eq!(poll_once(pin!(watch.changed())), Poll::Pending, "that was it");
        outlet.publish(status(2));
        assert_eq!(watch.status().commit, LogIndex(2));
        assert_eq!(poll_once(pin!(watch.changed())), Poll::Pending, "it has been looked at");
        // While it waits.
        let mut changed = pin!(watch.changed());
        assert_eq!(poll_once(changed.as_mut()), Poll::Pending);
        outlet.publish(status(3));
        assert_eq!(poll_once(changed), Poll::Ready(Ok(())));
    }

    /// When a leader was heard is news all the time: it wakes nobody, and is there for who looks.
    #[test]
    fn what_changes_all_the_time_wakes_nobody() {
        let outlet = outlet();
        let mut watch = outlet.feed().watch();
        let heard = Some(quorate_core::MonoTime(7));
        outlet.publish(GroupStatus { heard_leader: heard, ..status(0) });
        assert_eq!(poll_once(pin!(watch.changed())), Poll::Pending);
        assert_eq!(watch.status().heard_leader, heard);
    }

    #[test]
    fn whoever_waits_learns_that_it_is_over() {
        let outlet = outlet();
        let feed = outlet.feed().clone();
        let (mut one, mut other) = (feed.watch(), feed.watch());
        let mut waiting = pin!(one.wait_for(|status| status.commit == LogIndex(9)));
        assert!(poll_once(waiting.as_mut()).is_pending());
        assert!(!feed.has_stopped());
        outlet.stop("the disk is gone".to_owned());
        outlet.stop("a second reason".to_owned());
        assert_eq!(feed.stop_reason().map(String::as_str), Some("the disk is gone"));
        assert!(poll_once(waiting.as_mut()).is_pending(), "its last status may still be published");
        outlet.publish(status(8));
        drop(outlet);
        let Poll::Ready(Err(ReplicaStopped)) = poll_once(waiting) else { panic!("it waits for ever") };
        assert_eq!(poll_once(pin!(other.changed())), Poll::Ready(Err(ReplicaStopped)));
        // What its last status shows can still be waited for.
        let seen = poll_once(pin!(other.wait_for(|status| status.commit == LogIndex(8))));
        assert!(matches!(seen, Poll::Ready(Ok(_))));
        assert!(feed.has_stopped());
    }

    /// A subscriber gets what was told before the end, and then the end; later ones get nothing.
    #[test]
    fn events_end_with_the_outlet() {
        let outlet = outlet();
        let feed = outlet.feed().clone();
        let event = RaftEvent::RoleChanged {
            role: RoleName::Leader,
            term: Term(1),
            leader: None,
            reason: quorate_core::RoleReason::Won,
        };
        outlet.tell(event.clone());
        let mut early = feed.subscribe().unwrap();
        outlet.tell(event);
        drop(outlet);
        assert!(
            matches!(early.try_recv(), Ok(RaftEvent::RoleChanged { .. })),
            "the one behind the subscription"
        );
        assert_eq!(early.try_recv().unwrap_err(), broadcast::error::TryRecvError::Closed);
        assert!(feed.subscribe().is_none());
    }
}
