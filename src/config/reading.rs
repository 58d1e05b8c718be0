//! One pass over what was written: each setting is asked for once, by its key, and what nobody asked for
//! is a mistake.
//!
//! Owns: the precedence (argument, variable, file, default) and the names a key has in each place.
//! Invariant: a wrong value is a mistake even where another place overrides it.

use super::{
    mistake::{Mistake, Origin},
    nearest::nearest,
    raw::{Entry, RawConfig, Section, UPSTREAM},
    value::{Item, Value, Written, items, list_literal},
};

/// The variable of a key: `limits.header_timeout` → `GANTRY_LIMITS_HEADER_TIMEOUT`.
pub fn variable(key: &str) -> String {
    format!("GANTRY_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// The argument of a key at the top level: `log_format` → `--log-format`.
pub fn argument(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// A setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Dotted.
    pub key: &'static str,
    /// Its value in TOML.
    pub literal: String,
    /// Who set it.
    pub origin: Origin,
}

/// The pass.
pub(super) struct Reading {
    raw: RawConfig,
    effective: Vec<Effective>,
    /// The keys that an `[[upstream]]` can have, dotted, `upstream.` before them.
    below_upstream: Vec<String>,
    /// Keys of sections that nobody asked for, by their whole names.
    strangers: Vec<(Origin, String)>,
    pub mistakes: Vec<Mistake>,
    pub warnings: Vec<String>,
}

impl Reading {
    pub fn new(raw: RawConfig) -> Reading {
        Reading {
            raw,
            effective: Vec::new(),
            below_upstream: Vec::new(),
            strangers: Vec::new(),
            mistakes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The `[[upstream]]` tables, of which each key in `keys` is known.
    pub fn upstreams(&mut self, keys: &[&str]) -> Vec<Section> {
        self.below_upstream = keys.iter().map(|key| format!("{UPSTREAM}.{key}")).collect();
        std::mem::take(&mut self.raw.upstreams)
    }

    /// Whether this key of an `[[upstream]]`, or one below it, is known.
    pub fn can_suggest(&self, key: &str) -> bool {
        let below = |known: &str| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        self.below_upstream.iter().any(|known| known == key || below(known))
    }

    /// A key of a section that nobody asked for, by its whole name.
    pub fn stranger(&mut self, at: Origin, name: String) {
        self.strangers.push((at, name));
    }

    /// The value of `key`, from the highest place that has one.
    pub fn setting<T: Value>(&mut self, key: &'static str, default: T) -> T {
        let (mut value, mut origin) = (default, Origin::Default);
        for (at, written) in self.places(key) {
            match T::read(&written) {
                Some(read) => (value, origin) = (read, at),
                None => self.mistakes.push(Mistake::Wrong {
                    at,
                    key: key.to_owned(),
                    found: T::found(&written),
                    expected: T::EXPECTED,
                }),
            }
        }
        self.effective.push(Effective { key, literal: value.literal(), origin });
        value
    }

    /// The items of `key`, from the highest place that has any; none by default.
    pub fn list<T: Item>(&mut self, key: &'static str) -> Vec<T> {
        let (mut list, mut origin) = (Vec::new(), Origin::Default);
        for (at, written) in self.places(key) {
            list = read_list(key, &at, &written, &mut self.mistakes);
            origin = at;
        }
        self.effective.push(Effective { key, literal: list_literal(&list), origin });
        list
    }

    /// Where a setting was set.
    pub fn origin(&self, key: &str) -> Origin {
        let set = self.effective.iter().find(|setting| setting.key == key);
        set.map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Where `key` is written, the lowest place first.
    fn places(&self, key: &'static str) -> Vec<(Origin, Written)> {
        let name = variable(key);
        let file = self.raw.file.iter().filter(|entry| entry.key == key);
        let environment = self.raw.variable(&name).map(|value| (Origin::Variable(name.clone()), value));
        let arguments = self.raw.arguments.iter().filter(|(known, _)| *known == key);
        file.map(|entry| (entry.at.clone(), entry.value.clone()))
            .chain(environment.map(|(at, value)| (at, Written::Text(value.to_owned()))))
            .chain(
                arguments.map(|(key, value)| (Origin::Argument(argument(key)), Written::Text(value.clone()))),
            )
            .collect()
    }

    /// What is in force, and what an operator should hear of although it does no harm; or all mistakes.
    pub fn finish(mut self) -> Result<(Vec<Effective>, Vec<String>), Vec<Mistake>> {
        self.find_unknown();
        if !self.mistakes.is_empty() {
            self.mistakes.sort_by_key(Mistake::line);
            return Err(self.mistakes);
        }
        let mut warnings = self.suspicious_variables();
        warnings.append(&mut self.warnings);
        Ok((self.effective, warnings))
    }

    fn find_unknown(&mut self) {
        let mut unknown = Vec::new();
        let mut closed: Vec<String> = Vec::new();
        let mut tables: Vec<&(String, Origin)> = self.raw.tables.iter().collect();
        tables.sort_by_key(|(name, _)| name.len());
        for (name, at) in tables {
            if closed.iter().any(|outer| name.starts_with(outer.as_str())) || self.is_table(name) {
                continue;
            }
            closed.push(format!("{name}."));
            let setting = self.effective.iter().any(|setting| setting.key == name);
            unknown.push(if setting {
                Mistake::Wrong {
                    at: at.clone(),
                    key: name.clone(),
                    found: "a table".to_owned(),
                    expected: "one value",
                }
            } else {
                Mistake::Unknown {
                    at: at.clone(),
                    what: "table",
                    name: name.clone(),
                    nearest: nearest(name, self.tables()).map(str::to_owned),
                    known: self.known_tables(),
                }
            });
        }
        for Entry { key, at, value } in &self.raw.file {
            let known = self.effective.iter().any(|setting| setting.key == key);
            if known || closed.iter().any(|outer| key.starts_with(outer.as_str())) {
                continue;
            }
            let wrong = |expected| Mistake::Wrong {
                at: at.clone(),
                key: key.clone(),
                found: value.found(),
                expected,
            };
            unknown.push(match value {
                _ if key == UPSTREAM => wrong("[[upstream]], with two brackets, before each of them"),
                _ if self.is_table(key) => wrong("a table"),
                Written::Sections { .. } => Mistake::Unknown {
                    at: at.clone(),
                    what: "table",
                    name: key.clone(),
                    nearest: nearest(key, self.tables()).map(str::to_owned),
                    known: self.known_tables(),
                },
                _ => self.unknown_key(at, key),
            });
        }
        unknown.extend(self.strangers.iter().map(|(at, name)| self.unknown_key(at, name)));
        self.mistakes.extend(unknown);
    }

    fn unknown_key(&self, at: &Origin, name: &str) -> Mistake {
        Mistake::Unknown {
            at: at.clone(),
            what: "key",
            name: name.to_owned(),
            nearest: self.meant(name),
            known: self.siblings(name).into_iter().map(|key| last(key).to_owned()).collect(),
        }
    }

    /// A key by that name in another table, else the nearest in the same, else the nearest anywhere.
    fn meant(&self, key: &str) -> Option<String> {
        let word = last(key);
        let all = self.keys();
        let near = |keys: &[&str]| {
            let found = nearest(word, keys.iter().copied().map(last))?;
            keys.iter().find(|key| last(key) == found).map(|key| (*key).to_owned())
        };
        all.iter()
            .find(|known| last(known) == word)
            .map(|known| (*known).to_owned())
            .or_else(|| near(&self.siblings(key)))
            .or_else(|| near(&all))
    }

    fn keys(&self) -> Vec<&str> {
        let settings = self.effective.iter().map(|setting| setting.key);
        settings.chain(self.below_upstream.iter().map(String::as_str)).collect()
    }

    fn siblings(&self, key: &str) -> Vec<&str> {
        self.keys().into_iter().filter(|known| table(known) == table(key)).collect()
    }

    /// The tables that hold settings, and `upstream`.
    fn tables(&self) -> Vec<&'static str> {
        let mut tables: Vec<&'static str> =
            self.effective.iter().filter_map(|setting| table(setting.key)).collect();
        tables.dedup();
        tables.push(UPSTREAM);
        tables
    }

    fn known_tables(&self) -> Vec<String> {
        let brackets = |table| if table == UPSTREAM { format!("[[{table}]]") } else { format!("[{table}]") };
        self.tables().into_iter().map(brackets).collect()
    }

    fn is_table(&self, name: &str) -> bool {
        self.tables().contains(&name)
    }

    /// Variables that look like ours and are not. Others may begin with our name too (an orchestrator's
    /// service addresses, scripts): those are left alone.
    fn suspicious_variables(&self) -> Vec<String> {
        let known: Vec<String> = self
            .effective
            .iter()
            .map(|setting| variable(setting.key))
            .chain([super::CONFIG_VARIABLE.to_owned()])
            .collect();
        let words: Vec<&str> = known.iter().map(|name| bare(name)).collect();
        let mut warnings = Vec::new();
        for (name, _) in self.raw.environment.iter().filter(|(name, _)| !known.contains(name)) {
            let in_table =
                self.tables().iter().any(|table| name.starts_with(&format!("{}_", variable(table))));
            match nearest(bare(name), words.iter().copied()) {
                Some(word) => warnings.push(format!("{name} is not a setting; did you mean GANTRY_{word}?")),
                None if in_table => warnings.push(format!("{name} is not a setting")),
                None => {}
            }
        }
        warnings
    }
}

/// The items of a list; what is wrong with one goes to `mistakes`.
pub(super) fn read_list<T: Item>(
    key: &str,
    at: &Origin,
    written: &Written,
    mistakes: &mut Vec<Mistake>,
) -> Vec<T> {
    let mut wrong = |at: &Origin, found: String, expected| {
        mistakes.push(Mistake::Wrong { at: at.clone(), key: key.to_owned(), found, expected });
    };
    let Some(items) = items(at, written) else {
        wrong(at, T::found(written), T::EXPECTED_LIST);
        return Vec::new();
    };
    let mut list = Vec::new();
    for (at, item) in &items {
        match T::read(item) {
            Some(value) => list.push(value),
            None => wrong(at, T::found(item), T::EXPECTED),
        }
    }
    list
}

/// `limits.header_timeout` → `header_timeout`.
fn last(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}

/// `limits.header_timeout` → `limits`; `None` at the top level.
fn table(key: &str) -> Option<&str> {
    key.rsplit_once('.').map(|(table, _)| table)
}

/// `GANTRY_LOG` → `LOG`.
fn bare(variable: &str) -> &str {
    variable.strip_prefix("GANTRY_").unwrap_or(variable)
}
