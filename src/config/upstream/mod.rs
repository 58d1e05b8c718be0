//! The `[[upstream]]` tables: the registries that this one is a mirror of.
//!
//! Owns: the list of their keys, which is the one pass in [`one`], and what may not be there twice.

mod credentials;
mod files;
mod sense;
mod value;

use std::path::PathBuf;

use controlplane::{
    Glob, limits,
    upstream::{
        AllowPrivate, ClientCertificate, Complete, Network, Policy, Timeouts, Upstream, UpstreamSettings,
    },
};
use oci::{Namespace, NamespaceError, Namespaces, Platform};

use super::{
    mistake::{Mistake, Origin},
    raw::{Section, UPSTREAM},
    reading::{Effective, Reading},
    section::SectionReading,
    value::{Bytes, Percent, Value, Written},
};
use crate::limits::UPSTREAMS;

pub use value::{Ns, Url};

use value::{
    Cidr, Completion, Connections, Host, HostPattern, OrZero, PlatformName, Prefix, Private, Rate, Role,
};

/// Every key, for suggestions; a test compares it with what the pass asks for.
const KEYS: [&str; 48] = [
    "ns",
    "url",
    "prefix",
    "mirror",
    "credentials",
    "credentials.username",
    "credentials.password",
    "credentials.password_file",
    "credentials.token",
    "credentials.token_file",
    "credentials.command",
    "spend_all_budgets",
    "realms",
    "allow_private_addresses",
    "ca_file",
    "client_certificate",
    "client_key",
    "proxy",
    "proxy.url",
    "proxy.username",
    "proxy.password",
    "proxy.password_file",
    "proxy_hosts",
    "timeouts.connect",
    "timeouts.first_byte",
    "timeouts.stall",
    "timeouts.body_rate_min_bytes",
    "timeouts.body_rate_grace",
    "timeouts.document",
    "timeouts.token",
    "timeouts.refused",
    "timeouts.breaker",
    "timeouts.rejected",
    "budget_wait",
    "breaker_failures",
    "connections",
    "bandwidth",
    "allow",
    "deny",
    "tag_ttl",
    "immutable_tags",
    "stale_while",
    "stale_max",
    "negative_ttl",
    "offline",
    "complete",
    "complete_percent",
    "platforms",
];

/// What the tables say, all together.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// One for each table, in their order.
    pub settings: Vec<UpstreamSettings>,
    /// The same by name, in the same order.
    pub namespaces: Namespaces,
    /// What is printed of each.
    pub effective: Vec<Vec<Effective>>,
}

/// Where the names of an upstream stand.
struct Names {
    ns: Origin,
    prefix: Origin,
    mirror: Option<Origin>,
}

/// Reads all of them. `names` are the registry's own, and `local_only` what is not asked for there.
pub fn read(reading: &mut Reading, names: &[Ns], local_only: &[Glob]) -> Upstreams {
    let sections = reading.upstreams(&KEYS);
    let mut all = Upstreams::default();
    let mut places: Vec<Names> = Vec::new();
    for (number, section) in sections.iter().enumerate() {
        if number == UPSTREAMS {
            reading.mistakes.push(Mistake::Wrong {
                at: section.at.clone(),
                key: UPSTREAM.to_owned(),
                found: "one more than can be".to_owned(),
                expected: "at most 256 of them",
            });
            break;
        }
        let (settings, names, effective) = one(section, reading);
        all.effective.push(effective);
        if let Some(settings) = settings
            && add(&mut all.namespaces, &settings, &names, &places, reading)
        {
            places.push(names);
            all.settings.push(settings);
        }
    }
    sense::of_all(reading, &all.settings, &places);
    for own in names {
        if all.namespaces.of_ns(&own.0).is_some() {
            reading.mistakes.push(Mistake::Refused {
                at: reading.origin("names"),
                key: "names".to_owned(),
                why: format!(
                    "{} is the ns of an [[upstream]]: it can't be this registry's own name",
                    own.literal()
                ),
            });
        }
        all.namespaces.add_own(&own.0);
    }
    sense::of_local_only(reading, &all.settings, &all.namespaces, local_only);
    all
}

