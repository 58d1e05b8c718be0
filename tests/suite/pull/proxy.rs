//! Through a proxy: everything, TLS included, with the proxy's credentials for it alone; and what a client certificate
//! is shown to.

use std::{fs, path::Path};

use ::faults::{Auth, Fault, Image, On, Place, Proxy, Registry, To};

use crate::harness::{Client, Leg, TempDir, legs};

use super::rig::{NO_ANSWER, mirror, upstream};

const NS: &str = "inside.test";
const REPOSITORY: &str = "team/thing";

fn start_tls(folder: &Path) -> (Registry, Image, String) {
    let registry = Registry::start_tls();
    let image = registry.push_image(REPOSITORY, "latest", &[100_000]);
    registry.require(Auth::bearer_for("user", "upstream-word"));
    let authority = folder.join("authority.pem");
    fs::write(&authority, registry.ca_pem()).expect("a file for the test");
    let config = format!(
        "ca_file = \"{}\"\ncredentials = {{ username = \"user\", password = \"upstream-word\" }}\n",
        authority.display()
    );
    (registry, image, config)
}

fn pull(client: &mut Client, registry: &Registry, image: &Image) {
    client.get(format!("/v2/{NS}/{REPOSITORY}/manifests/latest")).expect(200);
    client.get(format!("/v2/{NS}/{REPOSITORY}/manifests/{}", image.manifests[0])).expect(200);
    let layer = image.layers[0][0];
    let got = client.get(format!("/v2/{NS}/{REPOSITORY}/blobs/{layer}")).expect(200);
    assert!(got.body == *registry.bytes(&layer).expect("it was pushed"));
}

fn through(proxy: &Proxy, password: &str) -> String {
    format!("proxy = {{ url = \"{}\", username = \"u\", password = \"{password}\" }}\n", proxy.url())
}

/// An image by a proxy whose password is `proxy-word`.
fn everything_through(leg: Leg, proxy: &Proxy) {
    let folder = TempDir::new("proxied");
    let (registry, image, config) = start_tls(folder.path());
    if proxy.url().starts_with("https:") {
        let both = [registry.ca_pem(), proxy.ca_pem()].concat();
        fs::write(folder.path().join("authority.pem"), both).expect("a file for the test");
    }
    registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
    let foreign = registry.foreign_url().replace("https://", "");
    let hosts = format!("proxy_hosts = [\"{foreign}\"]\n");
    let config = config + &through(proxy, "proxy-word") + &hosts;
    let server = mirror(leg, &upstream(NS, &registry, &config)).start();
    pull(&mut server.client(), &registry, &image);
    let heads = proxy.heads();
    let hosts = [registry.addr().to_string(), foreign];
    for head in &heads {
        let is_for = |host: &String| head.starts_with(&format!("CONNECT {host} HTTP/1.1\r\n"));
        assert!(hosts.iter().any(is_for), "{head}");
        // `u:proxy-word`.
        assert!(head.contains("Proxy-Authorization: Basic dTpwcm94eS13b3Jk\r\n"), "{head}");
        assert_eq!(head.matches("uthorization").count(), 1, "no other credentials: {head}");
    }
    assert!(hosts.iter().all(|host| heads.iter().any(|head| head.contains(host.as_str()))));
    let seen = registry.seen();
    assert!(seen.iter().any(|seen| seen.place == Place::Foreign));
    assert!(seen.iter().all(|seen| seen.header("proxy-authorization").is_none()));
    // All of it: TLS, and so more than what was sent.
    assert!(proxy.carried_bytes() > registry.sent_bytes("/"));
}

legs! {
    /// The registry, its realm, and where it redirects to, as far as that host is on a list.
    fn everything_goes_through_it_and_its_credentials_no_further(leg) {
        let login = Some(("u", "proxy-word"));
        for proxy in [Proxy::start(login), Proxy::start_tls(login)] {
            everything_through(leg, &proxy);
        }
    }

    /// Where the proxy lets nobody through, nobody goes around it.
    fn a_proxy_that_refuses_is_an_outage(leg) {
        let folder = TempDir::new("refused");
        let (registry, _, config) = start_tls(folder.path());
        let proxy = Proxy::start(Some(("u", "proxy-word")));
        let config = config + &through(&proxy, "another-word");
        let server = mirror(leg, &upstream(NS, &registry, &config)).expects_log(NO_ANSWER).start();
        server.client().get(format!("/v2/{NS}/{REPOSITORY}/manifests/latest")).refused(503, "UNAVAILABLE");
        assert_eq!((registry.seen().len(), proxy.heads().len()), (0, 1));
    }

    /// A host that is on no list is not asked for through the proxy, which would resolve whatever it is told.
    fn a_redirect_to_a_stranger_is_not_asked_for(leg) {
        let (proxy, registry) = (Proxy::start(None), Registry::start());
        let image = registry.push_image(REPOSITORY, "latest", &[1000]);
        registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
        let config = format!("proxy = \"{}\"\n", proxy.url());
        let server = mirror(leg, &upstream(NS, &registry, &config)).expects_log(NO_ANSWER).start();
        let layer = image.layers[0][0];
        server.client().get(format!("/v2/{NS}/{REPOSITORY}/blobs/{layer}")).refused(503, "UNAVAILABLE");
        assert!(registry.seen().iter().all(|seen| seen.place == Place::Own));
        let own = format!("CONNECT {} ", registry.addr());
        assert!(proxy.heads().iter().all(|head| head.starts_with(&own)), "{:?}", proxy.heads());
    }

    /// The certificate is shown to the upstream's own host, and to no other.
    fn a_client_certificate_is_for_the_upstream_alone(leg) {
        let folder = TempDir::new("certificates");
        let (registry, image, config) = start_tls(folder.path());
        registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
        let [chain, key] = registry.client_pem();
        let files = [("chain.pem", chain), ("key.pem", key)].map(|(name, pem)| {
            let path = folder.path().join(name);
            fs::write(&path, pem).expect("a file for the test");
            restrict(&path);
            path.display().to_string()
        });
        let config =
            format!("{config}client_certificate = \"{}\"\nclient_key = \"{}\"\n", files[0], files[1]);
        let server = mirror(leg, &upstream(NS, &registry, &config)).start();
        pull(&mut server.client(), &registry, &image);
        let seen = registry.seen();
        assert!(seen.iter().all(|seen| seen.showed_certificate == (seen.place == Place::Own)), "{seen:?}");
        assert!([Place::Own, Place::Foreign].iter().all(|place| seen.iter().any(|seen| seen.place == *place)));
    }
}

/// For its owner alone, so that nobody is warned.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("our own file");
}
