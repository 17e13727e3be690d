//! One log line per thing that is wrong, not one per attempt: a peer that is refused tries again for hours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The same complaint about the same address is logged again after this long.
const REPEAT_AFTER: Duration = Duration::from_secs(300);
/// The most complaints remembered.
const REMEMBERED_MAX: usize = 256;

/// What was lately said about whom.
#[derive(Default)]
pub(crate) struct Complaints(Mutex<BTreeMap<(IpAddr, String), Instant>>);

impl Complaints {
    /// Logs `text` about a connection from `from`, unless that was said a short while ago. Returns whether it
    /// was logged.
    pub(crate) fn warn(&self, from: IpAddr, text: &str) -> bool {
        let fresh = {
            let now = Instant::now();
            let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            said.retain(|_, at| now.duration_since(*at) < REPEAT_AFTER);
            let key = (from, text.to_owned());
            let fresh = !said.contains_key(&key) && said.len() < REMEMBERED_MAX;
            if fresh {
                said.insert(key, now);
            }
            fresh
        };
        if fresh {
            tracing::warn!(%from, "refused a connection to the peer port: {text}");
        } else {
            tracing::debug!(%from, "refused a connection to the peer port again: {text}");
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_complaint_is_repeated_after_a_while_only() {
        let (complaints, from) = (Complaints::default(), IpAddr::from([10, 0, 0, 1]));
        assert!(complaints.warn(from, "no certificate"));
        assert!(!complaints.warn(from, "no certificate"));
        assert!(complaints.warn(from, "expired"));
        assert!(complaints.warn(IpAddr::from([10, 0, 0, 2]), "expired"));
        tokio::time::advance(REPEAT_AFTER).await;
        assert!(complaints.warn(from, "no certificate"));
    }
}
