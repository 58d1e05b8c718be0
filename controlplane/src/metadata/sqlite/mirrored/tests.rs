//! The rows of a mirror: their bound, what goes first, and what a tag that moves takes along.

use std::sync::Arc;

use control::{Epoch, Epochs, PushedBlob};
use oci::{Algorithm, Namespace, Namespaces};

use super::super::changes::Revoked;
use super::super::{migrations, sources};
use super::*;
use crate::metadata::{EdgeKind, Source};
use crate::mirror::Names;

struct Rows {
    connection: Connection,
    epochs: Epochs,
    names: Names,
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn named(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn digest(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

const HUB: &str = "docker.io/library/app";

fn new(tag: Option<&str>, text: &str, at: i64) -> NewMirrored {
    NewMirrored {
        repository: name(HUB),
        digest: digest(text),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        bytes: Bytes::from(text.to_owned()),
        tag: tag.map(named),
        edges: vec![MirroredEdge { target: digest("layer"), kind: EdgeKind::Blob, size_bytes: 7 }],
        at,
        bytes_max: u64::MAX >> 1,
    }
}

impl Rows {
    fn new() -> Rows {
        let mut connection = Connection::open_in_memory().unwrap();
        migrations::run(&mut connection).unwrap();
        let mut namespaces = Namespaces::default();
        let hub = Namespace { ns: "docker.io".into(), prefix: "docker.io".into(), adds_library: true };
        namespaces.add(hub).unwrap();
        let names = Names::new(Arc::new(namespaces), vec!["docker.io".into()], Some(0), Vec::new());
        Rows { connection, epochs: Epochs::new(1 << 16), names }
    }

    /// What a change says, and whether it took away what cores know of these names.
    fn change<T>(
        &self,
        apply: impl FnOnce(&mut Change<'_, '_>) -> Result<T, Refused>,
        names: &[&str],
    ) -> (T, Vec<bool>) {
        let epochs = |names: &[&str]| -> Vec<Option<Epoch>> {
            names.iter().map(|text| self.epochs.read(self.epochs.of_repository(&name(text)))).collect()
        };
        let before = epochs(names);
        let mut revoked = Revoked::new(&self.epochs, &self.names);
        let mut change = Change { connection: &self.connection, now: 0, revoked: &mut revoked };
        let done = apply(&mut change).unwrap();
        self.epochs.revoking(&mut revoked.slots, || {});
        let moved = epochs(names).into_iter().zip(before).map(|(now, before)| now != before);
        (done, moved.collect())
    }

    fn keep(&self, keep: Keep) -> (bool, bool) {
        let (done, moved) = self.change(|change| change.keep(&keep), &[HUB, "library/app", "app", "other"]);
        assert!(moved[..3].iter().all(|one| *one == moved[0]), "all its names go together: {moved:?}");
        assert!(!moved[3]);
        (done, moved[0])
    }

    fn total(&self) -> u64 {
        let told =
            self.connection.query_row("SELECT bytes FROM mirrored_total", [], |row| row.get(0)).unwrap();
        let counted: u64 = self
            .connection
            .query_row(
                &format!(
                    "SELECT coalesce((SELECT sum(charge_bytes) FROM mirrored_manifest), 0)
                     + {TAG_BYTES} * (SELECT count(*) FROM mirrored_tag)"
                ),
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(counted, told, "the total is the sum of what is there");
        told
    }

    fn has(&self, text: &str) -> bool {
        manifest(&self.connection, &name(HUB), &digest(text)).unwrap().is_some()
    }

    fn tag(&self, text: &str) -> Option<(Digest, i64)> {
        let found = tag(&self.connection, &name(HUB), &named(text)).unwrap()?;
        Some((found.manifest.document.digest, found.checked_at))
    }
}

#[test]
fn a_tag_that_moves_or_goes_takes_along_what_is_remembered_under_any_name() {
    let rows = Rows::new();
    assert_eq!(rows.keep(Keep::Manifest(new(Some("v1"), "one", 5))), (true, false), "nobody knew it");
    assert_eq!(rows.keep(Keep::Manifest(new(Some("v1"), "one", 6))), (true, false), "it is the same");
    assert_eq!(rows.tag("v1"), Some((digest("one"), 6)));
    assert_eq!(rows.keep(Keep::Manifest(new(Some("v1"), "two", 7))), (true, true));
    assert_eq!(rows.tag("v1"), Some((digest("two"), 7)));
    assert!(rows.has("one"), "its digest names it still");
    let to = |text: &str| Keep::Tag { repository: name(HUB), tag: named("v1"), digest: digest(text), at: 8 };
    assert_eq!(rows.keep(to("two")), (true, false));
    assert_eq!(rows.keep(to("one")), (true, true));
    assert_eq!(rows.keep(to("not here")), (false, false));
    assert_eq!(rows.tag("v1"), Some((digest("one"), 8)));
    let none = || Keep::NoTag { repository: name(HUB), tag: named("v1") };
    assert_eq!(rows.keep(none()), (true, true));
    assert_eq!(rows.tag("v1"), None);
    assert_eq!(rows.keep(none()), (false, false));
    rows.total();
}

#[test]
fn what_was_not_asked_for_the_longest_goes_first_and_the_bound_holds() {
    let rows = Rows::new();
    for (number, text) in ["a", "b", "c"].into_iter().enumerate() {
        rows.keep(Keep::Manifest(new(Some(text), text, number as i64)));
    }
    let bytes_max = rows.total();
    let used = Keep::Used { repository: name(HUB), digest: digest("a"), at: 10 };
    assert_eq!(rows.keep(used), (true, false));
    let more = NewMirrored { bytes_max, ..new(Some("d"), "d", 11) };
    assert_eq!(rows.keep(Keep::Manifest(more)), (true, true), "its tag might move before it comes again");
    assert_eq!(["a", "b", "c", "d"].map(|text| rows.has(text)), [true, false, true, true]);
    assert_eq!(rows.tag("b"), None);
    assert!(rows.total() <= bytes_max);
    // Larger than all of the room: it alone is kept, as long as nothing else is.
    let large = NewMirrored { bytes_max: 1, ..new(None, &"x".repeat(4096), 12) };
    rows.keep(Keep::Manifest(large));
    let left: u64 =
        rows.connection.query_row("SELECT count(*) FROM mirrored_manifest", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
    rows.total();
}

#[test]
fn nothing_is_left_of_a_repository_whose_last_manifest_went() {
    let rows = Rows::new();
    let one = NewMirrored { repository: name("docker.io/org/one"), ..new(Some("v1"), "one", 1) };
    let (_, moved) = rows.change(|change| change.keep(&Keep::Manifest(one)), &["org/one"]);
    assert_eq!(moved, [false]);
    assert!(is_mirrored(&rows.connection, &name("docker.io/org/one")).unwrap());
    let two = Keep::Manifest(NewMirrored { bytes_max: 1, ..new(Some("v1"), "two", 2) });
    let (_, moved) = rows.change(|change| change.keep(&two), &["docker.io/org/one", "org/one", HUB]);
    assert_eq!(moved, [true, true, false]);
    assert!(!is_mirrored(&rows.connection, &name("docker.io/org/one")).unwrap());
    let edges: u64 =
        rows.connection.query_row("SELECT count(*) FROM mirrored_edge", [], |row| row.get(0)).unwrap();
    assert_eq!(edges, 1);
}

#[test]
fn a_blob_has_the_size_that_all_manifests_tell() {
    let rows = Rows::new();
    let of = |rows: &Rows, repository: &str, blob: &str| {
        standing(&rows.connection, None, &name(repository), &digest(blob)).unwrap().0
    };
    assert_eq!(of(&rows, HUB, "layer"), Standing::Unopened);
    rows.keep(Keep::Manifest(new(None, "one", 1)));
    rows.keep(Keep::Manifest(new(None, "two", 1)));
    assert_eq!(of(&rows, HUB, "layer"), Standing::Named(Some(7)));
    assert_eq!(of(&rows, HUB, "other"), Standing::Unnamed);
    assert_eq!(
        of(&rows, "docker.io/org/app", "layer"),
        Standing::Unopened,
        "another repository is not asked"
    );
    let child = MirroredEdge { target: digest("child"), kind: EdgeKind::Child, size_bytes: 8 };
    rows.keep(Keep::Manifest(NewMirrored { edges: vec![child], ..new(None, "index", 1) }));
    assert_eq!(of(&rows, HUB, "child"), Standing::Unnamed, "an index permits no blob");
    let liar = MirroredEdge { target: digest("layer"), kind: EdgeKind::Blob, size_bytes: 8 };
    rows.keep(Keep::Manifest(NewMirrored { edges: vec![liar], ..new(None, "three", 1) }));
    assert_eq!(of(&rows, HUB, "layer"), Standing::Named(None));
}

#[test]
fn what_was_pushed_by_a_bare_name_comes_first() {
    let rows = Rows::new();
    rows.keep(Keep::Manifest(new(None, "one", 1)));
    let of = |rows: &Rows, blob: &str| {
        let found = standing(&rows.connection, Some(&name("app")), &name(HUB), &digest(blob)).unwrap();
        (found.0, found.1.is_some())
    };
    assert_eq!(of(&rows, "layer"), (Standing::Named(Some(7)), false));
    rows.change(|change| change.claim(&name("app")), &["app"]);
    assert_eq!(of(&rows, "layer"), (Standing::Local, false), "the upstream is not asked for a local name");
    let pushed = PushedBlob { repository: name("app"), digest: digest("layer"), size_bytes: 8 };
    rows.change(|change| change.push(&pushed), &["app"]);
    let here = Standing::Pushed(Link::Here { size_bytes: 8 });
    assert_eq!(of(&rows, "layer"), (here, true), "with a touch");
    assert_eq!(of(&rows, "other"), (Standing::Local, false));
}

#[test]
fn a_name_is_claimed_once() {
    let rows = Rows::new();
    assert!(!is_local(&rows.connection, &name("app")).unwrap());
    let (_, moved) = rows.change(|change| change.claim(&name("app")), &["app"]);
    assert_eq!(moved, [true], "cores may know it as the root mirror's");
    assert!(is_local(&rows.connection, &name("app")).unwrap());
    let (_, moved) = rows.change(|change| change.claim(&name("app")), &["app"]);
    assert_eq!(moved, [false]);
}

/// A base layer is named by thousands of manifests, and what goes first is found among millions.
#[test]
fn sizes_and_what_goes_first_are_found_by_an_index() {
    let rows = Rows::new();
    for sql in [
        SIZES,
        "SELECT id, repository, charge_bytes, digest FROM mirrored_manifest
         WHERE id <> ?1 ORDER BY used_at, id LIMIT ?2",
    ] {
        let mut statement = rows.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let ones = rusqlite::params_from_iter(vec![1; statement.parameter_count()]);
        let steps = statement.query_map(ones, |row| row.get::<_, String>(3)).unwrap();
        let plan = steps.collect::<Sql<Vec<String>>>().unwrap().join("; ");
        assert!(plan.contains("INDEX") && !plan.contains("TEMP B-TREE"), "{plan}");
    }
}

#[test]
fn what_came_from_another_upstream_than_the_one_of_its_prefix_goes() {
    let mut rows = Rows::new();
    let source = |prefix: &str, ns: &str, url: &str| Source {
        prefix: prefix.to_owned(),
        ns: ns.to_owned(),
        url: url.to_owned(),
    };
    let hub = source("docker.io", "docker.io", "https://registry-1.docker.io");
    let keep = |rows: &Rows| {
        for (number, repository) in ["docker.io/library/app", "docker.io0/app"].into_iter().enumerate() {
            let one = NewMirrored { repository: name(repository), ..new(Some("v1"), "one", number as i64) };
            rows.change(|change| change.keep(&Keep::Manifest(one)), &[]);
        }
        rows.total()
    };
    let settle = |rows: &mut Rows, source: &Source| {
        sources::settle(&mut rows.connection, std::slice::from_ref(source)).unwrap();
        (rows.has("one"), rows.tag("v1").is_some(), rows.total())
    };
    let all = keep(&rows);
    let rest = all / 2;
    assert_eq!(settle(&mut rows, &hub), (false, false, rest), "nobody knows where that came from");
    assert_eq!(keep(&rows), all);
    assert_eq!(settle(&mut rows, &hub), (true, true, all), "it came from there");
    let elsewhere = source("docker.io", "docker.io", "https://mirror.example");
    assert_eq!(settle(&mut rows, &elsewhere), (false, false, rest));
    keep(&rows);
    assert_eq!(settle(&mut rows, &elsewhere), (true, true, all));
    let renamed = source("docker.io", "quay.io", "https://mirror.example");
    assert_eq!(settle(&mut rows, &renamed), (false, false, rest));
    keep(&rows);
    assert_eq!(settle(&mut rows, &source("quay", "quay.io", "https://quay.io")).2, all, "another prefix");
    let edges: u64 =
        rows.connection.query_row("SELECT count(*) FROM mirrored_edge", [], |row| row.get(0)).unwrap();
    assert_eq!(edges, 2);
}
