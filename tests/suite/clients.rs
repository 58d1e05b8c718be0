//! Real clients, as people install them, push to and pull from a running server.
//!
//! Owns: the command lines of docker, podman, buildah, skopeo with umoci, crane, oras, helm, cosign, containerd
//! with ctr, and BuildKit. `tests/clients/install` brings the programs.
//!
//! Invariants: a test keeps everything in a folder of its own and ends only what it started; after a pull it
//! compares bytes, since an exit status alone proves nothing. Every client runs on the uring leg; docker, skopeo
//! and crane, whose ways through the server differ most, on the epoll leg too.

mod bench;
pub mod daemons;
pub mod desk;
mod layers;
pub mod layout;

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::harness::{Leg, beside, legs};
use bench::Bench;
use daemons::{buildkitd, containerd, dockerd};
use layers::{ARCHITECTURES, assert_same};

legs! {
    fn docker(leg) { with_docker(leg) }
    fn skopeo_and_umoci(leg) { with_skopeo_and_umoci(leg) }
    fn crane(leg) { with_crane(leg) }
}

#[test]
fn podman() {
    let _machine = beside();
    Leg::Uring.run(with_podman);
}

#[test]
fn buildah() {
    let _machine = beside();
    Leg::Uring.run(with_buildah);
}

#[test]
fn oras() {
    let _machine = beside();
    Leg::Uring.run(with_oras);
}

#[test]
fn helm() {
    let _machine = beside();
    Leg::Uring.run(with_helm);
}

#[test]
fn cosign() {
    let _machine = beside();
    Leg::Uring.run(with_cosign);
}

#[test]
fn containerd_and_ctr() {
    let _machine = beside();
    Leg::Uring.run(with_containerd_and_ctr);
}

#[test]
fn buildkit() {
    let _machine = beside();
    Leg::Uring.run(with_buildkit);
}

/// Push twice (the second finds every layer), copy by mount, pull by digest and by tag, a manifest list.
fn with_docker(leg: Leg) {
    let Some(bench) = Bench::as_root(leg, &["docker", "dockerd"]) else { return };
    let (_dockerd, host) = dockerd(&bench, &bench.write("daemon.json", "{}"));
    let docker = |args: &[&str]| bench.run("docker", &[&["-H", &host], args].concat());
    let (first, second) = (bench.image("docker/first:1"), bench.image("docker/second:1"));

    let context = bench.folder("context");
    fs::hard_link(&bench.layers.small, context.join("small.tar")).unwrap();
    fs::hard_link(&bench.layers.large, context.join("large.tar")).unwrap();
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nADD small.tar /\nADD large.tar /\nCMD [\"/bin/sh\"]\n",
    )
    .unwrap();
    docker(&["build", "-q", "-t", &first, &bench.text("context")]);

    let pushed = docker(&["push", &first]);
    assert_eq!(pushed.lines_with(": Pushed"), 2, "{pushed}");
    let digest = pushed.digest();
    let again = docker(&["push", &first]);
    assert_eq!(again.lines_with(": Layer already exists"), 2, "{again}");
    assert_eq!(again.digest(), digest);
    docker(&["tag", &first, &second]);
    let copied = docker(&["push", &second]);
    assert_eq!(copied.lines_with(": Mounted from docker/first"), 2, "{copied}");
    assert_eq!(copied.digest(), digest);

    let by_digest = bench.image(&format!("docker/second@{digest}"));
    docker(&["rmi", &first, &second]);
    let pulled = docker(&["pull", &by_digest]);
    assert_eq!(pulled.lines_with(": Pull complete"), 2, "{pulled}");
    let container = docker(&["create", &by_digest]).line();
    docker(&["cp", &format!("{container}:/"), &bench.text("copied-out")]);
    bench.layers.assert_unpacked(&bench.path("copied-out"));
    docker(&["rm", &container]);
    docker(&["rmi", &by_digest]);
    let by_tag = docker(&["pull", &first]);
    assert_eq!(by_tag.digest(), digest);

    // Docker's own manifest list type.
    let list = bench.image("docker/list:1");
    let members = ARCHITECTURES.map(|arch| {
        let member = bench.image(&format!("docker/list:{arch}"));
        let platform = format!("linux/{arch}");
        docker(&["import", "--platform", &platform, &bench.layers.of(arch).display().to_string(), &member]);
        docker(&["push", "-q", &member]);
        member
    });
    docker(&["manifest", "create", "--insecure", &list, &members[0], &members[1]]);
    for (member, arch) in members.iter().zip(ARCHITECTURES) {
        docker(&["manifest", "annotate", "--os", "linux", "--arch", arch, &list, member]);
    }
    let list_digest = docker(&["manifest", "push", "--insecure", &list]).line();
    docker(&["rmi", &members[0], &members[1]]);
    for arch in ARCHITECTURES {
        let pulled = docker(&["pull", "--platform", &format!("linux/{arch}"), &list]);
        assert_eq!(pulled.digest(), list_digest);
        let container = docker(&["create", "--platform", &format!("linux/{arch}"), &list, "/bin/sh"]).line();
        let copy = bench.text(&format!("arch-{arch}"));
        docker(&["cp", &format!("{container}:/etc/arch"), &copy]);
        assert_eq!(fs::read_to_string(&copy).unwrap(), arch);
        docker(&["rm", &container]);
        docker(&["rmi", &list]);
    }
}

