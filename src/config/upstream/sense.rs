//! What is well written and yet means nothing, or not what it seems to: an operator is told before anybody relies on it.

use controlplane::{
    Glob,
    upstream::{AllowPrivate, UpstreamSettings},
};

use super::{Mistake, Names, Reading, SectionReading, UPSTREAM};

/// Of one table. `adds_library`: names of one component are not what its repositories are called.
pub fn of_one(read: &mut SectionReading<'_>, settings: &UpstreamSettings, adds_library: bool) {
    if settings.url.ends_with("/v2") {
        read.refused("url", "it ends before /v2, which is put behind it".to_owned());
    }
    for (key, patterns) in [("allow", &settings.policy.allow), ("deny", &settings.policy.deny)] {
        let never = |pattern: &&String| adds_library && !pattern.contains('/') && !pattern.contains("**");
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

/// Of all of them, and of `local_only`.
pub fn of_all(reading: &mut Reading, settings: &[UpstreamSettings], places: &[Names], local_only: &[Glob]) {
    let local_only_at = reading.origin("local_only");
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
    let below = |pattern: &Glob| {
        let (first, _) = pattern.as_str().split_once('/')?;
        settings.iter().find(|one| one.prefix == first)
    };
    for pattern in local_only {
        if let Some(one) = below(pattern) {
            refused(
                local_only_at.clone(),
                "local_only".to_owned(),
                format!("what is below \"{}\" is always that [[upstream]]'s, and never local", one.prefix),
            );
        }
    }
}
