//! Connections to the peer port whose other side has not said yet who it is: not many, and none for
//! long.
//!
//! ```text
//!   accepted ──► stranger ── handshake ──► connection of a peer, one of `connections_max`
//!                   └── too many of them: the oldest of the address that has the most ends
//! ```
//!
//! * Anybody can connect and say nothing, ten thousand times. Strangers have places of their own,
//!   so that they never take those of peers.
//! * A newcomer is not turned away. A peer says who it is within moments and is no stranger any
//!   more; whoever says nothing becomes the oldest. So peers get in, also from the address (a
//!   proxy, the own machine) that floods the port.
//! * Of an address there may be only so many. Of IPv6, where everybody has 2⁶⁴ addresses, a network
//!   of those is one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The strangers of one transport.
pub(crate) struct Strangers {
    max: usize,
    per_address_max: usize,
    all: Mutex<All>,
}

/// Connections by address and age; dropping an entry ends its connection.
#[derive(Default)]
struct All {
    count: usize,
    of: BTreeMap<IpAddr, BTreeMap<u64, oneshot::Sender<Infallible>>>,
}

/// The place of one; given up when it is dropped.
pub(crate) struct Stranger {
    strangers: Arc<Strangers>,
    from: IpAddr,
    number: u64,
    end: oneshot::Receiver<Infallible>,
}

impl Strangers {
    pub(crate) fn new(max: usize, per_address_max: usize) -> Self {
        Self { max, per_address_max, all: Mutex::default() }
    }

    /// Takes connection `number`, later ones of which have larger numbers, and ends another if
    /// there are too many now.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr, number: u64) -> Stranger {
        let from = network(from);
        let (keep, end) = oneshot::channel();
        let mut all = self.all();
        let own = all.of.entry(from).or_default();
        own.insert(number, keep);
        let too_many_here = own.len() > self.per_address_max;
        all.count += 1;
        if too_many_here {
            all.end_oldest(from);
        } else if all.count > self.max
            && let Some(busiest) = all.busiest()
        {
            all.end_oldest(busiest);
        }
        drop(all);
        Stranger { strangers: Arc::clone(self), from, number, end }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// The address with the most strangers; of several, that of the oldest one.
    fn busiest(&self) -> Option<IpAddr> {
        let oldest = |numbers: &BTreeMap<u64, _>| numbers.keys().next().copied();
        let busiest = self.of.iter().max_by_key(|(_, own)| (own.len(), std::cmp::Reverse(oldest(own))));
        busiest.map(|(from, _)| *from)
    }

    fn end_oldest(&mut self, from: IpAddr) {
        let oldest = self.of.get(&from).and_then(|own| own.keys().next().copied());
        if let Some(number) = oldest {
            self.remove(from, number);
        }
    }

    fn remove(&mut self, from: IpAddr, number: u64) {
        let Some(own) = self.of.get_mut(&from) else { return };
        if own.remove(&number).is_some() {
            self.count -= 1;
        }
        if own.is_empty() {
            self.of.remove(&from);
        }
    }
}

impl Stranger {
    /// What comes of `handshake`; `None`: the place was needed for somebody else.
    pub(crate) async fn wait<T>(mut self, handshake: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            _ = &mut self.end => None,
            done = handshake => Some(done),
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.all().remove(self.from, self.number);
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn has_ended(stranger: &mut Stranger) -> bool {
        stranger.end.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_of_the_busiest_address_makes_room() {
        let strangers = Arc::new(Strangers::new(4, 3));
        let (busy, quiet) = (address("10.0.0.1"), address("10.0.0.2"));
        let mut first = strangers.enter(quiet, 1);
        let mut of_busy: Vec<Stranger> = (2..5).map(|number| strangers.enter(busy, number)).collect();
        let ended = |of: &mut Vec<Stranger>| of.iter_mut().map(has_ended).collect::<Vec<_>>();
        assert_eq!(ended(&mut of_busy), [false; 3], "four have places");
        of_busy.push(strangers.enter(busy, 5));
        assert_eq!(ended(&mut of_busy), [true, false, false, false], "three of an address");
        let mut newcomer = strangers.enter(quiet, 6);
        assert_eq!(ended(&mut of_busy), [true, true, false, false], "four in all");
        drop(of_busy);
        let mut others = [strangers.enter(busy, 7), strangers.enter(address("10.0.0.3"), 8)];
        assert!(!has_ended(&mut first), "who has gone has given up the place");
        let _last = strangers.enter(address("10.0.0.4"), 9);
        assert!(has_ended(&mut first) && !has_ended(&mut newcomer));
        assert!(!others.iter_mut().any(has_ended));
        drop((first, newcomer, others));
        assert_eq!(strangers.all().count, 1);
    }

    #[test]
    fn an_address_is_what_somebody_has_only_one_of() {
        assert_eq!(network(address("2001:db8:0:1::7")), network(address("2001:db8:0:1:ffff::8")));
        assert_ne!(network(address("2001:db8:0:1::7")), network(address("2001:db8:0:2::7")));
        assert_eq!(network(address("::ffff:10.0.0.1")), address("10.0.0.1"));
        assert_ne!(network(address("10.0.0.1")), network(address("10.0.0.2")));
    }
}