/// OCI and Docker types, zstd:chunked, copy by mount, pull by tag and by digest, a multi-arch index.
fn with_podman(leg: Leg) {
    let Some(bench) = Bench::as_root(leg, &["podman"]) else { return };
    let podman = |args: &[&str]| bench.run("podman", args);
    let (first, second) = (bench.image("podman/first:1"), bench.image("podman/second:1"));
    let push = |image: &str, more: &[&str]| {
        let file = bench.text("digest");
        let flags = ["--log-level=debug", "push", "--tls-verify=false", "--digestfile", &file];
        let said = podman(&[&flags, more, &[image]].concat());
        (fs::read_to_string(&file).unwrap().trim().to_owned(), said)
    };

    podman(&["import", &bench.layers.small.display().to_string(), &first]);
    let context = bench.folder("context");
    fs::hard_link(&bench.layers.large, context.join("large.tar")).unwrap();
    fs::write(context.join("Containerfile"), format!("FROM {first}\nADD large.tar /\n")).unwrap();
    podman(&["build", "--pull-never", "-q", "-t", &first, &bench.text("context")]);
    let (digest, _) = push(&first, &[]);
    assert_eq!(push(&first, &[]).0, digest);
    podman(&["tag", &first, &second]);
    let (copied, said) = push(&second, &[]);
    assert_eq!(copied, digest);
    assert!(said.lines_with("... mount OK") >= 2, "{said}");
    let (schema2, _) = push(&first, &["--format=v2s2"]);
    assert_ne!(schema2, digest);
    let chunked = bench.image("podman/chunked:1");
    podman(&["tag", &first, &chunked]);
    push(&chunked, &["--compression-format=zstd:chunked"]);

    podman(&["rmi", "--all", "--force"]);
    let by_digest = bench.image(&format!("podman/second@{digest}"));
    for image in [&first, &by_digest, &chunked] {
        podman(&["pull", "-q", "--tls-verify=false", image]);
        let root = podman(&["image", "mount", image]).line();
        bench.layers.assert_unpacked(Path::new(&root));
        podman(&["image", "unmount", image]);
        podman(&["rmi", "--all", "--force"]);
    }

    let list = bench.image("podman/list:1");
    podman(&["manifest", "create", &list]);
    for arch in ARCHITECTURES {
        let member = bench.image(&format!("podman/list:{arch}"));
        podman(&["import", "--arch", arch, &bench.layers.of(arch).display().to_string(), &member]);
        podman(&["manifest", "add", "--arch", arch, &list, &format!("containers-storage:{member}")]);
    }
    podman(&["manifest", "push", "--all", "--tls-verify=false", &list, &format!("docker://{list}")]);
    podman(&["manifest", "rm", &list]);
    podman(&["rmi", "--all", "--force"]);
    for arch in ARCHITECTURES {
        podman(&["pull", "-q", "--tls-verify=false", "--arch", arch, &list]);
        let root = podman(&["image", "mount", &list]).line();
        assert_eq!(fs::read_to_string(Path::new(&root).join("etc/arch")).unwrap(), arch);
        podman(&["image", "unmount", &list]);
        podman(&["rmi", "--all", "--force"]);
    }
}

