//! A built-in peer on the command line: its name, and words after colons that say how it runs.

use super::Options;

/// A built-in peer's name on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// All of it.
    pub spec: String,
    /// Gantry's I/O driver.
    pub driver: Option<String>,
    /// An event in its log for each request.
    pub access_log: bool,
    /// The upstream to fetch from, without a slash at its end.
    pub proxy: Option<String>,
    /// That serve: 1 or more.
    pub threads: usize,
}

impl Words {
    /// The error is a sentence that names the word and those that there are.
    pub fn parse(spec: &str, options: &Options) -> Result<Words, String> {
        let threads = options.threads.or(options.cpus.as_ref().map(Vec::len)).unwrap_or(1).max(1);
        let mut words = Words {
            spec: spec.to_owned(),
            driver: None,
            access_log: options.access_log,
            proxy: None,
            threads,
        };
        let (mut name, mut rest) = spec.split_once(':').unwrap_or((spec, ""));
        let peer = name;
        while !rest.is_empty() {
            // A URL has colons of its own: it is the last word.
            (name, rest) = match rest.starts_with("proxy=") {
                true => (rest, ""),
                false => rest.split_once(':').unwrap_or((rest, "")),
            };
            let known = known_words(peer);
            let (key, value) = name.split_once('=').map_or((name, None), |(key, value)| (key, Some(value)));
            let not = || format!("`{name}` in {spec} is not understood: {peer} takes {}", known.join(", "));
            if !known.iter().any(|word| word.split('=').next() == Some(key)) {
                return Err(not());
            }
            match (key, value) {
                ("uring" | "epoll", None) => words.driver = Some(key.to_owned()),
                ("log", None) => words.access_log = true,
                ("nolog", None) => words.access_log = false,
                ("cores", Some(count)) => {
                    words.threads = count.parse().ok().filter(|count| *count > 0).ok_or_else(not)?;
                }
                ("proxy", Some(url)) => words.proxy = Some(upstream(url).ok_or_else(not)?),
                _ => return Err(not()),
            }
        }
        Ok(words)
    }

    /// The upstream's port is another one in each run: a table is easier to compare without.
    pub fn name_without_proxy(&self) -> String {
        self.spec.split_once("proxy=").map_or(self.spec.clone(), |(start, _)| format!("{start}proxy"))
    }
}

fn known_words(peer: &str) -> &'static [&'static str] {
    match peer {
        "gantry" => &["uring", "epoll", "log", "nolog", "cores=N", "proxy=http://HOST:PORT (as the last)"],
        "nginx" | "docker-registry" | "distribution" => {
            &["log", "nolog", "cores=N", "proxy=http://HOST:PORT (as the last)"]
        }
        _ => &["cores=N"],
    }
}

/// Plain HTTP, and nothing that could end a line of a configuration file.
fn upstream(url: &str) -> Option<String> {
    let host = url.strip_prefix("http://")?.trim_end_matches('/');
    let plain = host.chars().all(|c| c.is_ascii_alphanumeric() || ".:-[]".contains(c));
    (plain && !host.is_empty()).then(|| format!("http://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_or_named() {
        let options = Options { cpus: Some(vec![0, 1]), ..Options::default() };
        let words = Words::parse("nginx:log:proxy=http://[::1]:80/", &options).unwrap();
        assert_eq!((words.access_log, words.proxy.as_deref()), (true, Some("http://[::1]:80")));
        assert_eq!((words.threads, words.name_without_proxy().as_str()), (2, "nginx:log:proxy"));
        assert_eq!(Words::parse("gantry:cores=7", &options).unwrap().threads, 7);
        for (spec, expect) in [
            ("gantry:fast", "`fast`"),
            ("gantry:cores=0", "`cores=0`"),
            ("gantry:log=1", "`log=1`"),
            ("gantry:proxy=a", "`proxy=a`"),
            ("nginx:uring", "`uring`"),
            ("nginx:proxy=http://a;b", "`proxy=http://a;b`"),
            ("docker-registry:proxy=https://a", "https"),
        ] {
            let why = Words::parse(spec, &options).unwrap_err();
            assert!(why.contains(expect), "{spec}: {why}");
        }
    }
}
