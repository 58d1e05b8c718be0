//! Whose a name is: this registry's, or an upstream's.
//!
//! Invariants: a name under an upstream's prefix is that upstream's, always. Another name is the root mirror's only if
//! it was never written here and no pattern keeps it in; the metadata knows the first, this file the second.
//!
//! Spec: one repository, one source.

use std::sync::Arc;

use oci::{Namespaces, RepositoryName};

use super::Glob;

/// The names of all upstreams.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(super) namespaces: Arc<Namespaces>,
    /// In the order of the configuration.
    prefixes: Vec<Box<str>>,
    root: Option<usize>,
    local_only: Vec<Glob>,
}

/// A repository of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which upstream, in the order of the configuration.
    pub upstream: u16,
    /// Its one name here, `<prefix>/<name>`.
    pub repository: RepositoryName,
    /// Its name there.
    pub there: RepositoryName,
    /// It was asked for without a prefix, as a client of a root mirror does.
    pub is_bare: bool,
}

impl Names {
    pub(crate) fn new(
        namespaces: Arc<Namespaces>,
        prefixes: Vec<Box<str>>,
        root: Option<usize>,
        local_only: Vec<Glob>,
    ) -> Names {
        Names { namespaces, prefixes, root, local_only }
    }

    /// The prefixes of all upstreams.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.prefixes.iter().map(|prefix| &**prefix)
    }

    /// Whether names without a prefix may be an upstream's.
    pub(crate) fn has_root(&self) -> bool {
        self.root.is_some()
    }

    /// Whether the name is one of an upstream's, by its prefix.
    pub(crate) fn is_upstreams(&self, name: &RepositoryName) -> bool {
        self.namespaces.of_repository(name).is_some()
    }

    /// The upstream's repository that a name with a prefix means.
    pub(crate) fn by_prefix(&self, name: &RepositoryName) -> Option<Place> {
        let (namespace, there) = self.namespaces.of_repository(name)?;
        let upstream = self.prefixes.iter().position(|prefix| *prefix == namespace.prefix)?;
        let there = RepositoryName::parse(there).ok()?;
        Some(Place { upstream: u16::try_from(upstream).ok()?, repository: *name, there, is_bare: false })
    }

    /// The root mirror's repository that a name without a prefix means, if it may leave the house. Whether it is a
    /// local one is for the caller to ask first.
    pub(crate) fn by_root(&self, name: &RepositoryName) -> Option<Place> {
        let upstream = self.root?;
        if self.is_upstreams(name) || self.local_only.iter().any(|glob| glob.matches(name.as_str())) {
            return None;
        }
        let prefix = &*self.prefixes[upstream];
        let adds_library = self.namespaces.of_prefix(prefix).is_some_and(|namespace| namespace.adds_library);
        let library = if adds_library && !name.as_str().contains('/') { "library/" } else { "" };
        let there = RepositoryName::concat([library, name.as_str()]).ok()?;
        let repository = RepositoryName::concat([prefix, "/", there.as_str()]).ok()?;
        Some(Place { upstream: u16::try_from(upstream).ok()?, repository, there, is_bare: true })
    }

    /// The one name here of what upstream number `upstream` calls `there`.
    pub(crate) fn here(&self, upstream: u16, there: &RepositoryName) -> Option<RepositoryName> {
        let prefix = self.prefixes.get(usize::from(upstream))?;
        RepositoryName::concat([prefix, "/", there.as_str()]).ok()
    }

    /// By which other names a core may remember what is kept under `repository`: those without the root mirror's
    /// prefix.
    pub(crate) fn also_called(&self, repository: &RepositoryName) -> Vec<RepositoryName> {
        let Some(place) = self.by_prefix(repository) else { return Vec::new() };
        if self.root != Some(usize::from(place.upstream)) {
            return Vec::new();
        }
        let short = place.there.as_str().strip_prefix("library/").filter(|rest| !rest.contains('/'));
        let short = short.and_then(|short| RepositoryName::parse(short).ok());
        // Only if that is what the short name means.
        let short = short.filter(|short| self.by_root(short).is_some_and(|meant| meant.there == place.there));
        std::iter::once(place.there).chain(short).collect()
    }
}

#[cfg(test)]
mod tests {
    use oci::Namespace;

    use super::*;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    fn names(root: Option<usize>) -> Names {
        let mut namespaces = Namespaces::default();
        for (ns, prefix, adds_library) in [("ghcr.io", "ghcr", false), ("docker.io", "docker.io", true)] {
            namespaces.add(Namespace { ns: ns.into(), prefix: prefix.into(), adds_library }).unwrap();
        }
        let prefixes = vec!["ghcr".into(), "docker.io".into()];
        Names::new(Arc::new(namespaces), prefixes, root, vec![Glob::parse("acme/*").unwrap()])
    }

    #[test]
    fn a_prefix_names_its_upstream() {
        let names = names(Some(1));
        let place = names.by_prefix(&name("ghcr/org/app")).unwrap();
        assert_eq!((place.upstream, place.there, place.is_bare), (0, name("org/app"), false));
        assert_eq!(names.by_prefix(&name("docker.io/library/busybox")).unwrap().upstream, 1);
        assert_eq!(names.by_prefix(&name("org/app")), None);
        assert_eq!(
            names.by_prefix(&name("ghcr")),
            None,
            "a name of one component that is only called like a prefix"
        );
        assert_eq!(names.here(0, &name("org/app")), Some(name("ghcr/org/app")));
    }

    #[test]
    fn a_bare_name_is_the_root_mirrors() {
        let of = |text: &str| names(Some(1)).by_root(&name(text)).map(|place| place.repository);
        assert_eq!(of("busybox"), Some(name("docker.io/library/busybox")));
        assert_eq!(of("library/busybox"), Some(name("docker.io/library/busybox")));
        assert_eq!(of("org/app"), Some(name("docker.io/org/app")));
        assert_eq!(of("acme/app"), None, "it is kept in");
        assert_eq!(of("acme/team/app"), None, "however deep");
        assert_eq!(of("ghcr/org/app"), None, "it is another's");
        assert_eq!(of(&"a".repeat(250)), None, "its name here would be too long");
        assert_eq!(names(None).by_root(&name("busybox")), None);
    }

    #[test]
    fn the_root_mirrors_repositories_have_short_names_too() {
        let also = |root, text: &str| names(root).also_called(&name(text));
        assert_eq!(also(Some(1), "docker.io/library/busybox"), [name("library/busybox"), name("busybox")]);
        assert_eq!(also(Some(1), "docker.io/org/app"), [name("org/app")]);
        assert_eq!(also(Some(1), "docker.io/library/a/b"), [name("library/a/b")]);
        assert_eq!(also(Some(0), "ghcr/library/app"), [name("library/app")], "it adds no library");
        assert!(also(Some(1), "ghcr/org/app").is_empty());
        assert!(also(None, "docker.io/library/busybox").is_empty());
    }
}
