//! How each client pulls, by each way that it has, on a machine where it has never run; and what it says or keeps is
//! compared, digest by digest.

use std::path::Path;

use serde_json::Value;

use super::{
    super::rig::{HUB, Way},
    source::{Content, REPOSITORY, Size},
};
use crate::{
    clients::{
        daemons::{buildkitd, containerd, dockerd, dockerd_with_image_store},
        desk::Desk,
        layout::{Image, assert_blobs, hex},
    },
    harness::{Server, gantry_apart},
};

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// With its graph driver.
    Docker,
    /// With containerd's image store.
    DockerWithImageStore,
    /// ctr, with parts of a layer fetched beside each other.
    Containerd,
    Buildkit,
    Podman,
    Buildah,
    Skopeo,
    Crane,
}

/// containerd fetches a layer in parts of this length, as many beside each other.
pub const PART_BYTES: usize = 4 << 20;
const PARTS_AT_ONCE: usize = 8;

impl Program {
    /// What has to be installed for it.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Program::Docker => &["docker", "dockerd"],
            Program::DockerWithImageStore => &["docker", "moby/dockerd", "containerd"],
            Program::Containerd => &["containerd", "ctr"],
            Program::Buildkit => &["buildkitd", "buildctl"],
            Program::Podman => &["podman"],
            Program::Buildah => &["buildah"],
            Program::Skopeo => &["skopeo"],
            Program::Crane => &["crane"],
        }
    }
}

/// One pull of one client.
pub struct Pull<'t> {
    pub server: &'t Server,
    pub content: &'t Content,
    pub way: Way,
    pub size: Size,
}

