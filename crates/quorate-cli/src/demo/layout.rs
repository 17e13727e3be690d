//! Where a demo keeps its things, and which ports it uses.
//!
//! ```text
//!   DIR/                       --dir, or a temporary directory that goes away at the end
//!     demo.json                ports and nodes, so that the same directory continues with the same ones
//!     node-1/ node-2/ …        data directories
//!     node-1.log …             what the processes say
//!   TMP/quorate-demo-UID/      where `demo ctl` finds running demos
//!     PID.json  PID.sock
//! ```
//!
//! * Nodes know each other by address, so the ports of a directory never change.
//! * Client port = base + id, peer port (of the proxy) = base + 100 + id.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

/// The base of the ports when nobody says otherwise.
pub(crate) const PORT_BASE: u16 = 8000;
/// The most nodes a demo can have, added ones included.
pub(crate) const NODES_MAX: u64 = 9;
/// How many other bases are tried when the default ports are taken.
const BASES_TRIED: u16 = 20;
/// The number of the layout of `demo.json`.
const FORMAT: u32 = 1;

/// What `demo.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    format: u32,
    /// See the module.
    pub(crate) port_base: u16,
    /// The nodes that started the cluster: 1 to this.
    pub(crate) initial_nodes: u64,
    /// The nodes added since follow them without gaps.
    pub(crate) added_nodes: u64,
}

impl State {
    /// Every node there is.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.initial_nodes + self.added_nodes
    }
}

/// A demo's directory, locked for this process.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// Whether it goes away at the end.
    pub(crate) temporary: bool,
    /// What it holds.
    pub(crate) state: State,
    /// The lock; released when this is dropped.
    _lock: std::fs::File,
}

/// What was asked for on the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// `--dir`.
    pub(crate) dir: Option<PathBuf>,
    /// `--nodes`.
    pub(crate) nodes: Option<u64>,
    /// `--port-base`.
    pub(crate) port_base: Option<u16>,
}

impl Layout {
    /// Opens or makes the directory and settles the ports. Also returns what the user should be told.
    pub(crate) fn open(wish: &Wish) -> Result<(Self, Vec<String>), Failure> {
        let (dir, temporary) = match &wish.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(|error| cannot("make", dir, &error))?;
                (std::fs::canonicalize(dir).map_err(|error| cannot("open", dir, &error))?, false)
            }
            None => (make_temporary_dir()?, true),
        };
        let lock = lock(&dir)?;
        let mut notes = Vec::new();
        let state = match read_state(&dir)? {
            Some(state) => continue_with(state, wish, &dir, &mut notes)?,
            None => {
                let nodes = wish.nodes.unwrap_or(3);
                let port_base = choose_ports(wish.port_base, nodes, &mut notes)?;
                State { format: FORMAT, port_base, initial_nodes: nodes, added_nodes: 0 }
            }
        };
        let layout = Self { dir, temporary, state, _lock: lock };
        layout.save()?;
        Ok((layout, notes))
    }

    /// Writes `demo.json`.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let path = self.dir.join("demo.json");
        let text = serde_json::to_string_pretty(&self.state).map_err(Failure::error)?;
        let new = self.dir.join("demo.json.new");
        std::fs::write(&new, text + "\n")
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|error| cannot("write", &path, &error))
    }

    /// A node's data directory.
    pub(crate) fn data_dir(&self, node: u64) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    /// What a node's process says.
    pub(crate) fn log_file(&self, node: u64) -> PathBuf {
        self.dir.join(format!("node-{node}.log"))
    }

    /// Where clients reach a node.
    pub(crate) fn client_address(&self, node: u64) -> SocketAddr {
        loopback(self.state.port_base, node)
    }

    /// Where other nodes reach a node: its proxy.
    pub(crate) fn peer_address(&self, node: u64) -> SocketAddr {
        loopback(self.state.port_base + 100, node)
    }

    /// Removes a temporary directory.
    pub(crate) fn clean_up(&self) -> std::io::Result<()> {
        if self.temporary { std::fs::remove_dir_all(&self.dir) } else { Ok(()) }
    }
}

fn loopback(base: u16, node: u64) -> SocketAddr {
    let offset = u16::try_from(node).unwrap_or(u16::MAX);
    SocketAddr::from((Ipv4Addr::LOCALHOST, base.saturating_add(offset)))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Directory, format!("cannot {what} {}: {error}", path.display()))
}

