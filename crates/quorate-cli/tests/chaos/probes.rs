//! Reads at a node that may not know what the others did: old values that others have overwritten, so that an
//! answer shows at once whether it is a stale one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::eventually;
use crate::scene::Scene;

/// Keys that are "old", until they are overwritten where the asked node does not see it.
pub(crate) struct Probes {
    keys: Vec<String>,
}

/// How probes were answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) fresh: u64,
    /// With an error, or by closing the connection. Nobody is told anything wrong by that.
    pub(crate) refused: u64,
}

impl std::ops::AddAssign for Answers {
    fn add_assign(&mut self, other: Self) {
        self.fresh += other.fresh;
        self.refused += other.refused;
    }
}

/// A read that was sent and not answered yet.
pub(crate) struct Asked {
    key: String,
    /// Half of them by the leader's lease, which promises the same.
    consistency: &'static str,
    stream: TcpStream,
}

impl Probes {
    /// How many reads [`Self::connect`] prepares.
    pub(crate) const COUNT: usize = 16;

    pub(crate) fn write_old(scene: &Scene, round: u64) -> Self {
        let keys: Vec<String> = (0..Self::COUNT).map(|n| format!("probe-{round}-{n}")).collect();
        let probes = Self { keys };
        probes.write(scene, "old");
        probes
    }

    /// Acknowledged when this returns. (Each write is tried until then.)
    pub(crate) fn write(&self, scene: &Scene, value: &str) {
        let client = scene.cluster.client();
        for key in &self.keys {
            eventually("a probe is written", || {
                scene.cluster.runtime.block_on(client.put(key.clone(), value.to_owned())).ok()
            });
        }
    }

    /// Connections to `node` which have not asked yet.
    pub(crate) fn connect(&self, scene: &Scene, node: u64) -> Vec<Asked> {
        let address = scene.cluster.ports.client(node);
        let consistencies = ["linearizable", "lease"].into_iter().cycle();
        let asked = self.keys.iter().zip(consistencies).map(|(key, consistency)| {
            let stream = TcpStream::connect(&address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            Asked { key: key.clone(), consistency, stream }
        });
        asked.collect()
    }
}

impl Asked {
    /// Sends a read that must not be stale. It is in the node's socket when this returns, whether or not the node runs.
    pub(crate) fn ask(&mut self) {
        let request = format!(
            "GET /v1/kv/{}?consistency={}&timeout_millis=4000 HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n",
            self.key, self.consistency
        );
        self.stream.write_all(request.as_bytes()).unwrap();
    }

    /// Waits for the answer, which must be the new value, or an error.
    pub(crate) fn answer(mut self, story: &str) -> Answers {
        let mut answer = Vec::new();
        let read = self.stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let is_found = answer.starts_with("HTTP/1.1 200");
        if is_found && answer.ends_with("new") {
            return Answers { fresh: 1, refused: 0 };
        }
        let is_stale = is_found || answer.starts_with("HTTP/1.1 404");
        assert!(
            !is_stale,
            "{story}: a stale answer ({}) for {}: {answer} ({read:?})",
            self.consistency, self.key
        );
        Answers { fresh: 0, refused: 1 }
    }
}
