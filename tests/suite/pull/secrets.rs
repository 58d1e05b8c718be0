//! Nothing secret is ever shown: not in the log, however much of it is wanted, not in the metrics, not in an answer, and
//! not in the data directory.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use ::faults::{Auth, Fault, Image, On, Place, Proxy, RealmAt, Registry, To};

use crate::harness::{Response, TempDir, legs};

use super::rig::{NO_ANSWER, mirror, upstream};

const REPOSITORY: &str = "team/thing";

// Each is shown to somebody in this test, and like nothing else.
const PASSWORD: &str = "xq-password-7391";
const PASSWORD_OF_FILE: &str = "xq-filed-5528";
const PASSWORD_OF_COMMAND: &str = "xq-printed-8143";
const PASSWORD_OF_PROXY: &str = "xq-proxied-2267";
const PASSWORD_REJECTED: &str = "xq-rejected-9902";
const IDENTITY_TOKEN: &str = "xq-identity-6614";
const SIGNATURE: &str = "xq-signature-3376";
const PASSWORD_IN_URL: &str = "xq-inline-4485";

/// One upstream, with what it wants to see.
struct There {
    ns: &'static str,
    registry: Registry,
    image: Image,
}

impl There {
    fn new(ns: &'static str, registry: Registry, auth: Auth) -> There {
        let image = registry.push_image(REPOSITORY, "latest", &[300_000]);
        registry.require(auth);
        There { ns, registry, image }
    }

    fn config(&self, more: &str) -> String {
        upstream(self.ns, &self.registry, &format!("breaker_failures = 1000\n{more}"))
    }

    fn target(&self, rest: &str) -> String {
        format!("/v2/{}/{REPOSITORY}/{rest}", self.ns)
    }
}

fn identity(token: &str) -> Auth {
    let Auth::Bearer { realm, lives, expires_in, oauth2_name, .. } = Auth::bearer() else {
        unreachable!("it is a bearer")
    };
    let login = Some(("nobody".to_owned(), "nothing".to_owned()));
    Auth::Bearer { realm, login, identity: Some(token.to_owned()), lives, expires_in, oauth2_name }
}

fn foreign_realm() -> Auth {
    let Auth::Bearer { login, identity, lives, expires_in, oauth2_name, .. } = Auth::bearer() else {
        unreachable!("it is a bearer")
    };
    Auth::Bearer { realm: RealmAt::Foreign, login, identity, lives, expires_in, oauth2_name }
}

/// A file for its owner alone.
fn file(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("a file for the test");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
    path
}

/// Everything below a directory.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn holds(text: &[u8], secret: &str) -> bool {
    text.windows(secret.len()).any(|window| window == secret.as_bytes())
}

/// What a client sees of an answer.
fn shown(answer: &Response) -> Vec<u8> {
    let headers = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
    [headers.collect::<String>().into_bytes(), answer.body.clone()].concat()
}

