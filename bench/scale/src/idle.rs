//! Memory of the nodes of a demo that has settled: what `quorate demo` costs a laptop.

use std::process::Command;
use std::time::Duration;

use crate::process::{Owned, anonymous_kib, children_of, cpu_nanos, pss_kib};
use crate::{Failure, Flags};

pub fn run(flags: &Flags) -> Result<(), Failure> {
    let (binary, scratch) = (flags.binary()?, flags.scratch()?);
    let settle: u64 = flags.get("--settle-seconds", 20);
    let nodes: usize = flags.get("--nodes", 3);
    let mut command = Command::new(binary);
    command.arg("demo").args(["--nodes", &nodes.to_string(), "--port-base", "19400"]);
    command.arg("--dir").arg(scratch.path().join("demo"));
    let (demo, _output) = Owned::start(&mut command, &scratch.path().join("demo.log"))?;
    std::thread::sleep(Duration::from_secs(settle));
    let children = children_of(demo.pid());
    if children.len() != nodes {
        return Err(format!("the demo has {} processes instead of {nodes}", children.len()).into());
    }
    let before: Vec<u64> = children.iter().map(|pid| cpu_nanos(*pid)).collect();
    std::thread::sleep(Duration::from_secs(10));
    println!("| process | PSS MiB | of it anonymous MiB | processor, % of a core |\n|---|---|---|---|");
    for (pid, before) in children.iter().zip(before) {
        let pss = pss_kib(*pid).ok_or("no smaps_rollup")? as f64 / 1024.0;
        let own = anonymous_kib(*pid).unwrap_or_default() as f64 / 1024.0;
        let cpu = (cpu_nanos(*pid) - before) as f64 / 10e9 * 100.0;
        println!("| node {pid} | {pss:.1} | {own:.1} | {cpu:.2} |");
    }
    Ok(())
}
