//! Pull-through as an operator meets it: what is written about upstreams is checked, printed without secrets, put in
//! force, turned into the clients' configuration, and examined by the doctor.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use faults::{Auth, Fault, On, Registry};

use crate::harness::{Launch, TempDir, gantry, legs};

/// `gantry.toml` in a directory of its own.
fn written(text: &str) -> TempDir {
    let dir = TempDir::new("operator");
    fs::write(dir.path().join("gantry.toml"), text).unwrap();
    dir
}

/// An `[[upstream]]` by the name `up.test`, on loopback.
fn upstream(registry: &Registry, more: &str) -> String {
    let url = registry.url();
    format!(
        "[[upstream]]\nns = 'up.test'\nurl = '{url}'\nallow_private_addresses = ['127.0.0.0/8']\n{more}\n"
    )
}

legs! {
    /// A file of a few lines makes a mirror, by each way of asking; the password is read and sent to nobody else.
    fn a_file_makes_a_mirror(leg) {
        let registry = Registry::start();
        registry.require(Auth::bearer_for("robot", "hunter2"));
        let image = registry.push_image("library/app", "1", &[100_000]);
        let dir = written("");
        let secret = dir.path().join("password");
        fs::write(&secret, "hunter2\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let file = dir.path().join("gantry.toml");
        let more = format!("mirror = 'root'\ncredentials = {{ username = 'robot', password_file = '{}' }}", secret.display());
        fs::write(&file, format!("names = ['here.test']\nlocal_only = ['own/*']\n{}", upstream(&registry, &more))).unwrap();
        let server = Launch::on(leg).arg("--config").arg(file.to_str().unwrap()).start();
        let mut client = server.client();
        let bytes = registry.bytes(&image.index).unwrap();
        for target in [
            "/v2/up.test/library/app/manifests/1",
            "/v2/library/app/manifests/1?ns=up.test",
            "/up.test/v2/library/app/manifests/1",
            "/v2/library/app/manifests/1",
        ] {
            assert_eq!(client.get(target).expect(200).body, *bytes, "{target}");
        }
        for layer in image.layers.iter().flatten() {
            let target = format!("/v2/up.test/library/app/blobs/{layer}");
            assert_eq!(client.get(&target).expect(200).body, *registry.bytes(layer).unwrap());
        }
        registry.forget();
        // Asked by our own name, or for what is only ours, nobody else is asked.
        client.get("/v2/none/app/manifests/1?ns=here.test").expect(404);
        client.get("/v2/own/app/manifests/1").expect(404);
        assert_eq!(registry.count("GET", "own/app") + registry.count("HEAD", "own/app"), 0);
    }
}

#[test]
fn mistakes_in_upstreams_have_their_lines_and_secrets_stay_where_they_are() {
    let text = "[[upstream]]\nns = 'docker.io'\nurl = 'http://registry-1.docker.io'\n\n\
                [[upstream]]\nns = 'docker.io'\nurl = 'https://a'\ncredentials = { username = 'u', pasword = 'hunter2' }\n";
    let dir = written(text);
    let (status, said) = gantry(&["config", "check", "gantry.toml"], dir.path());
    assert_eq!(status, Some(1), "{said}");
    for part in [
        "gantry.toml:3: `upstream.url`: http:// sends everything",
        "gantry.toml:8: unknown key `upstream.credentials.pasword`; did you mean `upstream.credentials.password`?",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let right = "[[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\n\
                 credentials = { username = 'u', password = 'hunter2' }\n";
    let dir2 = written(right);
    let (status, printed) = gantry(&["config", "print", "--config", "gantry.toml"], dir2.path());
    assert_eq!(status, Some(0), "{printed}");
    assert!(printed.contains("password = \"***\"") && !printed.contains("hunter2"), "{printed}");
    assert!(!said.contains("hunter2"), "{said}");
    // What is printed is a file; only what was hidden has to be written again.
    fs::write(dir2.path().join("again.toml"), &printed).unwrap();
    let (status, said) = gantry(&["config", "check", "again.toml"], dir2.path());
    assert_eq!(status, Some(1));
    assert!(
        said.lines().count() == 1 && said.contains("`upstream.credentials.password`: found \"***\""),
        "{said}"
    );
    fs::write(dir2.path().join("again.toml"), printed.replace("***", "hunter2")).unwrap();
    assert_eq!(gantry(&["config", "check", "again.toml"], dir2.path()).0, Some(0));
}

#[test]
fn a_password_that_others_can_read_is_told_of() {
    let dir = written("[[upstream]]\nns = 'a'\nurl = 'https://a'\ncredentials = { token_file = 'token' }\n");
    let token = dir.path().join("token");
    fs::write(&token, "t\n").unwrap();
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        let (status, said) = gantry(&["config", "check", "gantry.toml"], dir.path());
        assert_eq!((status, said.contains("can read it")), (Some(0), warned), "{said}");
    }
    fs::remove_file(&token).unwrap();
    let (status, said) = gantry(&["config", "check", "gantry.toml"], dir.path());
    assert_eq!(status, Some(1));
    assert!(
        said.contains("gantry.toml:4: `upstream.credentials.token_file`: token: it can't be read"),
        "{said}"
    );
}

#[test]
fn clients_are_told_of_the_mirror() {
    let dir =
        written("[[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\nmirror = 'root'\n");
    let of = |args: &[&str]| gantry(&[&["mirror-config"], args].concat(), dir.path());
    for (client, part) in [
        ("containerd", "# /etc/containerd/certs.d/docker.io/hosts.toml\n"),
        ("docker", "\"registry-mirrors\": [\"http://gantry.test:5000\"]"),
        ("podman", "location = \"gantry.test:5000/docker.io\"\ninsecure = true\n"),
        ("buildkit", "[registry.\"docker.io\"]\n  mirrors = [\"gantry.test:5000\"]\n"),
    ] {
        let (status, said) = of(&[client, "--config", "gantry.toml", "--url", "http://gantry.test:5000"]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let (status, said) = of(&["docker"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("there is no [[upstream]]") && said.contains("--config"), "{said}");
    assert_eq!(of(&["crane"]).0, Some(2));
}

#[test]
fn the_doctor_says_what_is_to_be_done() {
    fn lines(dir: &Path) -> (Option<i32>, String) {
        gantry(&["doctor", "--config", "gantry.toml"], dir)
    }
    // Another machine may lack something that is only better: that is no reason to fail.
    let registry = Registry::start();
    let dir = written(&upstream(&registry, ""));
    let (status, said) = lines(dir.path());
    assert_eq!(status, Some(0), "{said}");
    for about in [
        "ok     data directory: gantry-data is not there yet",
        "room on the disk: ",
        "file system: ",
        "cache: at most 80 % of the volume",
        "io_uring: ",
        "open files: at most ",
        "ok     upstream up.test, address: 127.0.0.1",
        "ok     upstream up.test, answer: HTTP/1.1, 200 OK",
        "ok     upstream up.test, token: ",
        "upstream up.test, budget: ",
    ] {
        assert!(said.contains(about), "no {about:?} in {said}");
    }

    let url = registry.url();
    drop(registry);
    let (status, said) = lines(dir.path());
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("to do  upstream up.test, answer: it can't be reached"), "{said}");

    let private =
        written(&format!("[[upstream]]\nns = 'up.test'\nurl = '{}'\n", url.replace("http:", "https:")));
    let (status, said) = lines(private.path());
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("to do  upstream up.test, address: ") && said.contains("allow_private_addresses"),
        "{said}"
    );

    let rejected = Registry::start();
    rejected.require(Auth::bearer_for("robot", "right"));
    let credentials = "credentials = { username = 'robot', password = 'wrong' }";
    let (status, said) = lines(written(&upstream(&rejected, credentials)).path());
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("to do  upstream up.test, token: it does not know our credentials"), "{said}");

    let offline =
        written(&format!("[[upstream]]\nns = 'up.test'\nurl = '{}'\noffline = true\n", "https://up.test"));
    let (status, said) = lines(offline.path());
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("ok     upstream up.test: offline = true: it is not asked"), "{said}");
}

