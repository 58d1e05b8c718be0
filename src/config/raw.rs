//! Where settings are written: the file, the environment, the arguments; gathered, not yet understood.

use std::{
    borrow::Cow,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    mistake::{Mistake, Origin},
    value::Written,
};

/// Everything that was written down for one start.
#[derive(Clone, Debug, Default)]
pub struct RawConfig {
    /// The keys of the file, dotted (`limits.header_timeout`), in no order.
    pub file: Vec<Entry>,
    /// The tables that the file opens, dotted, and whatever else has no value.
    pub tables: Vec<(String, Origin)>,
    /// The `[[upstream]]` tables of the file, in their order.
    pub upstreams: Vec<Section>,
    /// The variables that begin with `GANTRY_` and are not empty.
    pub environment: Vec<(String, String)>,
    /// (key, value) of each argument that was given.
    pub arguments: Vec<(&'static str, String)>,
}

/// One key of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Dotted.
    pub key: String,
    /// Its line.
    pub at: Origin,
    /// Its value.
    pub value: Written,
}

/// One table of those that may be written more than once, or below such a one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Where it begins.
    pub at: Origin,
    /// Its keys; a table below it is the value of its key.
    pub entries: Vec<Entry>,
}

impl RawConfig {
    /// Takes the keys of the file at `path`, which replaces what was here of a file.
    ///
    /// Errors: the file can't be read, or is not TOML.
    pub fn read_file(&mut self, path: &Path) -> Result<(), Mistake> {
        let text = fs::read_to_string(path)
            .map_err(|source| Mistake::Unreadable { path: path.to_owned(), why: source.to_string() })?;
        self.read_text(path, &text)
    }

    /// The same from `text`; `path` is only named in messages.
    pub fn read_text(&mut self, path: &Path, text: &str) -> Result<(), Mistake> {
        let document = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Mistake::Syntax {
                at: Place { path, text }.origin(offset),
                why: error.message().replace('\n', "; "),
            }
        })?;
        self.file.clear();
        self.tables.clear();
        self.upstreams.clear();
        self.take_table("", document.get_ref(), &Place { path, text });
        Ok(())
    }

    fn take_table(&mut self, prefix: &str, table: &DeTable<'_>, place: &Place<'_>) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let at = place.origin(name.span().start);
            match (value.get_ref(), place.written(value)) {
                (DeValue::Table(inner), _) if key != UPSTREAM => {
                    self.take_table(&format!("{key}."), inner, place);
                    self.tables.push((key, at));
                }
                (_, Written::Sections { sections, .. }) if key == UPSTREAM => self.upstreams = sections,
                (_, value) => self.file.push(Entry { key, at, value }),
            }
        }
    }

    /// Takes the variables of ours. An empty one is taken for one that is not set, as files for
    /// containers leave them behind.
    ///
    /// Errors: one of ours is not UTF-8.
    pub fn read_environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), Mistake> {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with("GANTRY_")) else { continue };
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => self.environment.push((name.to_owned(), value)),
                Err(value) => {
                    return Err(Mistake::Wrong {
                        at: Origin::Variable(name.to_owned()),
                        key: String::new(),
                        found: format!("{value:?}"),
                        expected: "UTF-8",
                    });
                }
            }
        }
        Ok(())
    }

    /// Value of a variable of ours.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The table that may be written more than once.
pub const UPSTREAM: &str = "upstream";

/// A file.
pub(super) struct Place<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl Place<'_> {
    /// What stands at `value`.
    pub fn written(&self, value: &Spanned<DeValue<'_>>) -> Written {
        let literal = || self.text[value.span()].to_owned();
        match value.get_ref() {
            DeValue::String(string) => Written::Text(string.clone().into_owned()),
            DeValue::Boolean(on) => Written::Switch(*on),
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_too_big| Written::Other(literal()), Written::Number),
            DeValue::Float(_) | DeValue::Datetime(_) => Written::Other(literal()),
            DeValue::Table(table) => {
                let at = self.origin(value.span().start);
                Written::Section { literal: literal(), section: self.section(at, table) }
            }
            DeValue::Array(items) => {
                let tables: Vec<(Origin, &DeTable<'_>)> = items
                    .iter()
                    .filter_map(|item| Some((self.origin(item.span().start), item.get_ref().as_table()?)))
                    .collect();
                if tables.len() == items.len() && !items.is_empty() {
                    let sections = tables.into_iter().map(|(at, table)| self.section(at, table)).collect();
                    return Written::Sections { literal: literal(), sections };
                }
                let items = items.iter().map(|item| (self.origin(item.span().start), self.written(item)));
                Written::List { literal: literal(), items: items.collect() }
            }
        }
    }

    fn section(&self, at: Origin, table: &DeTable<'_>) -> Section {
        let entry = |(name, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| Entry {
            key: name.get_ref().to_string(),
            at: self.origin(name.span().start),
            value: self.written(value),
        };
        let mut written: Vec<_> = table.iter().collect();
        written.sort_by_key(|(name, _)| name.span().start);
        let entries = written.into_iter().map(entry).collect();
        Section { at, entries }
    }

    fn origin(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Origin::Line { path: PathBuf::from(self.path), line }
    }
}
