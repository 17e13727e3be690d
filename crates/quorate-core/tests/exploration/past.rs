//! What has happened once and may never be contradicted: who led which term, who voted for whom, what
//! was committed. Part of the state of the search: two states are one only if they also share this.

use crate::facts::{Facts, Link};
use crate::parcel::Parcel;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Past {
    /// (term, leader)
    leaders: Vec<(u64, u64)>,
    /// (term, voter, candidate)
    votes: Vec<(u64, u64, u64)>,
    /// What was committed, and the term in which it first was.
    pub(crate) committed: Vec<(Link, u64)>,
    /// A read began when this much was committed.
    pub(crate) read_from: Option<usize>,
}

impl Past {
    /// Replica `id` is now what `facts` says.
    pub(crate) fn saw(&mut self, id: u64, facts: &Facts) -> Result<(), String> {
        if facts.leads {
            match self.leaders.iter().find(|(term, _)| *term == facts.term) {
                Some((term, leader)) if *leader != id => {
                    return Err(format!("two leaders in term {term}: {leader} and {id}"));
                }
                Some(_) => {}
                None => {
                    self.leaders.push((facts.term, id));
                    self.leaders.sort_unstable();
                }
            }
        }
        for (at, link) in facts.log.iter().take(facts.commit).enumerate() {
            match self.committed.get(at) {
                Some((committed, _)) if committed != link => {
                    return Err(format!("{id} commits another entry {} than was committed before", at + 1));
                }
                Some(_) => {}
                None => self.committed.push((*link, facts.term)),
            }
        }
        Ok(())
    }

    /// `parcel` was said.
    pub(crate) fn heard(&mut self, parcel: &Parcel) -> Result<(), String> {
        let message = &parcel.message;
        let Some(candidate) = message.vote().map(|candidate| candidate.0) else { return Ok(()) };
        let (term, voter) = (message.term.0, message.from.0);
        match self.votes.iter().find(|(t, v, _)| (*t, *v) == (term, voter)) {
            Some((.., other)) if *other != candidate => {
                Err(format!("{voter} votes for {other} and for {candidate} in term {term}"))
            }
            Some(_) => Ok(()),
            None => {
                self.votes.push((term, voter, candidate));
                self.votes.sort_unstable();
                Ok(())
            }
        }
    }

    /// What must hold between replicas at every moment.
    pub(crate) fn check(&self, replicas: &[&Facts], quorum: Option<usize>) -> Result<(), String> {
        for (at, one) in replicas.iter().enumerate() {
            for other in &replicas[at + 1..] {
                matching(&one.log, &other.log)?;
                matching(&one.durable, &other.durable)?;
            }
            if one.leads {
                self.check_complete(one)?;
            }
        }
        // Entries below the last committed one are in the same chain.
        if let (Some(quorum), Some((link, _))) = (quorum, self.committed.last()) {
            let at = self.committed.len() - 1;
            let holders = replicas.iter().filter(|facts| facts.durable.get(at) == Some(link)).count();
            if holders < quorum {
                return Err(format!("committed entry {} is on {holders} disks only", at + 1));
            }
        }
        Ok(())
    }

    /// Leader completeness: what was committed in an earlier term is in this leader's log.
    fn check_complete(&self, leader: &Facts) -> Result<(), String> {
        for (at, (link, term)) in self.committed.iter().enumerate() {
            if *term < leader.term && leader.log.get(at) != Some(link) {
                return Err(format!(
                    "the leader of term {} lacks entry {}, which was committed in term {term}",
                    leader.term,
                    at + 1
                ));
            }
        }
        Ok(())
    }
}

/// Log matching: the same index and term, the same entry and everything before it.
fn matching(one: &[Link], other: &[Link]) -> Result<(), String> {
    for (at, (a, b)) in one.iter().zip(other).enumerate() {
        if a.term == b.term && a.chain != b.chain {
            return Err(format!("two logs differ at or before {}@t{}", at + 1, a.term));
        }
    }
    Ok(())
}