legs! {
    /// Every kind of credentials, right and wrong, while all goes well and while all goes wrong.
    fn nothing_secret_is_shown(leg) {
        let folder = TempDir::new("secrets");
        let folder = folder.path();
        let proxy = Proxy::start(Some(("p", PASSWORD_OF_PROXY)));
        let all = [
            There::new("password.test", Registry::start(), Auth::bearer_for("u", PASSWORD)),
            There::new("file.test", Registry::start(),
                Auth::Basic { login: ("u".to_owned(), PASSWORD_OF_FILE.to_owned()) }),
            There::new("command.test", Registry::start(), Auth::bearer_for("u", PASSWORD_OF_COMMAND)),
            There::new("identity.test", Registry::start(), identity(IDENTITY_TOKEN)),
            There::new("proxied.test", Registry::start_tls(), Auth::bearer_for("u", PASSWORD)),
            There::new("rejected.test", Registry::start(), Auth::bearer_for("u", PASSWORD)),
            There::new("stranger.test", Registry::start(), foreign_realm()),
            // What stalls is given up soon; nobody needs that one to answer in time.
            There::new("slow.test", Registry::start(), Auth::bearer_for("u", PASSWORD)),
        ];
        let [password, filed, printed, identified, proxied, rejected, stranger, slow] = &all;
        let user = |password: &str| format!("credentials = {{ username = \"u\", password = \"{password}\" }}\n");
        let script = file(folder, "helper", format!("echo u:{PASSWORD_OF_COMMAND}\n"));
        let [chain, key] = proxied.registry.client_pem();
        // A line of it, in the middle.
        let key_line = key.lines().nth(1).expect("a key has lines").to_owned();
        let path = |name: &str, content: &[u8]| file(folder, name, content).display().to_string();
        let config = [
            password.config(&user(PASSWORD)),
            filed.config(&format!(
                "credentials = {{ username = \"u\", password_file = \"{}\" }}\n",
                path("password", PASSWORD_OF_FILE.as_bytes())
            )),
            printed.config(&format!("credentials = {{ command = [\"sh\", \"{}\"] }}\n", script.display())),
            identified.config(&format!("credentials = {{ token = \"{IDENTITY_TOKEN}\" }}\n")),
            proxied.config(&format!(
                "{}ca_file = \"{}\"\nclient_certificate = \"{}\"\nclient_key = \"{}\"\n\
                 proxy = {{ url = \"{}\", username = \"p\", password = \"{PASSWORD_OF_PROXY}\" }}\n",
                user(PASSWORD),
                path("ca", &proxied.registry.ca_pem()),
                path("chain", chain.as_bytes()),
                path("key", key.as_bytes()),
                proxy.url(),
            )),
            rejected.config(&user(PASSWORD_REJECTED)),
            stranger.config(&user(PASSWORD)),
            slow.config(&format!(
                "{}timeouts = {{ first_byte = \"1s\", stall = \"1s\" }}\n",
                user(PASSWORD)
            )),
        ];
        let launch = mirror(leg, &config.concat()).set("GANTRY_LOG", "trace");
        let expected = [
            NO_ANSWER, "credentials were rejected", "an upstream gave other bytes",
            "the rest of an upstream's blob does not come", "an upstream names a realm that is not its own",
            "the upstream tells another length", "\"message\":\"refused\"", "\"message\":\"the upstream's ",
        ];
        let server = expected.into_iter().fold(launch, |launch, text| launch.expects_log(text)).start();
        let mut client = server.client().timeout(Duration::from_secs(120));
        let mut answers = Vec::new();

        // All goes well, by a signed link to another host.
        for there in &all[..5] {
            if there.ns == "password.test" {
                let link = |digest| {
                    format!("{}/v2/{REPOSITORY}/blobs/{digest}?X-Signature={SIGNATURE}", there.registry.foreign_url())
                };
                let layer = there.image.layers[0][0];
                let on = On::get(&layer.to_string()).at(Place::Own);
                there.registry.script(on, Fault::Redirect(To::Url(link(layer))));
            }
            for rest in [
                "manifests/latest".to_owned(),
                format!("manifests/{}", there.image.manifests[0]),
                format!("blobs/{}", there.image.layers[0][0]),
                "tags/list".to_owned(),
            ] {
                let answer = client.get(there.target(&rest));
                answers.push(shown(&answer));
                assert_eq!(answer.status, 200, "{}: {}", there.ns, answer.text());
            }
        }
        // And then nothing does: whoever signed links now breaks, stalls, lies and redirects on.
        for there in [rejected, stranger] {
            let answer = client.get(there.target("manifests/latest"));
            answers.push(shown(&answer));
            assert!([502, 503].contains(&answer.status), "{}: {}", there.ns, answer.text());
        }
        let registry = &password.registry;
        let foreign = registry.foreign_url();
        let signed = |rest: &str| format!("{foreign}{rest}?X-Signature={SIGNATURE}");
        let elsewhere = foreign.replace("127.0.0.1", "10.255.255.1.nowhere.invalid");
        let faults = [
            vec![Fault::Redirect(To::Url(signed("/nothing/here")))],
            vec![Fault::Redirect(To::Url(signed("/v2/")).clone())],
            vec![Fault::Redirect(To::Url(format!("{elsewhere}/x?X-Signature={SIGNATURE}")))],
            vec![Fault::Redirect(To::Url(format!("http://u:{PASSWORD_IN_URL}@127.0.0.1/x")))],
            vec![Fault::Redirect(To::Url(format!("ftp://127.0.0.1/x?X-Signature={SIGNATURE}")))],
            vec![Fault::Redirect(To::Url(format!("{}/v2/x/blobs/y?X-Signature={SIGNATURE}", registry.url())))],
            vec![Fault::Header("WWW-Authenticate", format!("Bearer realm=\"{SIGNATURE}\"")), Fault::Status(401)],
            vec![Fault::ResetBeforeHead],
            vec![Fault::Status(500)],
            vec![Fault::Gzip],
        ];
        let mut seed = 500;
        for faults in faults {
            seed += 1;
            let blob = registry.push_blob(REPOSITORY, crate::harness::noise(seed, 300_000));
            let part = blob.to_string();
            faults.into_iter().for_each(|fault| registry.script(On::any(&part).at(Place::Own), fault));
            let answer = client.get(password.target(&format!("blobs/{blob}")));
            answers.push(shown(&answer));
            assert!(answer.status >= 400, "{seed}: {}", answer.status);
        }
        for (there, fault) in [
            (password, Fault::WrongBytes),
            (password, Fault::Reset { at: 10_000 }),
            (slow, Fault::Stall { at: 10_000 }),
            (slow, Fault::StallBeforeHead),
        ] {
            seed += 1;
            let (registry, foreign) = (&there.registry, there.registry.foreign_url());
            let blob = registry.push_blob(REPOSITORY, crate::harness::noise(seed, 300_000));
            let part = blob.to_string();
            let link = format!("{foreign}/v2/{REPOSITORY}/blobs/{blob}?X-Signature={SIGNATURE}");
            registry.script(On::get(&part).at(Place::Own), Fault::Redirect(To::Url(link)));
            registry.script(On::get(&part).at(Place::Foreign), fault);
            // It may be cut, after so much of it.
            match client.request("GET", there.target(&format!("blobs/{blob}"))).try_send() {
                Ok(answer) => {
                    assert!(answer.status >= 500, "{seed}: {}", answer.status);
                    answers.push(shown(&answer));
                }
                Err(_cut) => client.hang_up(),
            }
        }
        for there in &all {
            there.registry.refuse();
            answers.push(shown(&client.get(there.target("manifests/other"))));
        }
        for path in ["/metrics", "/healthz", "/readyz", "/"] {
            answers.push(shown(&client.get(path)));
        }

        let mut secrets: Vec<String> = [
            PASSWORD, PASSWORD_OF_FILE, PASSWORD_OF_COMMAND, PASSWORD_OF_PROXY, PASSWORD_REJECTED, IDENTITY_TOKEN,
            SIGNATURE, PASSWORD_IN_URL, &key_line,
        ]
        .map(str::to_owned)
        .to_vec();
        // What was sent in their place: `u:…` in base 64, and every token that a realm gave.
        let sent: Vec<String> = all.iter().flat_map(|there| there.registry.seen()).flat_map(|seen| {
            seen.headers.into_iter().filter(|(name, _)| name == "authorization").map(|(_, value)| value)
        }).collect();
        secrets.extend(sent.iter().filter_map(|value| value.split_once(' ')).map(|(_, value)| value.to_owned()));
        secrets.extend(proxy.heads().iter().filter_map(|head| {
            head.split_once("Proxy-Authorization: Basic ")?.1.lines().next().map(str::to_owned)
        }));
        secrets.extend(all.iter().flat_map(|there| there.registry.tokens()));
        secrets.sort();
        secrets.dedup();
        assert!(sent.iter().filter(|value| value.starts_with("Bearer token-")).count() > 3, "{sent:?}");
        assert!(sent.iter().filter(|value| value.starts_with("Basic ")).count() > 3, "{sent:?}");
        let forms: String = identified.registry.seen().iter().map(|seen| seen.body.clone()).collect();
        assert!(forms.contains(IDENTITY_TOKEN), "it was shown to the realm");
        let signed = registry.seen().iter().filter(|seen| seen.target.contains(SIGNATURE)).count();
        assert!(signed >= 5, "links were followed");

        let data = server.data_dir().to_owned();
        let look = |when: &str| {
            for path in files(&data) {
                // Gone between the list and the look.
                let Ok(bytes) = fs::read(&path) else { continue };
                for secret in &secrets {
                    assert!(!holds(&bytes, secret), "{secret} is in {} {when}", path.display());
                }
            }
        };
        look("while it runs");
        let log = server.log();
        for level in ["\"level\":\"DEBUG\"", "\"level\":\"INFO\"", "\"level\":\"WARN\""] {
            assert!(log.iter().any(|line| line.contains(level)), "the log has {level}");
        }
        for secret in &secrets {
            for line in &log {
                assert!(!line.contains(secret.as_str()), "{secret} is in the log: {line}");
            }
            for answer in &answers {
                assert!(!holds(answer, secret), "{secret} is shown: {}", String::from_utf8_lossy(answer));
            }
        }
        let server = server.restart();
        look("after a stop");
        for secret in &secrets {
            assert!(!server.log().iter().any(|line| line.contains(secret.as_str())), "{secret} is in the log");
        }
    }
}
