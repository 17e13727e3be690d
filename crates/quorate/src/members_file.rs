//! Members of a group from a file: in the form that HashiCorp Raft calls `peers.json`, or the same in TOML.
//!
//! ```text
//!   [ {"id": "1", "address": "10.0.0.1:7001"},                          [[member]]
//!     {"id": "2", "address": "10.0.0.2:7001",                           id = 1
//!      "client_address": "10.0.0.2:8001"},                              address = "10.0.0.1:7001"
//!     {"id": "3", "address": "10.0.0.3:7001", "non_voter": true} ]      …
//! ```
//!
//! * An id is the number of a node, as text or as a number; `client_address` is ours, and optional.
//! * What is not understood is refused with the place, never skipped: a member that is left out by a typing
//!   mistake would be a group of its own.

use quorate_core::{Member, MemberRole, Membership, NodeId};
use serde_json::{Map, Value};

/// A list of members cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembersFileError {
    /// It is not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// It is not TOML.
    #[error("not TOML: {0}")]
    Toml(String),
    /// It has something else than members.
    #[error("must have nothing but members: [[member]] with id = 1 and address = \"host:port\"")]
    NotMembers,
    /// It is not a list of objects.
    #[error("must be a list like [{{\"id\": \"1\", \"address\": \"host:port\", \"non_voter\": false}}]")]
    NotAList,
    /// A field of a member is missing, unknown, or not what it must be.
    #[error("member {number}: {field} must be {must}")]
    Field {
        /// Which member, from 1.
        number: usize,
        /// The field.
        field: String,
        /// What it must be.
        must: &'static str,
    },
    /// The members cannot form a group.
    #[error("{0}")]
    Members(&'static str),
}

/// Reads a list of members, for [`crate::Start::Bootstrap`]: the same file on every one of them.
///
/// # Errors
/// See [`MembersFileError`].
#[doc(alias = "read_config_json")]
#[doc(alias = "peers_json")]
pub fn members_from_json(text: &str) -> Result<Vec<Member>, MembersFileError> {
    let value = serde_json::from_str(text).map_err(|error| MembersFileError::Json(error.to_string()))?;
    let Value::Array(list) = value else { return Err(MembersFileError::NotAList) };
    members(list)
}

/// Reads a list of members, as [`members_from_json`], from TOML: a table `[[member]]` for each.
///
/// # Errors
/// See [`MembersFileError`].
pub fn members_from_toml(text: &str) -> Result<Vec<Member>, MembersFileError> {
    // The first line of the message says where; the others draw it.
    let wrong = |error: toml::de::Error| MembersFileError::Toml(error.message().to_owned());
    let mut value: Map<String, Value> = toml::from_str(text).map_err(wrong)?;
    let list = value.remove("member");
    let Some(Value::Array(list)) = list.filter(|_| value.is_empty()) else {
        return Err(MembersFileError::NotMembers);
    };
    members(list)
}

fn members(list: Vec<Value>) -> Result<Vec<Member>, MembersFileError> {
    let mut members = Vec::with_capacity(list.len());
    for (number, item) in (1..).zip(list) {
        let Value::Object(fields) = item else { return Err(MembersFileError::NotAList) };
        members.push(member(&fields).map_err(|(field, must)| MembersFileError::Field {
            number,
            field: field.to_owned(),
            must,
        })?);
    }
    let rules = Membership::initial(members.clone());
    rules.map_err(|broken| MembersFileError::Members(broken.0))?;
    Ok(members)
}

type Wrong<'a> = (&'a str, &'static str);