/// One table. No settings: it can't be said what it should be.
fn one(section: &Section, reading: &mut Reading) -> (Option<UpstreamSettings>, Names, Vec<Effective>) {
    let mistakes_before = reading.mistakes.len();
    let mut read = SectionReading::new(UPSTREAM, section, reading);
    let ns = read.required::<Ns>("ns");
    let url = read.required::<Url>("url");
    let prefix = prefix(&mut read, ns.as_ref());
    let names = Names {
        ns: read.place("ns"),
        prefix: read.place(if read.has("prefix") { "prefix" } else { "ns" }),
        mirror: read.optional::<Role>("mirror").map(|Role::Root| read.place("mirror")),
    };
    let ns = ns.map_or_else(String::new, |ns| ns.0);
    let plain = url.as_ref().is_some_and(Url::is_plain);
    let default = UpstreamSettings::new(ns, url.map_or_else(String::new, |url| url.0));
    let credentials = credentials::credentials(&mut read);
    let settings = UpstreamSettings {
        prefix,
        is_root: names.mirror.is_some(),
        credentials,
        spend_all_budgets: read.setting("spend_all_budgets", default.spend_all_budgets),
        realms: read.list("realms").into_iter().map(|Host(host)| host).collect(),
        allow_private_addresses: allow_private(&mut read, plain),
        ca_pem: ca(&mut read),
        client_certificate: client_certificate(&mut read),
        proxy: credentials::proxy(&mut read),
        proxy_hosts: read.list("proxy_hosts").into_iter().map(|HostPattern(host)| host).collect(),
        timeouts: timeouts(&mut read),
        breaker_failures: read.setting("breaker_failures", Failures(default.breaker_failures)).0,
        connections_max: read.setting("connections", Connections(default.connections_max)).0,
        bytes_per_second_max: read.optional("bandwidth").map(|Rate(rate)| rate),
        policy: policy(&mut read),
        ..default
    };
    sense::of_one(&mut read, &settings, adds_library(&settings.ns));
    let effective = read.finish();
    if reading.mistakes.len() > mistakes_before {
        return (None, names, effective);
    }
    (probed(settings, section, reading), names, effective)
}

/// Only the client can tell whether certificates and keys are any. Nobody else is asked: a machine that trusts no
/// certificates at all has a configuration all the same.
fn probed(settings: UpstreamSettings, section: &Section, reading: &mut Reading) -> Option<UpstreamSettings> {
    if settings.ca_pem.is_none() && settings.client_certificate.is_none() {
        return Some(settings);
    }
    let error = match Upstream::new(settings.clone()) {
        Ok(_upstream) => return Some(settings),
        Err(error) => error,
    };
    let key = if error.field == "ca_pem" { "ca_file" } else { error.field };
    SectionReading::new(UPSTREAM, section, reading).refused(key, error.why);
    None
}

/// By default `ns`, where it can be one.
fn prefix(read: &mut SectionReading<'_>, ns: Option<&Ns>) -> String {
    if let Some(Prefix(prefix)) = read.optional("prefix") {
        return prefix;
    }
    match ns {
        Some(Ns(ns)) if !read.has("prefix") && value::is_prefix(ns) => {
            read.says("prefix", Prefix(ns.clone()).literal(), Origin::Default);
            ns.clone()
        }
        Some(Ns(ns)) if !read.has("prefix") => {
            let found = format!("nothing, and the ns \"{ns}\" can't be one");
            read.wrong("prefix", found, Prefix::EXPECTED);
            String::new()
        }
        Some(_) | None => String::new(),
    }
}