impl Pull<'_> {
    /// Fails unless it gets the image, whole and right.
    pub fn by(&self, program: Program) {
        match program {
            Program::Docker => self.by_docker(dockerd),
            Program::DockerWithImageStore => self.by_docker(dockerd_with_image_store),
            Program::Containerd => self.by_containerd(),
            Program::Buildkit => self.by_buildkit(),
            Program::Podman => self.by_podman(),
            Program::Buildah => self.by_buildah(),
            Program::Skopeo => self.by_skopeo(),
            Program::Crane => self.by_crane(),
        }
    }

    fn by_docker<D>(&self, start: fn(&Desk, &Path) -> (D, String)) {
        let desk = Desk::new();
        let (config, image) = match self.way {
            Way::Prefix => ("{}".to_owned(), self.here()),
            _ => (self.configuration("docker"), self.at_the_hub()),
        };
        let (_dockerd, host) = start(&desk, &desk.write("daemon.json", &config));
        let docker = |args: &[&str]| desk.run("docker", &[&["-H", &host], args].concat());
        let pulled = docker(&["pull", &image]);
        let index = &self.content.index(self.size).digest;
        assert_eq!(pulled.digest(), index.to_string());
        let kept = docker(&["image", "inspect", &image]).json();
        // The graph driver calls an image by its configuration.
        let ids = [self.own().config.to_string(), index.to_string()];
        assert!(ids.iter().any(|id| kept[0]["Id"] == **id), "{}", kept[0]["Id"]);
        self.assert_layers(&kept[0]["RootFS"]["Layers"]);
    }

    fn by_containerd(&self) {
        let desk = Desk::new();
        let parts = format!(
            "max_concurrent_downloads = {PARTS_AT_ONCE}\nconcurrent_layer_fetch_buffer = {PART_BYTES}\n"
        );
        let (_containerd, address) = containerd(&desk, &parts);
        let pull = ["-a", &address, "images", "pull", "--snapshotter=native"];
        match self.way {
            Way::Ns => {
                for file in self.configuration("containerd").split("# /etc/containerd/certs.d/").skip(1) {
                    let (name, text) = file.split_once('\n').expect("a name, and what stands in the file");
                    desk.write(&format!("certs.d/{name}"), text);
                }
                let hosts = desk.text("certs.d");
                desk.run("ctr", &[&pull[..], &["--hosts-dir", &hosts, &self.at_the_hub()]].concat());
            }
            _ => drop(desk.run("ctr", &[&pull[..], &["--plain-http", &self.here()]].concat())),
        }
        let blobs = desk.path("c-root/io.containerd.content.v1.content/blobs");
        assert_blobs(&blobs, [&self.content.index(self.size).digest].into_iter().chain(self.own().digests()));
    }

    fn by_buildkit(&self) {
        let desk = Desk::new();
        let image = match self.way {
            Way::Ns => self.at_the_hub(),
            _ => self.here(),
        };
        let config = desk.write("buildkitd.toml", &self.configuration("buildkit"));
        let (_buildkitd, address) = buildkitd(&desk, "buildkitd", &config);
        desk.write("context/Dockerfile", &format!("FROM {image}\n"));
        let place = desk.text("context");
        let output = format!("--output=type=local,dest={}", desk.text("built"));
        let locals = [format!("--local=context={place}"), format!("--local=dockerfile={place}")];
        let build = ["--addr", &address, "build", "--progress=plain", "--frontend=dockerfile.v0"];
        desk.run("buildctl", &[&build[..], &[&locals[0], &locals[1], &output]].concat());
        self.content.assert_tree(&desk.path("built"), self.own());
    }

    fn by_podman(&self) {
        let (desk, args) = self.with_registries_conf("pull");
        let id = desk.run("podman", &refs(&args)).line();
        assert_eq!(id, hex(&self.own().config));
        let kept = desk.run("podman", &["image", "inspect", &id]).json();
        self.assert_layers(&kept[0]["RootFS"]["Layers"]);
        let root = desk.run("podman", &["image", "mount", &id]).line();
        self.content.assert_tree(Path::new(&root), self.own());
    }

    fn by_buildah(&self) {
        let (desk, args) = self.with_registries_conf("pull");
        let id = desk.run("buildah", &refs(&args)).line();
        assert_eq!(id, hex(&self.own().config));
        let kept = desk.run("buildah", &["inspect", "--type=image", &id]).json();
        self.assert_layers(&kept["OCIv1"]["rootfs"]["diff_ids"]);
    }

    fn by_skopeo(&self) {
        let desk = Desk::new();
        let (from, to) = (format!("docker://{}", self.here()), format!("oci:{}:image", desk.text("copied")));
        // A layout has compressed layers, unless told.
        let copy = ["copy", "--all", "--preserve-digests", "--src-tls-verify=false"];
        desk.run("skopeo", &[&copy[..], &[&from, &to]].concat());
        assert_blobs(&desk.path("copied/blobs"), self.content.index(self.size).digests());
    }

    fn by_crane(&self) {
        let desk = Desk::new();
        desk.run("crane", &["pull", "--insecure", "--format=oci", &self.here(), &desk.text("pulled")]);
        assert_blobs(&desk.path("pulled/blobs"), self.content.index(self.size).digests());
    }

    /// For what reads a registries.conf: a desk, and the arguments.
    fn with_registries_conf(&self, command: &'static str) -> (Desk, Vec<String>) {
        let desk = Desk::new();
        if self.way == Way::Prefix {
            desk.write("home/registries.conf", &self.configuration("podman"));
            return (desk, vec![command.to_owned(), "--quiet".to_owned(), self.at_the_hub()]);
        }
        let plain = "--tls-verify=false".to_owned();
        (desk, vec![command.to_owned(), "--quiet".to_owned(), plain, self.here()])
    }

    /// What `gantry mirror-config` prints for the running server, to be pasted as it is.
    fn configuration(&self, client: &str) -> String {
        let file = self.server.launch.config_file().display().to_string();
        let url = format!("http://{}", self.server.addr());
        let args = ["mirror-config", client, "--config", &file, "--url", &url];
        let (status, [out, err]) = gantry_apart(&args, self.server.data_dir());
        assert_eq!(status, Some(0), "{err}");
        out
    }

    /// The image, by the name that it has for everybody.
    fn at_the_hub(&self) -> String {
        format!("{HUB}/{REPOSITORY}:{}", self.size.tag())
    }

    /// The image, by its name at this server.
    fn here(&self) -> String {
        let path = match self.way {
            Way::Bare => REPOSITORY.to_owned(),
            Way::Prefix => format!("{HUB}/{REPOSITORY}"),
            Way::Ns | Way::Front => unreachable!("no name, but a configuration"),
        };
        format!("{}/{path}:{}", self.server.addr(), self.size.tag())
    }

    fn own(&self) -> &Image {
        self.content.index(self.size).own()
    }

    /// Not compressed, a layer has one digest.
    #[track_caller]
    fn assert_layers(&self, found: &Value) {
        let layers: Vec<String> = self.own().layers.iter().map(ToString::to_string).collect();
        assert_eq!(*found, serde_json::json!(layers));
    }
}

fn refs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}
