//! `fleet`: many clients pull one image as containerd does. The tag is resolved by a HEAD (with a token, if one is asked
//! for), then come the index, the manifest for linux/amd64, and its configuration and layers side by side.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use oci::Digest;

use super::{Scenario, bystanders::raise_descriptors, size};
use crate::{
    args::Settings,
    client::{Client, Request},
    clients::{self, Tally, first_median_last},
    image::{Document, Image},
    load::Reading,
    registry::Registry,
    result::{Case, Round},
    subject::{REPOSITORY, Subject},
};

const TAG: &str = "fleet";
const ACCEPT: &str =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json\r\n";

/// The scenario.
pub struct Fleet {
    settings: Settings,
    image: Option<Image>,
    rounds: u64,
}

/// One of the image's blobs.
struct Part {
    target: String,
    length: u64,
    digest: Digest,
}

/// What the clients of a round have in common.
struct Pull<'a> {
    registry: &'a Registry,
    user: Option<&'a str>,
    image: &'a Image,
    parts: Vec<Part>,
    /// Connections of a client that fetch blobs.
    parallel: usize,
    verify_every: u64,
    /// Blobs that all clients have asked for.
    asked: AtomicU64,
}

impl Fleet {
    /// With what the user has set.
    pub fn new(settings: Settings) -> Fleet {
        raise_descriptors();
        Fleet { settings, image: None, rounds: 0 }
    }
}

impl Scenario for Fleet {
    fn cases(&self) -> Vec<Case> {
        let whole = self.settings.layers.iter().sum();
        let case = |clients: &u64| {
            let count = self.settings.layers.len();
            let name = format!("{clients} clients, {} in {count} layers", size(whole));
            let mut case = self.settings.case("fleet", name);
            case.size_bytes = Some(whole);
            case.connections = Some(*clients);
            case.rate = None;
            case
        };
        self.settings.clients.iter().map(case).collect()
    }

    fn prepare(&mut self, _case: &Case, subject: &mut Subject) -> Result<(), String> {
        // Seeds apart from those of other scenarios' blobs.
        let seed = self.settings.seed + 1_000;
        let layer = |(number, size): (u64, &u64)| subject.give(seed + number, *size);
        let layers = (0..).zip(&self.settings.layers).map(layer).collect::<Result<_, String>>()?;
        let image = Image::of(layers);
        image.push(&mut subject.registry, TAG)?;
        self.image = Some(image);
        Ok(())
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let image = self.image.as_ref().ok_or("no image was pushed")?;
        self.rounds += 1;
        let part = |length, digest: &Digest| Part {
            target: format!("/v2/{REPOSITORY}/blobs/{digest}"),
            length,
            digest: *digest,
        };
        let config = part(image.config.bytes.len() as u64, &image.config.digest);
        let layers = image.layers.iter().map(|layer| part(layer.length, &layer.digest));
        let pull = Pull {
            registry: &subject.registry,
            user: subject.registry.user.as_deref(),
            image,
            parts: std::iter::once(config).chain(layers).collect(),
            parallel: self.settings.parallel.max(1),
            verify_every: self.settings.verify_every.max(1),
            asked: AtomicU64::new(0),
        };
        let count = usize::try_from(case.connections.unwrap_or(1)).unwrap_or(1);
        let arrivals = self.settings.arrivals.times(count, self.settings.seed + self.rounds);
        let visits = clients::run(subject, &self.settings, &case.name, &arrivals, |_, due, tally| {
            let done = pull.image(tally);
            let took = due.elapsed();
            done.inspect(|()| tally.took(0, took)).map_err(|why| tally.wrong(why)).ok().map(|()| took)
        })?;
        let mut round = visits.round;
        let times = visits.clients.iter().flatten().map(|took| took.as_secs_f64()).collect();
        if let Some((first, median, last)) = first_median_last(times) {
            let figures = [("first_s", first), ("median_s", median), ("last_s", last)];
            round.figures.extend(figures.map(|(name, value)| (name.to_owned(), value)));
        }
        Ok(round)
    }
}