fn make_temporary_dir() -> Result<PathBuf, Failure> {
    let base = std::env::temp_dir();
    for attempt in 0..100 {
        let dir = base.join(format!("quorate-demo-{}-{attempt}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Ok(()) => return std::fs::canonicalize(&dir).map_err(|error| cannot("open", &dir, &error)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot("make", &dir, &error)),
        }
    }
    Err(Failure::new(Exit::Directory, format!("cannot make a directory in {}: give --dir", base.display())))
}

fn lock(dir: &Path) -> Result<std::fs::File, Failure> {
    let path = dir.join("demo.lock");
    let file = std::fs::File::create(&path).map_err(|error| cannot("make", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::new(
            Exit::Directory,
            format!("another demo is running in {}: stop it, or take another --dir", dir.display()),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(cannot("lock", &path, &error)),
    }
}

fn read_state(dir: &Path) -> Result<Option<State>, Failure> {
    let path = dir.join("demo.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot("read", &path, &error)),
    };
    let wrong = |what: String| {
        let line = format!("{} is not a demo's: {what}; take another --dir", path.display());
        Failure::new(Exit::Directory, line)
    };
    let state: State = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if state.format != FORMAT {
        return Err(wrong(format!("format {} instead of {FORMAT}", state.format)));
    }
    let nodes = state.initial_nodes.checked_add(state.added_nodes);
    if state.initial_nodes == 0 || nodes.is_none_or(|nodes| nodes > NODES_MAX) || state.port_base > 65_000 {
        return Err(wrong("impossible numbers".to_owned()));
    }
    Ok(Some(state))
}

/// The directory has a cluster already: what is asked for must agree with it.
fn continue_with(state: State, wish: &Wish, dir: &Path, notes: &mut Vec<String>) -> Result<State, Failure> {
    let nodes = state.nodes().count();
    if let Some(wished) = wish.nodes
        && wished != state.initial_nodes
    {
        return Err(Failure::usage(format!(
            "{} has a cluster that began with {} nodes: leave --nodes out (and use add), or take another --dir",
            dir.display(),
            state.initial_nodes
        )));
    }
    if let Some(base) = wish.port_base
        && base != state.port_base
    {
        return Err(Failure::usage(format!(
            "the nodes in {} know each other by the ports from {} on: leave --port-base out, or take another --dir",
            dir.display(),
            state.port_base
        )));
    }
    if let Some(port) = taken_port(state.port_base, nodes as u64) {
        return Err(Failure::new(
            Exit::Listen,
            format!(
                "port {port} is in use, and the nodes in {} know each other by it: stop the program that uses it, or take another --dir",
                dir.display()
            ),
        ));
    }
    notes.push(format!("Continuing with the {nodes} nodes in {}.", dir.display()));
    Ok(state)
}

fn choose_ports(wished: Option<u16>, nodes: u64, notes: &mut Vec<String>) -> Result<u16, Failure> {
    let first = wished.unwrap_or(PORT_BASE);
    let Some(port) = taken_port(first, nodes) else { return Ok(first) };
    let in_use = |what: &str| Failure::new(Exit::Listen, format!("port {port} is in use: {what}"));
    if wished.is_some() {
        return Err(in_use("stop the program that uses it, or take another --port-base"));
    }
    let others = (1..=BASES_TRIED).map(|n| first + n * 1000);
    let free = others.into_iter().find(|base| taken_port(*base, nodes).is_none());
    let base =
        free.ok_or_else(|| in_use("and so are ports of all the other ranges tried; give --port-base"))?;
    notes.push(format!("Port {port} is in use: taking the ports from {base} on instead of {first}."));
    Ok(base)
}

/// A port of these nodes that cannot be listened on.
fn taken_port(base: u16, nodes: u64) -> Option<u16> {
    let addresses = (1..=nodes).flat_map(|node| [loopback(base, node), loopback(base + 100, node)]);
    addresses.into_iter().find(|address| TcpListener::bind(address).is_err()).map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A base whose ports are free now; the kernel gives out other ones for port 0.
    fn free_base() -> u16 {
        let seed = u16::try_from(std::process::id() % 1000).unwrap();
        (0..20).map(|n| 10_000 + seed + n * 211).find(|base| taken_port(*base, 3).is_none()).unwrap()
    }

    #[test]
    fn same_directory_continues_with_the_same_ports_and_nodes() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Some(scratch.path().join("demo"));
        let base = free_base();
        let wish = Wish { dir: dir.clone(), nodes: Some(3), port_base: Some(base) };
        let (mut layout, notes) = Layout::open(&wish).unwrap();
        assert!(notes.is_empty());
        layout.state.added_nodes = 1;
        layout.save().unwrap();

        let second = Layout::open(&Wish { dir: dir.clone(), ..Wish::default() }).unwrap_err();
        assert!(second.line.starts_with("another demo is running in "), "{second}");
        drop(layout);

        let (layout, notes) = Layout::open(&Wish { dir: dir.clone(), ..Wish::default() }).unwrap();
        assert_eq!((layout.state.port_base, layout.state.nodes().count()), (base, 4));
        assert!(notes[0].starts_with("Continuing with the 4 nodes in "), "{notes:?}");
        drop(layout);

        let other = Layout::open(&Wish { dir, nodes: Some(5), port_base: None }).unwrap_err();
        assert_eq!(other.exit, Exit::Usage);
    }

    #[test]
    fn taken_port_is_an_error_when_it_was_asked_for() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let failure = choose_ports(Some(port - 2), 3, &mut Vec::new()).unwrap_err();
        assert_eq!(failure.exit, Exit::Listen);
        assert!(failure.line.contains("is in use: stop the program that uses it"), "{failure}");
    }

    #[test]
    fn other_ports_are_taken_and_announced_when_the_usual_ones_are_not_free() {
        let _taken = TcpListener::bind(loopback(PORT_BASE, 2));
        let mut notes = Vec::new();
        let base = choose_ports(None, 3, &mut notes).unwrap();
        assert_ne!(base, PORT_BASE);
        assert!(
            notes[0].ends_with(&format!("taking the ports from {base} on instead of 8000.")),
            "{notes:?}"
        );
    }

    #[test]
    fn directory_of_something_else_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("demo.json"), "{\"format\": 99}").unwrap();
        let wish = Wish { dir: Some(scratch.path().to_path_buf()), ..Wish::default() };
        let failure = Layout::open(&wish).unwrap_err();
        assert_eq!(failure.exit, Exit::Directory);
        assert!(failure.line.contains("is not a demo's"), "{failure}");
    }
}