fn member(fields: &Map<String, Value>) -> Result<Member, Wrong<'_>> {
    let known = ["id", "address", "non_voter", "client_address"];
    if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
        return Err((field, "id, address, non_voter or client_address"));
    }
    let text = |field: &str| fields.get(field).and_then(Value::as_str).map(str::to_owned);
    let id = fields.get("id").and_then(|id| id.as_u64().or_else(|| id.as_str()?.parse().ok()));
    let node = id.filter(|id| *id > 0).map(NodeId).ok_or(("id", "the number of a node, 1 or more"))?;
    let address = text("address").filter(|address| !address.is_empty());
    let peer_address = address.ok_or(("address", "host:port of the node"))?;
    let client_address = match fields.get("client_address") {
        None => String::new(),
        Some(_) => text("client_address").ok_or(("client_address", "text"))?,
    };
    let learner = match fields.get("non_voter") {
        None => false,
        Some(value) => value.as_bool().ok_or(("non_voter", "true or false"))?,
    };
    let role = if learner { MemberRole::Learner } else { MemberRole::Voter };
    Ok(Member { node, role, peer_address, client_address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_peers_json_is_read() {
        let text = r#"[{"id": "1", "address": "a:1"},
            {"id": 2, "address": "b:1", "non_voter": true, "client_address": "b:2"},
            {"id": "3", "address": "c:1", "non_voter": false}]"#;
        let members = members_from_json(text).unwrap();
        let learner = Member {
            node: NodeId(2),
            role: MemberRole::Learner,
            peer_address: "b:1".to_owned(),
            client_address: "b:2".to_owned(),
        };
        assert_eq!(members, [Member::voter(NodeId(1), "a:1"), learner, Member::voter(NodeId(3), "c:1")]);
    }

    #[test]
    fn toml_says_the_same_as_json() {
        let json = r#"[{"id": "1", "address": "a:1"},
            {"id": 2, "address": "b:1", "non_voter": true, "client_address": "b:2"}]"#;
        let toml = "# The members.\n[[member]]\nid = \"1\"\naddress = \"a:1\"\n\n[[member]]\nid = 2\n\
            address = \"b:1\"\nnon_voter = true\nclient_address = \"b:2\"\n";
        assert_eq!(members_from_toml(toml), members_from_json(json));
        let says = |text: &str| members_from_toml(text).unwrap_err().to_string();
        assert!(says("[[member").starts_with("not TOML: "), "{}", says("[[member"));
        assert!(says("").starts_with("must have nothing but members"));
        assert!(says("member = 1").starts_with("must have nothing but members"));
        assert!(says("x = 1\n[[member]]\nid = 1\naddress = \"a:1\"").starts_with("must have nothing but"));
        assert_eq!(says("[[member]]\nid = 1"), "member 1: address must be host:port of the node");
        assert_eq!(
            says("[[member]]\nid = 1\naddress = \"a:1\"\nvoter = true"),
            "member 1: voter must be id, address, non_voter or client_address"
        );
    }

    #[test]
    fn a_mistake_is_named_and_nothing_is_skipped() {
        let says = |text: &str| members_from_json(text).unwrap_err().to_string();
        assert!(says("[").starts_with("not JSON: "));
        assert!(says("{}").starts_with("must be a list like [{\"id\""));
        assert!(says(r#"["a:1", "b:1"]"#).starts_with("must be a list"));
        assert_eq!(says("[]"), "a group needs a voter");
        assert_eq!(
            says(r#"[{"id": "one", "address": "a:1"}]"#),
            "member 1: id must be the number of a node, 1 or more"
        );
        assert_eq!(
            says(r#"[{"id": 0, "address": "a:1"}]"#),
            "member 1: id must be the number of a node, 1 or more"
        );
        assert_eq!(
            says(r#"[{"id": 1, "address": "a:1"}, {"id": 2, "address": ""}]"#),
            "member 2: address must be host:port of the node"
        );
        assert_eq!(
            says(r#"[{"id": 1, "address": "a:1", "non-voter": true}]"#),
            "member 1: non-voter must be id, address, non_voter or client_address"
        );
        assert_eq!(
            says(r#"[{"id": 1, "address": "a:1", "non_voter": "yes"}]"#),
            "member 1: non_voter must be true or false"
        );
        let twice = r#"[{"id": 1, "address": "a:1"}, {"id": 1, "address": "b:1"}]"#;
        assert_eq!(says(twice), "a node hosts at most one member");
        let nobody = r#"[{"id": 1, "address": "a:1", "non_voter": true}]"#;
        assert_eq!(says(nobody), "a group needs a voter");
    }
}
