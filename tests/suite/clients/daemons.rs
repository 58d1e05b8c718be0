//! The daemons that clients have, each on a desk of its own.

use std::{fs, path::Path};

use super::desk::{Daemon, Desk};

/// Debian's dockerd, with the graph driver, and the `-H` by which docker reaches it.
pub fn dockerd(desk: &Desk, config: &Path) -> (Daemon, String) {
    start_dockerd(desk, "dockerd", &["--storage-driver=vfs"], config)
}

/// dockerd with containerd's image store, and the `-H` by which docker reaches it.
pub fn dockerd_with_image_store(desk: &Desk, config: &Path) -> ([Daemon; 2], String) {
    let (containerd, address) = containerd(desk, "");
    let image_store = ["--storage-driver=native", "--containerd", &address];
    let (dockerd, host) = start_dockerd(desk, "moby/dockerd", &image_store, config);
    // The one that needs the other goes first.
    ([dockerd, containerd], host)
}

fn start_dockerd(desk: &Desk, program: &str, store: &[&str], config: &Path) -> (Daemon, String) {
    let socket = desk.path("docker.sock");
    let host = format!("unix://{}", socket.display());
    let args = [
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--bridge=none",
        "--config-file",
        &config.display().to_string(),
        "--data-root",
        &desk.text("docker-data"),
        "--exec-root",
        &desk.text("docker-exec"),
        "--pidfile",
        &desk.text("docker.pid"),
        "-H",
        &host,
    ];
    (Daemon::start(desk, program, &[&args[..], store].concat(), &socket), host)
}

/// containerd, and the `-a` by which ctr reaches it. `transfer`: lines for the transfer service's table.
pub fn containerd(desk: &Desk, transfer: &str) -> (Daemon, String) {
    let (socket, config) = (desk.path("c.sock"), desk.path("containerd.toml"));
    // Without a platform to unpack for, the transfer service refuses to pull.
    let toml = format!(
        "version = 3\nroot = {:?}\nstate = {:?}\n\
         disabled_plugins = [\"io.containerd.internal.v1.opt\", \"io.containerd.nri.v1.nri\"]\n\
         [grpc]\naddress = {socket:?}\n\
         [plugins.\"io.containerd.transfer.v1.local\"]\n{transfer}\n\
         [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
         platform = \"linux/amd64\"\nsnapshotter = \"native\"\ndiffer = \"walking\"\n",
        desk.path("c-root"),
        desk.path("c-state"),
    );
    fs::write(&config, toml).unwrap();
    let daemon = Daemon::start(desk, "containerd", &["-c", &config.display().to_string()], &socket);
    (daemon, socket.display().to_string())
}

/// buildkitd, and the `--addr` by which buildctl reaches it. Several on one desk differ by `name`.
pub fn buildkitd(desk: &Desk, name: &str, config: &Path) -> (Daemon, String) {
    let socket = desk.path(&format!("{name}.sock"));
    let address = format!("unix://{}", socket.display());
    let args = [
        "--addr",
        &address,
        "--root",
        &desk.text(&format!("{name}-root")),
        "--config",
        &config.display().to_string(),
        "--oci-worker-snapshotter=native",
        "--oci-worker-net=host",
        "--containerd-worker=false",
    ];
    (Daemon::start(desk, "buildkitd", &args, &socket), address)
}