/// What the doctor says of one upstream, and whether anything is to be done.
fn examined(table: &str) -> (bool, String) {
    let (status, said) = gantry(&["doctor", "--config", "gantry.toml"], written(table).path());
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("upstream up.test")).collect();
    assert!(matches!(status, Some(0 | 1)), "{said}");
    (status == Some(1), lines.join("\n"))
}

#[test]
fn the_doctor_tells_a_name_that_nobody_knows() {
    // No label has so many letters, so it is known of no name server, asked or not.
    let name = format!("{}.test", "a".repeat(64));
    let (is_to_do, said) =
        examined(&format!("[[upstream]]\nns = 'up.test'\nurl = 'https://{name}'\ntimeouts.connect = '1m'\n"));
    assert!(is_to_do, "{said}");
    assert_eq!(said.lines().count(), 1, "what comes behind it says nothing new: {said}");
    assert!(said.starts_with("to do  upstream up.test, address: it can't be reached: "), "{said}");
    assert!(
        said.ends_with("; look at its url, at this machine's name server, or set a proxy")
            && said.contains(&name),
        "{said}"
    );
}

#[test]
fn the_doctor_tells_a_certificate_that_nobody_trusts() {
    let registry = Registry::start_tls();
    let (is_to_do, said) = examined(&upstream(&registry, "timeouts.connect = '1m'"));
    assert!(is_to_do, "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "ok     upstream up.test, address: 127.0.0.1"), "{said}");
    assert!(lines[1].starts_with("to do  upstream up.test, answer: it can't be reached: "), "{said}");
    assert!(lines[1].contains("certificate") && lines[1].ends_with("at its certificate (ca_file)"), "{said}");
    // That is what helps.
    let dir = TempDir::new("authority");
    let file = dir.path().join("ca.pem");
    fs::write(&file, registry.ca_pem()).unwrap();
    let trusted = format!("timeouts.connect = '1m'\nca_file = '{}'", file.display());
    let (is_to_do, said) = examined(&upstream(&registry, &trusted));
    assert!(!is_to_do && said.contains("ok     upstream up.test, answer: HTTP/"), "{said}");
}

#[test]
fn the_doctor_tells_what_is_left_of_a_budget() {
    let registry = Registry::start();
    for (remaining, line) in [
        ("76;w=21600", "ok     upstream up.test, budget: 76 of 100 pulls are left in 360 min"),
        (
            "0;w=21600",
            "hint   upstream up.test, budget: no pulls are left in 360 min; until then the cache answers",
        ),
    ] {
        registry.script(On::any("/v2/"), Fault::Header("ratelimit-limit", "100;w=21600".to_owned()));
        registry.script(On::any("/v2/"), Fault::Header("ratelimit-remaining", remaining.to_owned()));
        let (is_to_do, said) = examined(&upstream(&registry, ""));
        assert!(!is_to_do && said.lines().any(|have| have == line), "no {line:?} in\n{said}");
    }
    registry.script(On::any("/v2/"), Fault::Status(429));
    registry.script(On::any("/v2/"), Fault::Header("Retry-After", "600".to_owned()));
    let (is_to_do, said) = examined(&upstream(&registry, ""));
    let told = "to do  upstream up.test, answer: its budget is spent; again in ";
    assert!(is_to_do && said.contains(told), "{said}");
    assert!(said.ends_with("; wait, or give it credentials with a larger budget"), "{said}");
    assert_eq!(registry.count("GET", "/manifests/") + registry.count("HEAD", "/manifests/"), 0, "no pull");
}

#[test]
fn the_doctor_finds_a_full_disk_and_a_disk_error() {
    let dir = written("limits.reserve_bytes = '8000TiB'\n");
    let (status, said) = gantry(&["doctor", "--config", "gantry.toml"], dir.path());
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("to do  room on the disk: "), "{said}");

    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("disk-error"), "{\"last_good_batch_unix\":1}\n").unwrap();
    let (status, said) = gantry(&["doctor", "--data", "data"], dir.path());
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("--clear-disk-error"), "{said}");
}
