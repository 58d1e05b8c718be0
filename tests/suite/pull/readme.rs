//! What the README says to who begins: its five lines are a configuration, and the names that it pulls by are pulled,
//! the second time without the upstream.

use std::{fs, path::Path};

use ::faults::{Image, Registry};

use crate::harness::{Client, Launch, TempDir, gantry, legs};

use super::rig::NO_ANSWER;

/// What stands between two lines of the README.
fn cut<'r>(text: &'r str, from: &str, to: &str) -> &'r str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("the README has no {from:?}"));
    let (part, _) = rest.split_once(to).unwrap_or_else(|| panic!("no {to:?} behind {from:?}"));
    part
}

/// The section about a mirror.
fn section() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(file).expect("it is there");
    cut(&readme, "\n## A mirror in five lines\n", "\n## ").to_owned()
}

fn five_lines(section: &str) -> &str {
    let lines = cut(section, "```toml\n", "```");
    assert_eq!(lines.lines().count(), 5, "{lines}");
    lines
}

/// The repositories of its `docker pull`s, as they are asked for.
fn pulled(section: &str) -> Vec<String> {
    let pulls = section.lines().filter_map(|line| line.strip_prefix("docker pull "));
    let name = |image: &str| match image.strip_prefix("127.0.0.1:5000/") {
        Some(name) => name.to_owned(),
        // Without a host: dockerd asks its mirrors for what it calls it.
        None => format!("library/{image}"),
    };
    pulls.map(name).collect()
}

/// As docker does: the tag, its platform's manifest, what that names.
fn pull(client: &mut Client, registry: &Registry, repository: &str, image: &Image) {
    client.head(format!("/v2/{repository}/manifests/latest")).expect(200);
    let index = client.get(format!("/v2/{repository}/manifests/latest")).expect(200);
    assert_eq!(index.header("docker-content-digest"), image.index.to_string());
    for (kind, digest) in [("manifests", &image.manifests[0]), ("blobs", &image.configs[0])]
        .into_iter()
        .chain(image.layers[0].iter().map(|layer| ("blobs", layer)))
    {
        let body = client.get(format!("/v2/{repository}/{kind}/{digest}")).expect(200).body;
        assert!(body == *registry.bytes(digest).expect("it was pushed"), "{repository}: {digest}");
    }
}

#[test]
fn its_five_lines_are_right_and_clients_are_told_of_them() {
    let section = section();
    let dir = TempDir::new("readme");
    fs::write(dir.path().join("gantry.toml"), five_lines(&section)).unwrap();
    let (status, said) = gantry(&["config", "check", "gantry.toml"], dir.path());
    assert_eq!(status, Some(0), "{said}");
    let told = "mirror-config docker --config gantry.toml";
    assert!(section.contains(told), "{section}");
    let (status, said) = gantry(&told.split(' ').collect::<Vec<_>>(), dir.path());
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("\"registry-mirrors\": [\"http://127.0.0.1:5000\"]"), "{said}");
}

legs! {
    /// The one difference: what stands for Docker Hub here is on loopback, which has to be allowed.
    fn what_it_pulls_is_here_when_the_upstream_is_not(leg) {
        let section = section();
        let registry = Registry::start();
        let image = registry.push_image("library/busybox", "latest", &[300_000, 1_000]);
        let hub = "url = \"https://registry-1.docker.io\"";
        let lines = five_lines(&section);
        assert_eq!(lines.matches(hub).count(), 1, "{lines}");
        let here = format!("url = \"{}\"\nallow_private_addresses = true", registry.url());
        let server = Launch::on(leg).config(&lines.replace(hub, &here)).expects_log(NO_ANSWER).start();
        let names = pulled(&section);
        assert_eq!(names, ["docker.io/library/busybox", "library/busybox"]);
        for name in &names {
            pull(&mut server.client(), &registry, name, &image);
        }
        assert_eq!(registry.count("GET", "/blobs/"), 3, "each once, by whatever name");
        registry.refuse();
        registry.forget();
        for name in &names {
            pull(&mut server.client(), &registry, name, &image);
        }
    }
}
