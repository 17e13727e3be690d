//! A membership change as etcd's tests write it, and as our core takes it.
//!
//! | etcd | here |
//! |---|---|
//! | `v4` | promote 4 if it is a learner, otherwise add a voter, which has to get the id 4 |
//! | `l4` | demote 4 if it is a voter, otherwise add a learner, which has to get the id 4 |
//! | `r4` | remove 4 |
//! | `u4` | new addresses for 4 |
//! | nothing | leave the joint state |
//! | `transition=auto`, `implicit`, `explicit` | `Automatic`, `JointImplicit`, `JointExplicit` |

use quorate_core::{
    ChangeError, MemberRole, Membership, MembershipChange, MembershipTransition, NodeId, ReplicaId,
};

use crate::format::Step;
use crate::node::Node;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    changes: Vec<(char, u64)>,
    transition: MembershipTransition,
}

impl Wish {
    pub(crate) fn read(step: &Step) -> Result<Self, String> {
        let words = step.input.iter().flat_map(|line| line.split_whitespace());
        let change = |word: &str| {
            let kind = word.chars().next().filter(|kind| "vlru".contains(*kind))?;
            Some((kind, word[1..].parse().ok()?))
        };
        let changes: Option<Vec<_>> = words.map(change).collect();
        let transition = match step.value("transition") {
            None | Some("auto") => MembershipTransition::Automatic,
            Some("implicit") => MembershipTransition::JointImplicit,
            Some("explicit") => MembershipTransition::JointExplicit,
            Some(unknown) => return Err(format!("unknown transition {unknown}")),
        };
        Ok(Self { changes: changes.ok_or("changes are written like v1 l2 r3 u4")?, transition })
    }

    /// Proposes it at `node`.
    pub(crate) fn propose(&self, node: &mut Node) -> Result<(), ChangeError> {
        if self.changes.is_empty() {
            return node.input(|core, now| core.leave_joint(now, None)).map(|_| ());
        }
        let membership = node.core.status().membership.clone();
        let changes = self.changes.iter().map(|(kind, id)| change(&membership, *kind, *id)).collect();
        node.input(|core, now| core.propose_changes(now, changes, self.transition, None)).map(|_| ())
    }
}

fn change(membership: &Membership, kind: char, id: u64) -> MembershipChange {
    let (replica, node) = (ReplicaId(id), NodeId(id));
    let (peer_address, client_address) = (String::new(), String::new());
    let role = membership.get(replica).map(|member| member.role);
    match (kind, role) {
        ('v', Some(MemberRole::Learner)) => MembershipChange::Promote(replica),
        ('v', _) => MembershipChange::AddVoter { node, peer_address, client_address },
        ('l', Some(MemberRole::Voter)) => MembershipChange::Demote(replica),
        ('l', _) => MembershipChange::AddLearner { node, peer_address, client_address },
        ('u', _) => {
            MembershipChange::SetAddresses { replica, peer_address: "new:1".to_owned(), client_address }
        }
        _ => MembershipChange::Remove(replica),
    }
}
