//! What is well written and yet means nothing, or not what it seems to: an operator is told before anybody relies on it.

use controlplane::{
    Glob,
    upstream::{AllowPrivate, UpstreamSettings},
};
use oci::{Namespaces, RepositoryName};

use super::{Mistake, Names, Reading, SectionReading, UPSTREAM};

/// Of one table. `adds_library`: names of one component are not what its repositories are called.
pub fn of_one(read: &mut SectionReading<'_>, settings: &UpstreamSettings, adds_library: bool) {
    if settings.url.ends_with("/v2") {
        read.refused("url", "it ends before /v2, which is put behind it".to_owned());
    }
    for (key, patterns) in [("allow", &settings.policy.allow), ("deny", &settings.policy.deny)] {
        for pattern in patterns.iter().filter(|pattern| !can_be_a_name(pattern)) {
            read.refused(key, format!("\"{pattern}\" matches no repository: {NAMES}"));
        }
        let never = |pattern: &&String| {
            adds_library && !pattern.contains('/') && !pattern.contains("**") && can_be_a_name(pattern)
        };
        for pattern in patterns.iter().filter(never) {
            read.refused(
                key,
                format!("\"{pattern}\" matches no repository there; write \"library/{pattern}\", or \"**\" for all"),
            );
        }
    }
    if settings.proxy.is_none() && !settings.proxy_hosts.is_empty() && !read.has("proxy") {
        read.refused("proxy_hosts", "it says something only with `proxy`".to_owned());
    }
    if let AllowPrivate::Networks(networks) = &settings.allow_private_addresses
        && networks.iter().any(|network| network.is_never())
    {
        read.refused(
            "allow_private_addresses",
            "it names a network that is never connected to (link-local, multicast, reserved)".to_owned(),
        );
    }
    if settings.policy.stale_while > settings.policy.stale_max {
        read.refused(
            "stale_while",
            "it is longer than stale_max, after which nothing old is given".to_owned(),
        );
    }
}

/// Of all of them, by the names that clients have for them and for this registry.
pub fn of_all(reading: &mut Reading, settings: &[UpstreamSettings], places: &[Names]) {
    let mut refused = |at, key: String, why| reading.mistakes.push(Mistake::Refused { at, key, why });
    for (one, names) in settings.iter().zip(places) {
        let is_prefix = |other: &&UpstreamSettings| other.ns != one.ns && other.ns == one.prefix;
        if settings.iter().any(|other| is_prefix(&other)) {
            refused(
                names.prefix.clone(),
                format!("{UPSTREAM}.prefix"),
                format!(
                    "\"{}\" is the ns of another [[upstream]], and such a name would be taken for one of that",
                    one.prefix
                ),
            );
        }
    }
}

/// Of `local_only`, which binds names without a prefix. `namespaces` has the upstreams and this registry's own names.
pub fn of_local_only(
    reading: &mut Reading,
    settings: &[UpstreamSettings],
    namespaces: &Namespaces,
    local_only: &[Glob],
) {
    let at = reading.origin("local_only");
    for pattern in local_only {
        if let Some(why) = why_never_local(pattern.as_str(), settings, namespaces) {
            reading.mistakes.push(Mistake::Refused { at: at.clone(), key: "local_only".to_owned(), why });
        }
    }
}

/// Why a pattern keeps in nothing, and what would.
fn why_never_local(pattern: &str, settings: &[UpstreamSettings], namespaces: &Namespaces) -> Option<String> {
    if !can_be_a_name(pattern) {
        return Some(format!("\"{pattern}\" matches no name: {NAMES}"));
    }
    // A star in the first component stands for other names as well.
    let (first, rest) = pattern.split_once('/')?;
    if settings.iter().any(|one| one.prefix == first) {
        return Some(format!(
            "what is below \"{first}\" is always that [[upstream]]'s, and never local; write \"{rest}\" for names \
             without a prefix, or deny = [\"{rest}\"] in that [[upstream]] for what is not to be asked for there"
        ));
    }
    let is_host = namespaces.is_own(first) || namespaces.of_ns(first).is_some();
    is_host.then(|| {
        format!("\"{first}\" is a registry's host, and no name here begins with one; write \"{rest}\"")
    })
}

/// What a name looks like, for who wrote none.
const NAMES: &str = "a name has small letters and digits, with single `.`, `_`, `-` and `/` between them; \"acme/*\" is all \
                     that is below acme";

/// Whether there is a repository's name that it matches: a letter may stand wherever a star does.
fn can_be_a_name(pattern: &str) -> bool {
    RepositoryName::parse(&pattern.replace('*', "a")).is_ok()
}