/// Images from scratch, a multi-arch index pushed twice (the second by mount), pull by platform and digest.
fn with_buildah(leg: Leg) {
    let Some(bench) = Bench::as_root(leg, &["buildah"]) else { return };
    let buildah = |args: &[&str]| bench.run("buildah", args);
    let (list, copy) = (bench.image("buildah/list:1"), bench.image("buildah/copy:1"));
    let (small, large) = (bench.layers.small.display().to_string(), bench.layers.large.display().to_string());

    buildah(&["manifest", "create", &list]);
    let digests = ARCHITECTURES.map(|arch| {
        let member = bench.image(&format!("buildah/list:{arch}"));
        let container = buildah(&["from", "--arch", arch, "scratch"]).line();
        buildah(&["add", "-q", &container, &bench.layers.of(arch).display().to_string(), "/"]);
        if arch == ARCHITECTURES[0] {
            buildah(&["add", "-q", &container, &small, "/"]);
            buildah(&["add", "-q", &container, &large, "/"]);
        }
        buildah(&["config", "--arch", arch, "--cmd", "/bin/sh", &container]);
        buildah(&["commit", "-q", "--rm", &container, &member]);
        let file = bench.text("digest");
        buildah(&["push", "-q", "--tls-verify=false", "--digestfile", &file, &member]);
        buildah(&["manifest", "add", "--tls-verify=false", &list, &format!("docker://{member}")]);
        fs::read_to_string(&file).unwrap().trim().to_owned()
    });
    let push_list = |to: &str| {
        let destination = format!("docker://{to}");
        let push = ["--log-level=debug", "manifest", "push", "--all", "--tls-verify=false"];
        buildah(&[&push[..], &[&list, &destination]].concat())
    };
    push_list(&list);
    let copied = push_list(&copy);
    assert!(copied.lines_with("... mount OK") >= 2, "{copied}");
    buildah(&["rmi", "--all", "--force"]);

    for arch in ARCHITECTURES {
        buildah(&["pull", "-q", "--tls-verify=false", "--arch", arch, &copy]);
        let container = buildah(&["from", "--pull-never", "--arch", arch, &copy]).line();
        let root = buildah(&["mount", &container]).line();
        assert_eq!(fs::read_to_string(Path::new(&root).join("etc/arch")).unwrap(), arch);
        buildah(&["rm", &container]);
        buildah(&["rmi", "--all", "--force"]);
    }
    let by_digest = bench.image(&format!("buildah/list@{}", digests[0]));
    let container = buildah(&["from", "-q", "--tls-verify=false", &by_digest]).line();
    let root = buildah(&["mount", &container]).line();
    bench.layers.assert_unpacked(Path::new(&root));
    buildah(&["rm", &container]);
}

