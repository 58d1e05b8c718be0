//! What an operator has in hand: the real command beside the real server, and `/api/v1` as a program speaks it.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
};

use ::faults::{Digest, Registry};
use serde_json::{Value, json};

use crate::harness::{Server, TempDir, gantry, media};

/// `gantry cache` with these arguments: exit status, and all that it said.
pub fn cache(server: &Server, args: &[&str]) -> (Option<i32>, String) {
    let dir = TempDir::new("operator");
    let addr = server.addr().to_string();
    gantry(&[&["cache"], args, &["--server", &addr]].concat(), dir.path())
}

/// The same where it has to be done; gives what it said.
#[track_caller]
pub fn done(server: &Server, args: &[&str]) -> String {
    let (status, said) = cache(server, args);
    assert_eq!(status, Some(0), "{args:?}: {said}");
    said
}

/// Likewise, a line of JSON each.
#[track_caller]
pub fn lines(server: &Server, args: &[&str]) -> Vec<Value> {
    let said = done(server, &[args, &["--json"]].concat());
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

/// All that is cached: digest, and the line.
pub fn listed(server: &Server) -> Vec<(Digest, Value)> {
    let digest = |row: &Value| Digest::parse(row["digest"].as_str().expect("a text")).expect("a digest");
    lines(server, &["ls"]).into_iter().map(|row| (digest(&row), row)).collect()
}

/// What `/api/v1` answers to this server's own client.
#[track_caller]
pub fn api(server: &Server, method: &str, path: &str) -> Value {
    let mut client = server.client();
    client.request(method, format!("/api/v1/cache{path}")).header("Gantry-Api", "1").send().expect(200).json()
}

/// The command, running beside the test.
pub struct Running(Child);

impl Running {
    pub fn start(server: &Server, args: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command.arg("cache").args(args).args(["--server", &server.addr().to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Running(command.spawn().expect("the binary runs"))
    }

    /// Ctrl-C. Gives the exit status and what it said of it.
    pub fn interrupt(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).expect("a pid is above zero");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("our child");
        let mut said = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (self.0.wait().expect("our child").code(), said)
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.0.kill().expect("our child");
        self.0.wait().expect("our child");
    }
}

/// An image for one platform with these layers, which another image may have as well.
pub fn push_image_of(registry: &Registry, repository: &str, tag: &str, layers: &[&[u8]]) -> Digest {
    let describe = |media_type: &str, bytes: &[u8]| {
        let digest = registry.push_blob(repository, bytes);
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    };
    let config = describe(media::CONFIG, format!("{{\"of\":\"{repository}:{tag}\"}}").as_bytes());
    let layers: Vec<Value> = layers.iter().map(|bytes| describe(media::LAYER, bytes)).collect();
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media::IMAGE, "config": config, "layers": layers });
    registry.push_manifest(repository, Some(tag), media::IMAGE, manifest.to_string())
}