/// Adds it to the names that there are. `false`: one of its names is taken, and that was told.
fn add(
    namespaces: &mut Namespaces,
    settings: &UpstreamSettings,
    names: &Names,
    before: &[Names],
    reading: &mut Reading,
) -> bool {
    let mut twice = |key: &str, at: &Origin, found: &str, first: Option<&Origin>| {
        reading.mistakes.push(Mistake::Twice {
            at: at.clone(),
            key: format!("{UPSTREAM}.{key}"),
            found: format!("\"{found}\""),
            first: first.cloned().unwrap_or(Origin::Default),
        });
        false
    };
    let position = |taken: Option<&Namespace>| {
        let taken = taken?;
        before.get(namespaces.iter().position(|namespace| namespace == taken)?)
    };
    if let Some(root) = &names.mirror
        && let Some(first) = before.iter().find_map(|names| names.mirror.as_ref())
    {
        return twice("mirror", root, "root", Some(first));
    }
    let named = |ns: &str, prefix: &str, adds_library| Namespace {
        ns: ns.into(),
        prefix: prefix.into(),
        adds_library,
    };
    let adds_library = adds_library(&settings.ns);
    let (ns, prefix) = (&*settings.ns, &*settings.prefix);
    let taken_ns = position(namespaces.of_ns(ns)).map(|names| names.ns.clone());
    let taken_prefix = position(namespaces.of_prefix(prefix)).map(|names| names.prefix.clone());
    match namespaces.add(named(ns, prefix, adds_library)) {
        Ok(()) => true,
        Err(NamespaceError::NsTaken) => twice("ns", &names.ns, ns, taken_ns.as_ref()),
        Err(NamespaceError::PrefixTaken) => twice("prefix", &names.prefix, prefix, taken_prefix.as_ref()),
        // The value was read as one.
        Err(NamespaceError::Prefix) => twice("prefix", &names.prefix, prefix, None),
    }
}

/// Whether it is Docker Hub, by any of its names.
fn adds_library(ns: &str) -> bool {
    let mut hub = Namespaces::default();
    let named = Namespace { ns: DOCKER_HUB.into(), prefix: DOCKER_HUB.into(), adds_library: true };
    hub.add(named).is_ok() && hub.of_ns(ns).is_some()
}

/// Where a repository of one component is meant to be in `library/`.
pub const DOCKER_HUB: &str = "docker.io";

fn allow_private(read: &mut SectionReading<'_>, plain: bool) -> AllowPrivate {
    const KEY: &str = "allow_private_addresses";
    let is_list = matches!(read.entry(KEY), Some(entry) if matches!(entry.value, Written::List { .. }));
    let allowed = if is_list {
        let networks: Vec<Cidr> = read.list(KEY);
        match networks.iter().filter_map(|Cidr(network)| Network::parse(network)).collect::<Vec<_>>() {
            networks if networks.is_empty() => AllowPrivate::No,
            networks => AllowPrivate::Networks(networks),
        }
    } else {
        match read.setting(KEY, Private(false)) {
            Private(true) => AllowPrivate::All,
            Private(false) => AllowPrivate::No,
        }
    };
    if plain && !allowed.allows_some() {
        read.refused(
            "url",
            "http:// sends everything, credentials too, as it is; write https://, or allow_private_addresses for an \
             upstream inside your own network"
                .to_owned(),
        );
    }
    allowed
}

fn ca(read: &mut SectionReading<'_>) -> Option<Vec<u8>> {
    let path: PathBuf = read.optional("ca_file")?;
    files::certificates(&path)
        .map_err(|why| read.refused("ca_file", format!("{}: {why}", path.display())))
        .ok()
}

fn client_certificate(read: &mut SectionReading<'_>) -> Option<ClientCertificate> {
    let [chain, key] = ["client_certificate", "client_key"];
    let (chain_path, key_path) = (read.optional::<PathBuf>(chain), read.optional::<PathBuf>(key));
    for (this, other) in [(chain, key), (key, chain)] {
        if read.has(this) && !read.has(other) {
            read.refused(this, format!("there is no `{other}` beside it"));
        }
    }
    let (chain_path, key_path) = (chain_path?, key_path?);
    let chain_pem = files::certificates(&chain_path)
        .map_err(|why| read.refused(chain, format!("{}: {why}", chain_path.display())));
    let key_pem =
        files::key(&key_path).map_err(|why| read.refused(key, format!("{}: {why}", key_path.display())));
    let (chain_pem, (key_pem, warning)) = (chain_pem.ok()?, key_pem.ok()?);
    read.reading.warnings.extend(warning);
    Some(ClientCertificate { chain_pem, key_pem })
}