/// A layout made and unpacked by umoci; copies in, across and out, `--all`, types converted, delete.
fn with_skopeo_and_umoci(leg: Leg) {
    let Some(bench) = Bench::as_root(leg, &["skopeo", "umoci"]) else { return };
    let skopeo = |args: &[&str]| bench.run("skopeo", args);
    let umoci = |args: &[&str]| bench.run("umoci", args);
    let remote = |name: &str| format!("docker://{}", bench.image(name));
    let copy = |more: &[&str], from: &str, to: &str| {
        let mut args = vec!["--debug", "copy"];
        args.extend(from.starts_with("docker:").then_some("--src-tls-verify=false"));
        args.extend(to.starts_with("docker:").then_some("--dest-tls-verify=false"));
        skopeo(&[&args, more, &[from, to]].concat())
    };
    let digest_of = |image: &str| {
        let format = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}"];
        skopeo(&[&format[..], &[image]].concat()).line()
    };

    let layout = bench.text("made");
    umoci(&["init", "--layout", &layout]);
    let made = format!("{layout}:image");
    umoci(&["new", "--image", &made]);
    for layer in [&bench.layers.small, &bench.layers.large] {
        umoci(&["raw", "add-layer", "--image", &made, &layer.display().to_string()]);
    }
    umoci(&["config", "--image", &made, "--config.cmd", "/bin/sh"]);

    let (first, second) = (remote("skopeo/first:1"), remote("skopeo/second:1"));
    copy(&["--preserve-digests"], &format!("oci:{made}"), &first);
    let digest = digest_of(&first);
    let copied = copy(&["--preserve-digests"], &first, &second);
    assert!(copied.lines_with("... mount OK") >= 2, "{copied}");
    let back = bench.text("back");
    let by_digest = remote(&format!("skopeo/second@{digest}"));
    copy(&["--preserve-digests"], &by_digest, &format!("oci:{back}:image"));
    umoci(&["unpack", "--image", &format!("{back}:image"), &bench.text("bundle")]);
    bench.layers.assert_unpacked(&bench.path("bundle").join("rootfs"));

    // Into Docker's types and back out of the registry as a plain folder.
    copy(&["--format=v2s2"], &first, &remote("skopeo/first:docker"));
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &remote("skopeo/first:docker")]);
    assert_eq!(raw.json()["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    let tags = skopeo(&["list-tags", "--tls-verify=false", &remote("skopeo/first")]).json();
    assert_eq!(tags["Tags"], json!(["1", "docker"]));

    let index = bench.index_layout("index");
    copy(&["--all", "--preserve-digests"], &format!("oci:{index}"), &remote("skopeo/index:1"));
    let copied = copy(&["--all"], &remote("skopeo/index:1"), &remote("skopeo/copy:1"));
    assert!(copied.lines_with("... mount OK") >= 2, "{copied}");
    copy(
        &["--all", "--preserve-digests"],
        &remote("skopeo/copy:1"),
        &format!("oci:{}", bench.text("index-back")),
    );
    assert_same(&bench.path("index/blobs"), &bench.path("index-back/blobs"));

    skopeo(&["delete", "--tls-verify=false", &remote("skopeo/copy:1")]);
    let gone = bench.fails("skopeo", &["inspect", "--tls-verify=false", &remote("skopeo/copy:1")]);
    assert!(gone.all().contains("manifest unknown"), "{gone}");
    assert_eq!(digest_of(&first), digest);
}

/// Append, validate, copy by mount, export, an index of an index, tags, catalog, delete by digest.
fn with_crane(leg: Leg) {
    let Some(bench) = Bench::new(leg, &["crane"]) else { return };
    let crane = |args: &[&str]| bench.run("crane", &[args, &["--insecure"]].concat());
    let (first, second) = (bench.image("crane/first:1"), bench.image("crane/second:1"));
    let layers = format!("{},{}", bench.layers.small.display(), bench.layers.large.display());

    let pushed = crane(&["append", "--oci-empty-base", "-f", &layers, "-t", &first]);
    assert_eq!(pushed.lines_with("pushed blob: sha256:"), 3, "{pushed}");
    let digest = crane(&["digest", &first]).line();
    crane(&["validate", "--remote", &first]);
    let copied = crane(&["copy", &first, &second]);
    assert_eq!(copied.lines_with("mounted blob: sha256:"), 3, "{copied}");
    assert_eq!(crane(&["digest", &second]).line(), digest);
    let by_digest = bench.image(&format!("crane/second@{digest}"));
    crane(&["export", &by_digest, &bench.text("exported.tar")]);
    bench.unpack("exported.tar", "exported");
    bench.layers.assert_unpacked(&bench.path("exported"));

    let index = bench.image("crane/index:1");
    let index_layout = bench.index_layout("index");
    crane(&["push", "--index", &index_layout, &index]);
    let children = crane(&["manifest", &index]).json();
    assert_eq!(children["manifests"].as_array().map(Vec::len), Some(1), "an index of an index");
    let copied = crane(&["copy", &index, &bench.image("crane/copy:1")]);
    assert_eq!(copied.lines_with("mounted blob: sha256:"), 5, "{copied}");
    let inner = bench.image(&format!("crane/copy@{}", string(&children["manifests"][0]["digest"])));
    crane(&["pull", "--format=oci", &inner, &bench.text("back")]);
    assert_same(&bench.path("index/blobs"), &bench.path("back/blobs"));
    let export = ["export", "--platform=linux/arm64"];
    crane(&[&export[..], &[&inner, &bench.text("arm64.tar")]].concat());
    bench.unpack("arm64.tar", "arm64");
    assert_eq!(fs::read_to_string(bench.path("arm64/etc/arch")).unwrap(), "arm64");

    crane(&["tag", &first, "2"]);
    assert_eq!(crane(&["ls", &bench.image("crane/first")]).text(), "1\n2\n");
    let catalog = crane(&["catalog", &bench.registry]);
    assert_eq!(catalog.lines_with("crane/"), 4, "{catalog}");
    crane(&["delete", &bench.image(&format!("crane/first@{digest}"))]);
    for gone in ["crane/first:1", "crane/first:2"] {
        let said = bench.fails("crane", &["manifest", "--insecure", &bench.image(gone)]);
        assert!(said.all().contains("MANIFEST_UNKNOWN"), "{said}");
    }
    crane(&["validate", "--remote", &second]);
}

/// Artifacts, referrers by the API and their recursive copy, an index, what may be deleted and what not.
fn with_oras(leg: Leg) {
    let Some(bench) = Bench::new(leg, &["oras"]) else { return };
    let oras = |args: &[&str]| bench.run_in("work", "oras", &[args, &["--plain-http"]].concat());
    let work = bench.folder("work");
    fs::hard_link(&bench.layers.large, work.join("large.tar")).unwrap();
    fs::write(work.join("note.txt"), "a note").unwrap();
    fs::write(work.join("sbom.json"), "{\"packages\":[]}").unwrap();
    let (first, second) = (bench.image("oras/first:1"), bench.image("oras/second:1"));

    let kind = "application/vnd.example.thing";
    let files = ["note.txt:text/plain", "large.tar:application/x-tar"];
    oras(&[&["push", "--no-tty", "--artifact-type", kind, &first], &files[..]].concat());
    let digest = oras(&["resolve", &first]).line();
    let attach = ["attach", "--no-tty", "--distribution-spec=v1.1-referrers-api"];
    let sbom = ["--artifact-type=application/vnd.example.sbom", &first, "sbom.json:application/json"];
    let sbom_digest = oras(&[&attach[..], &sbom].concat()).digest();
    let by_digest = bench.image(&format!("oras/first@{digest}"));
    let seal = ["--artifact-type=application/vnd.example.seal", "--annotation=of=wax", &by_digest];
    let seal_digest = oras(&[&attach[..], &seal].concat()).digest();
    let discover = |image: &str, more: &[&str]| {
        let args = ["discover", "--format=json", "--distribution-spec=v1.1-referrers-api"];
        let said = oras(&[&args, more, &[image]].concat()).json();
        let found = said["referrers"].as_array().unwrap_or(&Vec::new()).clone();
        let mut digests: Vec<String> = found.iter().map(|found| string(&found["digest"])).collect();
        digests.sort();
        digests
    };
    let mut both = vec![sbom_digest.clone(), seal_digest.clone()];
    both.sort();
    assert_eq!(discover(&first, &[]), both);
    assert_eq!(discover(&first, &["--artifact-type=application/vnd.example.seal"]), [seal_digest]);

    let args = ["cp", "-r", "--no-tty", "--from-plain-http", "--to-plain-http", &first, &second];
    let copied = bench.run("oras", &args);
    assert!(copied.lines_with("Mounted") >= 3, "{copied}");
    assert_eq!(discover(&second, &[]), both);
    assert_eq!(oras(&["repo", "tags", &bench.image("oras/second")]).text(), "1\n", "no fallback tag");
    let by_digest = bench.image(&format!("oras/second@{digest}"));
    oras(&["pull", "--no-tty", "-o", &bench.text("pulled"), &by_digest]);
    assert_same(&work.join("note.txt"), &bench.path("pulled/note.txt"));
    assert_same(&bench.layers.large, &bench.path("pulled/large.tar"));
    let attached = bench.image(&format!("oras/second@{sbom_digest}"));
    oras(&["pull", "--no-tty", "-o", &bench.text("attached"), &attached]);
    assert_same(&work.join("sbom.json"), &bench.path("attached/sbom.json"));

    let index = bench.index_layout("index");
    let (list, list_copy) = (bench.image("oras/list:1"), bench.image("oras/list-copy:1"));
    let from = format!("{index}:image");
    bench.run("oras", &["cp", "--no-tty", "--from-oci-layout", "--to-plain-http", &from, &list]);
    bench.run("oras", &["cp", "--no-tty", "--from-plain-http", "--to-plain-http", &list, &list_copy]);
    let children = oras(&["manifest", "fetch", &list_copy]).json()["manifests"].clone();
    let children: Vec<String> = children.as_array().unwrap().iter().map(|c| string(&c["digest"])).collect();
    let made = bench.image("oras/list-copy:made");
    oras(&["manifest", "index", "create", &made, &children[0], &children[1]]);
    let to = format!("{}:image", bench.text("index-back"));
    bench.run("oras", &["cp", "--no-tty", "--from-plain-http", "--to-oci-layout", &list_copy, &to]);
    assert_same(&bench.path("index/blobs"), &bench.path("index-back/blobs"));

    let held = oras(&["manifest", "fetch", &first]).json()["layers"][0]["digest"].clone();
    let held = bench.image(&format!("oras/first@{}", string(&held)));
    let refused = bench.fails("oras", &["blob", "delete", "--plain-http", "-f", &held]);
    assert!(refused.all().to_lowercase().contains("denied"), "{refused}");
    oras(&["manifest", "delete", "-f", &first]);
    oras(&["blob", "delete", "-f", &held]);
    bench.fails("oras", &["blob", "fetch", "--plain-http", "--output=-", &held]);
    oras(&["blob", "fetch", "--output=-", &held.replace("oras/first", "oras/second")]);
}

/// A chart, pushed and pulled by version, by digest and by a range of versions.
fn with_helm(leg: Leg) {
    let Some(bench) = Bench::new(leg, &["helm"]) else { return };
    let helm = |args: &[&str]| bench.run("helm", args);
    let chart = bench.folder("chart/templates");
    let about = "apiVersion: v2\nname: hello\nversion: 0.1.0+build.7\ndescription: A greeting\n";
    fs::write(bench.path("chart/Chart.yaml"), about).unwrap();
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n";
    fs::write(chart.join("greeting.yaml"), template).unwrap();
    helm(&["package", &bench.text("chart"), "-d", &bench.text("packed")]);
    let packed = bench.path("packed/hello-0.1.0+build.7.tgz");

    let charts = format!("oci://{}", bench.image("helm/charts"));
    let hello = format!("{charts}/hello");
    let pushed = helm(&["push", &packed.display().to_string(), &charts, "--plain-http"]);
    let digest = pushed.digest();
    let by_tag = bench.text("by-tag");
    bench.folder("by-tag");
    helm(&["pull", &hello, "--version=0.1.0+build.7", "--plain-http", "-d", &by_tag]);
    assert_same(&packed, &bench.path("by-tag/hello-0.1.0+build.7.tgz"));
    bench.folder("by-digest");
    let by_digest = format!("{hello}@{digest}");
    helm(&["pull", &by_digest, "--plain-http", "-d", &bench.text("by-digest")]);
    let only = fs::read_dir(bench.path("by-digest")).unwrap().next().unwrap().unwrap().path();
    assert_same(&packed, &only);
    // A range of versions is answered from the tag list.
    let rendered = helm(&["template", "world", &hello, "--version=^0.1", "--plain-http"]);
    assert!(rendered.text().contains("name: world"), "{rendered}");
    bench.fails("helm", &["pull", &hello, "--version=9.9.9", "--plain-http", "-d", &by_tag]);
}

/// Sign, verify, attest and copy with local keys; signatures by tag and by the referrers API.
fn with_cosign(leg: Leg) {
    let Some(bench) = Bench::new(leg, &["cosign", "crane"]) else { return };
    let keys = bench.folder("keys");
    for pair in ["ours", "theirs"] {
        bench.run_in("keys", "cosign", &["generate-key-pair", "--output-key-prefix", pair]);
    }
    let key = |file: &str| format!("--key={}", keys.join(file).display());
    let (image, copy) = (bench.image("cosign/image:1"), bench.image("cosign/copy:1"));
    let small = bench.layers.small.display().to_string();
    bench.run("crane", &["append", "--insecure", "--oci-empty-base", "-f", &small, "-t", &image]);
    let digest = bench.run("crane", &["digest", "--insecure", &image]).line();
    let by_digest = bench.image(&format!("cosign/image@{digest}"));

    let plain = ["--allow-http-registry", "--allow-insecure-registry"];
    let cosign = |args: &[&str]| bench.run("cosign", &[args, &plain].concat());
    let verify = |image: &str| {
        let said =
            cosign(&["verify", "--insecure-ignore-tlog", "--output=json", &key("ours.pub"), image]).json();
        string(&said[0]["critical"]["image"]["docker-manifest-digest"])
    };
    cosign(&["sign", "--tlog-upload=false", "-y", &key("ours.key"), &by_digest]);
    assert_eq!(verify(&image), digest);
    assert_eq!(verify(&by_digest), digest);
    let forged = ["verify", "--insecure-ignore-tlog", &key("theirs.pub"), &image];
    bench.fails("cosign", &[&forged[..], &plain].concat());

    fs::write(bench.path("predicate.json"), "{\"built\":\"here\"}").unwrap();
    let predicate = format!("--predicate={}", bench.text("predicate.json"));
    cosign(&["attest", "--tlog-upload=false", "-y", &key("ours.key"), &predicate, &by_digest]);
    cosign(&["verify-attestation", "--insecure-ignore-tlog", "--type=custom", &key("ours.pub"), &image]);
    cosign(&["copy", &image, &copy]);
    assert_eq!(verify(&copy), digest);

    // The same by the referrers API, which leaves no tag behind.
    let fresh = bench.image("cosign/referred:1");
    bench.run("crane", &["copy", "--insecure", &image, &fresh]);
    let by_digest = bench.image(&format!("cosign/referred@{digest}"));
    let referrers = ["--registry-referrers-mode=oci-1-1", "--tlog-upload=false", "-y"];
    cosign(&[&["sign"], &referrers[..], &[&key("ours.key"), &by_digest]].concat());
    let args = ["verify", "--experimental-oci11", "--insecure-ignore-tlog", &key("ours.pub"), &fresh];
    cosign(&args);
    let tags = bench.run("crane", &["ls", "--insecure", &bench.image("cosign/referred")]);
    assert_eq!(tags.text(), "1\n");
}

/// Pull by tag through the transfer service, by digest through the client; push; all platforms.
fn with_containerd_and_ctr(leg: Leg) {
    let clients = ["containerd", "ctr", "crane"];
    let Some(bench) = Bench::as_root(leg, &clients) else { return };
    let (_containerd, address) = containerd(&bench, "");
    let ctr = |args: &[&str]| bench.run("ctr", &[&["-a", &address], args].concat());

    let crane = |args: &[&str]| bench.run("crane", &[args, &["--insecure"]].concat());
    let (image, copy) = (bench.image("ctr/image:1"), bench.image("ctr/copy:1"));
    let layers = format!("{},{}", bench.layers.small.display(), bench.layers.large.display());
    crane(&["append", "--oci-empty-base", "-f", &layers, "-t", &image]);
    crane(&["mutate", "--set-platform=linux/amd64", "-t", &image, &image]);
    let digest = crane(&["digest", &image]).line();
    let index = bench.image("ctr/index:1");
    crane(&["push", "--index", &bench.index_layout("index"), &index]);

    let unpacked = |image: &str| {
        let folder = bench.folder("mounted");
        ctr(&["images", "mount", "--snapshotter=native", image, &bench.text("mounted")]);
        bench.layers.assert_unpacked(&folder);
        ctr(&["images", "unmount", &bench.text("mounted")]);
    };
    let pull = ["images", "pull", "--plain-http", "--snapshotter=native"];
    ctr(&[&pull[..], &[&image]].concat());
    unpacked(&image);
    ctr(&["images", "tag", &image, &copy]);
    ctr(&["images", "push", "--plain-http", &copy]);
    assert_eq!(crane(&["digest", &copy]).line(), digest);
    crane(&["validate", "--remote", &copy]);

    ctr(&["images", "rm", "--sync", &image, &copy]);
    assert_eq!(ctr(&["content", "ls", "-q"]).text(), "", "the next pull has to fetch");
    let by_digest = bench.image(&format!("ctr/copy@{digest}"));
    ctr(&[&pull[..], &["--local", &by_digest]].concat());
    unpacked(&by_digest);

    ctr(&["content", "fetch", "--plain-http", "--all-platforms", &index]);
    let blobs = bench.path("index/blobs/sha256");
    for blob in fs::read_dir(&blobs).unwrap().map(|blob| blob.unwrap().path()) {
        let name = format!("sha256:{}", blob.file_name().unwrap().display());
        assert_eq!(ctr(&["content", "get", &name]).out, fs::read(&blob).unwrap());
    }
}

/// An image and its cache (`mode=max`, an index that lists layers), which a second daemon builds from.
fn with_buildkit(leg: Leg) {
    let clients = ["buildkitd", "buildctl", "crane"];
    let Some(bench) = Bench::as_root(leg, &clients) else { return };
    let context = bench.folder("context");
    fs::hard_link(&bench.layers.small, context.join("small.tar")).unwrap();
    fs::hard_link(&bench.layers.large, context.join("large.tar")).unwrap();
    // What RUN writes differs each time it runs, so an equal image proves that the cache was used.
    let dockerfile = "FROM scratch AS base\nADD small.tar /\nADD large.tar /\n\
                      FROM base AS drawn\n\
                      RUN [\"/bin/busybox\", \"cp\", \"/proc/sys/kernel/random/uuid\", \"/lot\"]\n\
                      FROM base\nCOPY --from=drawn /lot /lot\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let (image, cache) = (bench.image("buildkit/image:1"), bench.image("buildkit/cache:1"));
    let place = bench.text("context");
    let build = |name: &str, image: &str, cache: &[&str]| {
        let (_buildkitd, address) = buildkitd(&bench, name, Path::new("/dev/null"));
        let what = ["--addr", &address, "build", "--progress=plain", "--frontend=dockerfile.v0"];
        let locals = [format!("--local=context={place}"), format!("--local=dockerfile={place}")];
        let output = format!("--output=type=image,name={image},push=true,registry.insecure=true");
        let args = [&what[..], &[&locals[0], &locals[1], &output], cache].concat();
        bench.run("buildctl", &args)
    };

    let cache_at = format!("type=registry,ref={cache},registry.insecure=true");
    let export = format!("--export-cache={cache_at},mode=max,image-manifest=false");
    build("first", &image, &[&export]);
    let crane = |args: &[&str]| bench.run("crane", &[args, &["--insecure"]].concat());
    let index = crane(&["manifest", &cache]).json();
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");

    // Another machine, as it were: a new daemon that has nothing.
    let again = bench.image("buildkit/again:1");
    let rebuilt = build("second", &again, &[&format!("--import-cache={cache_at}")]);
    assert!(rebuilt.lines_with(" CACHED") >= 4, "{rebuilt}");
    assert_eq!(crane(&["digest", &again]).line(), crane(&["digest", &image]).line());
    crane(&["export", &again, &bench.text("exported.tar")]);
    bench.unpack("exported.tar", "exported");
    bench.layers.assert_unpacked(&bench.path("exported"));
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).to_owned()
}
