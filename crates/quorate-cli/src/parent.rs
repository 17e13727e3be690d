//! Dying with a supervisor. A node that is started with `--exit-with-parent` must not outlive whoever
//! started it, even when that one is killed with SIGKILL and cannot clean up.
//!
//! The portable way is the pipe: the supervisor holds the other end of our standard input and never
//! writes; the kernel closes it when the supervisor is gone, however it went. On Linux the kernel is
//! also asked for a SIGKILL, which works even while this process is stopped.

use std::io::Read;

use crate::failure::Exit;

/// Exits this process when standard input ends.
pub(crate) fn exit_with_parent() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    std::thread::Builder::new().name("parent".to_owned()).spawn(|| {
        let mut ignored = [0; 64];
        let mut input = std::io::stdin().lock();
        loop {
            match input.read(&mut ignored) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // As sudden as SIGKILL: what has been acknowledged is on disk.
        std::process::exit(Exit::Interrupted as i32);
    })?;
    Ok(())
}
