//! Project chores: `cargo xtask codegen` turns `proto/` into the Rust code that is checked in; `cargo xtask mutants`
//! sees that the simulator finds the bugs that were planted for it; `cargo xtask seeds` runs many of its worlds;
//! `cargo xtask soak` runs everything that has seeds for as long as it may.
//!
//! Generated code is checked in so that neither users nor the gate build a protobuf compiler, and
//! so that its changes are seen in review. A test below generates it again and compares.

mod mutants;
mod seeds;
mod soak;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Files under `proto/` to compile.
const PROTOS: &[&str] = &["quorate/v1/quorate.proto"];
/// Where the generated code is checked in.
const GENERATED: &str = "crates/quorate-client/src/generated";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("codegen") => match generate(&workspace().join(GENERATED)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("codegen failed: {error}");
                ExitCode::FAILURE
            }
        },
        Some(chore @ ("mutants" | "seeds" | "soak")) => {
            let arguments: Vec<String> = std::env::args().skip(2).collect();
            let done = match chore {
                "seeds" => seeds::run(&arguments),
                "soak" => soak::run(&arguments),
                _ => mutants::run(&arguments),
            };
            match done {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{chore}: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        _ => {
            eprintln!(
                "usage: cargo xtask codegen\n       cargo xtask mutants [--gate] [--only NAME] [--seeds N]\n       \
                 cargo xtask seeds [--short A..B] [--swarm A..B] [--processes N]\n       \
                 cargo xtask soak [--minutes N] [--seed S]"
            );
            ExitCode::FAILURE
        }
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compiles all protos into `out_dir`.
fn generate(out_dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let include = workspace().join("proto");
    let descriptors = protox::compile(PROTOS.iter().map(|file| include.join(file)), [&include])?;
    std::fs::create_dir_all(out_dir)?;
    // The program that links only the client must not build the server's half.
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .out_dir(out_dir)
        .compile_fds(descriptors)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, std::fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn checked_in_code_is_what_the_protos_say() {
        let out_dir = std::env::temp_dir().join(format!("quorate-codegen-{}", std::process::id()));
        generate(&out_dir).unwrap();
        let (fresh, checked_in) = (files(&out_dir), files(&workspace().join(GENERATED)));
        std::fs::remove_dir_all(&out_dir).unwrap();
        assert!(fresh == checked_in, "run `cargo xtask codegen` and commit {GENERATED}");
    }
}