impl Pull<'_> {
    /// One client, from the name of the image to its last layer.
    fn image(&self, tally: &Tally) -> Result<(), String> {
        let mut client = Client::of(self.registry);
        // Each client gets a token of its own, or finds that none is needed.
        client.origin.authorization = None;
        self.resolve(&mut client, tally)?;
        for document in [&self.image.index, &self.image.manifest] {
            self.document(&mut client, document, tally)?;
        }
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let work = |mut client: Client| {
            while let Some(part) = self.parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(why) = self.part(&mut client, part, tally) {
                    // What another one has said is not the first any more.
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
                    return;
                }
            }
        };
        let others = self.parallel.min(self.parts.len()).saturating_sub(1);
        thread::scope(|scope| {
            for _ in 0..others {
                let mut other = Client::of(self.registry);
                other.origin = client.origin.clone();
                scope.spawn(|| work(other));
            }
            work(client);
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// What the tag points to is learnt from a HEAD.
    fn resolve(&self, client: &mut Client, tally: &Tally) -> Result<(), String> {
        let target = format!("/v2/{REPOSITORY}/manifests/{TAG}");
        let request = Request { method: "HEAD", target: &target, fields: ACCEPT, body: b"" };
        let reading = Reading::Drop { length: None };
        let mut got = client.send(&request, &[200, 401], &reading)?;
        if got.head.status == 401 {
            let mut registry = self.registry.another();
            registry.origin.authorization = None;
            registry.authorize(self.user, &format!("repository:{REPOSITORY}:pull"))?;
            client.origin = registry.origin;
            got = client.send(&request, &[200], &reading)?;
        }
        tally.right(&got);
        Ok(())
    }

    fn document(&self, client: &mut Client, document: &Document, tally: &Tally) -> Result<(), String> {
        let target = format!("/v2/{REPOSITORY}/manifests/{}", document.digest);
        let reading = Reading::Verify { length: document.bytes.len() as u64, digest: document.digest };
        let request = Request { method: "GET", target: &target, fields: ACCEPT, body: b"" };
        tally.right(&client.send(&request, &[200], &reading)?);
        Ok(())
    }

    fn part(&self, client: &mut Client, part: &Part, tally: &Tally) -> Result<(), String> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let reading = match asked % self.verify_every {
            0 => Reading::Verify { length: part.length, digest: part.digest },
            _ => Reading::Drop { length: Some(part.length) },
        };
        tally.right(&client.send(&Request::get(&part.target), &[200], &reading)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::tests::{registry, settings};

    #[test]
    fn every_client_pulls_the_whole_image() {
        let Some(mut subject) = registry() else { return };
        let arguments = [
            "--clients",
            "5",
            "--layers",
            "300KiB,4KiB,1",
            "--arrivals",
            "poisson:200",
            "--verify-every",
            "2",
        ];
        let mut fleet = Fleet::new(settings("fleet", &arguments));
        let case = fleet.cases().remove(0);
        assert_eq!(case.name, "5 clients, 304 KiB in 3 layers");
        fleet.prepare(&case, &mut subject).unwrap();
        let round = fleet.round(&case, &mut subject).unwrap();
        assert_eq!((round.errors, round.first_error.as_deref()), (0, None));
        // A HEAD, an index, a manifest, a configuration and three layers.
        assert_eq!(round.requests, 5 * 7);
        let image = fleet.image.as_ref().unwrap();
        let documents = [&image.index, &image.manifest, &image.config];
        let documents: usize = documents.iter().map(|document| document.bytes.len()).sum();
        assert_eq!(round.bytes, 5 * (documents as u64 + 304 * 1024 + 1));
        // Both documents of each client, and half of the 20 blobs.
        assert_eq!(round.verified, 5 * 2 + 10);
        let figure = |name: &str| round.figures[name];
        assert!(figure("first_s") > 0.0 && figure("first_s") <= figure("median_s"));
        assert!(figure("median_s") <= figure("last_s") && figure("last_s") <= round.seconds);

        // What is not there is an error of each client, and no result.
        fleet.image.as_mut().unwrap().layers.push(crate::content::Blob::new(999, 50));
        let round = fleet.round(&case, &mut subject).unwrap();
        assert_eq!(round.errors, 5);
        assert!(round.first_error.is_some_and(|why| why.contains("status 404")));
        assert!(!round.figures.contains_key("last_s"));
    }

    /// A server that shows the image to whoever has the token, and gives that to whoever has the password.
    fn guarded(image: &Image) -> std::net::SocketAddr {
        use std::io::{BufRead, BufReader, Write};

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut bodies = std::collections::BTreeMap::new();
        for document in [&image.index, &image.manifest] {
            bodies.insert(format!("/v2/{REPOSITORY}/manifests/{}", document.digest), document.bytes.clone());
        }
        bodies.insert(format!("/v2/{REPOSITORY}/manifests/{TAG}"), image.index.bytes.clone());
        bodies.insert(format!("/v2/{REPOSITORY}/blobs/{}", image.config.digest), image.config.bytes.clone());
        for layer in &image.layers {
            bodies.insert(format!("/v2/{REPOSITORY}/blobs/{}", layer.digest), layer.noise().bytes());
        }
        let answer = move |request: &[String]| {
            let mut words = request[0].split(' ');
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            let says = |line: &str| request.iter().any(|said| said == line);
            let token = br#"{"token":"t"}"#.to_vec();
            let (status, body) = if target.starts_with("/token?service=s&scope=repository:bench/blobs:pull") {
                // user:password
                (if says("Authorization: Basic dXNlcjpwYXNzd29yZA==") { 200 } else { 403 }, token)
            } else if !says("Authorization: Bearer t") {
                (401, Vec::new())
            } else {
                bodies.get(target).map_or((404, Vec::new()), |body| (200, body.clone()))
            };
            let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{addr}/token\",service=\"s\"");
            let head =
                format!("HTTP/1.1 {status} x\r\n{challenge}\r\nContent-Length: {}\r\n\r\n", body.len());
            if method == "HEAD" { head.into_bytes() } else { [head.into_bytes(), body].concat() }
        };
        let serve = move |stream: std::net::TcpStream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            loop {
                let request: Vec<String> = reader.by_ref().take_while(|line| !line.is_empty()).collect();
                if request.is_empty() || (&stream).write_all(&answer(&request)).is_err() {
                    return;
                }
            }
        };
        let serve = std::sync::Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serve = serve.clone();
                thread::spawn(move || serve(stream));
            }
        });
        addr
    }

    #[test]
    fn each_client_gets_a_token_if_one_is_asked_for() {
        let image = Image::of(vec![crate::content::Blob::new(1, 5000), crate::content::Blob::new(2, 70)]);
        let mut registry = Registry::at(guarded(&image));
        registry.authorize(Some("user:password"), "repository:bench/blobs:pull,push").unwrap();
        let mut subject = Subject::at(registry);
        let mut fleet = Fleet::new(settings("fleet", &["--clients", "3", "--verify-every", "1"]));
        let case = fleet.cases().remove(0);
        fleet.image = Some(image);
        let round = fleet.round(&case, &mut subject).unwrap();
        assert_eq!((round.errors, round.first_error.as_deref()), (0, None));
        assert_eq!((round.requests, round.verified), (3 * 6, 3 * 5));

        subject.registry.user = Some("user:wrong".to_owned());
        let round = fleet.round(&case, &mut subject).unwrap();
        assert_eq!((round.requests, round.errors), (0, 3));
        assert!(round.first_error.is_some_and(|why| why.contains("a token: status 403")));
    }
}