fn timeouts(read: &mut SectionReading<'_>) -> Timeouts {
    const KEY: &str = "timeouts";
    let default = Timeouts::default();
    let budget_wait = read.setting("budget_wait", OrZero(default.budget_wait)).0;
    let nothing;
    let section = match read.entry(KEY) {
        Some(entry) => match &entry.value {
            Written::Section { section, .. } => section,
            other => {
                read.wrong(KEY, other.found(), "a table, such as { connect = \"5s\", stall = \"30s\" }");
                return default;
            }
        },
        None => {
            nothing = Section { at: read.at().clone(), entries: Vec::new() };
            &nothing
        }
    };
    let mut within = read.below("timeouts.", section);
    let timeouts = Timeouts {
        connect: within.setting("timeouts.connect", default.connect),
        first_byte: within.setting("timeouts.first_byte", default.first_byte),
        stall: within.setting("timeouts.stall", default.stall),
        body_rate_min_bytes: within
            .setting("timeouts.body_rate_min_bytes", Bytes(default.body_rate_min_bytes))
            .0,
        body_rate_grace: within.setting("timeouts.body_rate_grace", default.body_rate_grace),
        document: within.setting("timeouts.document", default.document),
        token: within.setting("timeouts.token", default.token),
        refused: within.setting("timeouts.refused", default.refused),
        breaker: within.setting("timeouts.breaker", default.breaker),
        rejected: within.setting("timeouts.rejected", default.rejected),
        budget_wait,
    };
    let effective = within.finish();
    read.effective.extend(effective);
    timeouts
}

fn policy(read: &mut SectionReading<'_>) -> Policy {
    let default = Policy::default();
    let stale_max = read.setting("stale_max", OrZero(default.stale_max)).0;
    Policy {
        allow: patterns(read, "allow"),
        deny: patterns(read, "deny"),
        tag_ttl: read.setting("tag_ttl", OrZero(default.tag_ttl)).0,
        immutable_tags: patterns(read, "immutable_tags"),
        stale_while: read.setting("stale_while", OrZero(default.stale_while.min(stale_max))).0,
        stale_max,
        negative_ttl: read.setting("negative_ttl", OrZero(default.negative_ttl)).0,
        offline: read.setting("offline", default.offline),
        complete: complete(read, default.complete),
        platforms: platforms(read),
    }
}

fn patterns(read: &mut SectionReading<'_>, key: &'static str) -> Vec<String> {
    read.list::<Glob>(key).iter().map(|pattern| pattern.as_str().to_owned()).collect()
}

/// Each once: two that mean the same would be fetched once all the same.
fn platforms(read: &mut SectionReading<'_>) -> Vec<Platform> {
    let platforms: Vec<PlatformName> = read.list("platforms");
    if platforms.len() > limits::WARM_PLATFORMS {
        read.refused("platforms", format!("at most {} can be fetched ahead", limits::WARM_PLATFORMS));
    }
    platforms.iter().filter_map(|PlatformName(text)| Platform::parse(text)).collect()
}

fn complete(read: &mut SectionReading<'_>, default: Complete) -> Complete {
    let (when, percent) = match default {
        Complete::Always => (Completion::Always, 1),
        Complete::IfTouchedOver(percent) => (Completion::IfTouchedOver, percent),
        Complete::Never => (Completion::Never, 1),
    };
    let when = read.setting("complete", when);
    if when == Completion::IfTouchedOver {
        return Complete::IfTouchedOver(read.setting("complete_percent", Percent(percent)).0);
    }
    if read.optional::<Percent>("complete_percent").is_some() {
        read.refused(
            "complete_percent",
            "it says something only with complete = \"if_touched_over\"".to_owned(),
        );
    }
    match when {
        Completion::Never => Complete::Never,
        Completion::Always | Completion::IfTouchedOver => Complete::Always,
    }
}

/// Failures in a row, ≥ 1.
#[derive(Clone, Copy)]
struct Failures(u32);

impl Value for Failures {
    const EXPECTED: &'static str = <std::num::NonZeroU32 as Value>::EXPECTED;

    fn read(written: &Written) -> Option<Self> {
        std::num::NonZeroU32::read(written).map(|failures| Failures(failures.get()))
    }

    fn literal(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests;
