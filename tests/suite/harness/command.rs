//! A command of the real binary that ends by itself.

use std::{path::Path, process::Command};

/// Exit status, and stdout and stderr in one. No variable of ours is set.
pub fn gantry(args: &[&str], dir: &Path) -> (Option<i32>, String) {
    let (status, [out, err]) = gantry_apart(args, dir);
    (status, out + &err)
}

/// Exit status, and stdout and stderr. No variable of ours is set.
pub fn gantry_apart(args: &[&str], dir: &Path) -> (Option<i32>, [String; 2]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GANTRY_")) {
        command.env_remove(name);
    }
    let output = command.args(args).current_dir(dir).output().expect("the binary runs");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).expect("it prints text"));
    (output.status.code(), said)
}
