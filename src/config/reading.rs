//! One pass over what was written: each setting is asked for once, by its key, and what nobody asked for
//! is a mistake.
//!
//! Owns: the precedence (argument, variable, file, default) and the names a key has in each place.
//! Invariant: a wrong value is a mistake even where another place overrides it.

use super::{
    mistake::{Mistake, Origin},
    nearest::nearest,
    raw::{Entry, RawConfig},
    value::{Value, Written},
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
    mistakes: Vec<Mistake>,
}

impl Reading {
    pub fn new(raw: RawConfig) -> Reading {
        Reading { raw, effective: Vec::new(), mistakes: Vec::new() }
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
                    found: written.found(),
                    expected: T::EXPECTED,
                }),
            }
        }
        self.effective.push(Effective { key, literal: value.literal(), origin });
        value
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
        let warnings = self.suspicious_variables();
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
                    known: self.tables().iter().map(|table| format!("[{table}]")).collect(),
                }
            });
        }
        for Entry { key, at, value } in &self.raw.file {
            let known = self.effective.iter().any(|setting| setting.key == key);
            if known || closed.iter().any(|outer| key.starts_with(outer.as_str())) {
                continue;
            }
            unknown.push(if self.is_table(key) {
                Mistake::Wrong { at: at.clone(), key: key.clone(), found: value.found(), expected: "a table" }
            } else {
                Mistake::Unknown {
                    at: at.clone(),
                    what: "key",
                    name: key.clone(),
                    nearest: self.meant(key),
                    known: self.siblings(key).into_iter().map(|key| last(key).to_owned()).collect(),
                }
            });
        }
        self.mistakes.extend(unknown);
    }

    /// A key by that name in another table, else the nearest in the same, else the nearest anywhere.
    fn meant(&self, key: &str) -> Option<String> {
        let word = last(key);
        let all: Vec<&'static str> = self.effective.iter().map(|setting| setting.key).collect();
        let near = |keys: &[&'static str]| {
            let found = nearest(word, keys.iter().copied().map(last))?;
            keys.iter().copied().find(|key| last(key) == found)
        };
        all.iter()
            .copied()
            .find(|known| last(known) == word)
            .or_else(|| near(&self.siblings(key)))
            .or_else(|| near(&all))
            .map(str::to_owned)
    }

    fn siblings(&self, key: &str) -> Vec<&'static str> {
        self.effective.iter().map(|setting| setting.key).filter(|known| table(known) == table(key)).collect()
    }

    fn tables(&self) -> Vec<&'static str> {
        let mut tables: Vec<&'static str> =
            self.effective.iter().filter_map(|setting| table(setting.key)).collect();
        tables.dedup();
        tables
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
