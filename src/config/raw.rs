//! Where settings are written: the file, the environment, the arguments; gathered, not yet understood.

use std::{
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
    /// The variables that begin with `GANTRY_` and are not empty.
    pub environment: Vec<(String, String)>,
    /// (key, value) of each argument that was given.
    pub arguments: Vec<(&'static str, String)>,
}

/// One key of the file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Dotted.
    pub key: String,
    /// Its line.
    pub at: Origin,
    /// Its value.
    pub value: Written,
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
            Mistake::Syntax { at: origin(path, text, offset), why: error.message().replace('\n', "; ") }
        })?;
        self.file.clear();
        self.tables.clear();
        self.take_table("", document.get_ref(), path, text);
        Ok(())
    }

    fn take_table(&mut self, prefix: &str, table: &DeTable<'_>, path: &Path, text: &str) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let at = origin(path, text, name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => {
                    self.take_table(&format!("{key}."), inner, path, text);
                    self.tables.push((key, at));
                }
                _ => self.file.push(Entry { key, at, value: written(value, text) }),
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

/// What stands at `value` of the file's `text`.
pub(super) fn written(value: &Spanned<DeValue<'_>>, text: &str) -> Written {
    let other = || Written::Other(text[value.span()].to_owned());
    match value.get_ref() {
        DeValue::String(string) => Written::Text(string.clone().into_owned()),
        DeValue::Boolean(on) => Written::Switch(*on),
        DeValue::Integer(number) => {
            u64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| other(), Written::Number)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => other(),
    }
}

fn origin(path: &Path, text: &str, offset: usize) -> Origin {
    let line = 1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count();
    Origin::Line { path: PathBuf::from(path), line }
}
