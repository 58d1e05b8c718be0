//! One pass over a table that may be written more than once: like `Reading`, but the file is its only place.

use super::{
    mistake::{Mistake, Origin},
    raw::{Entry, Section},
    reading::{Effective, Reading, read_list},
    value::{Item, Value, list_literal},
};

/// The pass over one section. Keys are given as they stand below `name`; those of a section within have its name
/// before them (`timeouts.connect`).
pub(super) struct SectionReading<'a> {
    /// Of the outermost table.
    name: &'static str,
    /// What of a key is the way to this section: empty, or `timeouts.`.
    within: &'static str,
    section: &'a Section,
    asked: Vec<&'static str>,
    pub effective: Vec<Effective>,
    pub reading: &'a mut Reading,
}

impl<'a> SectionReading<'a> {
    pub fn new(name: &'static str, section: &'a Section, reading: &'a mut Reading) -> SectionReading<'a> {
        SectionReading { name, within: "", section, asked: Vec::new(), effective: Vec::new(), reading }
    }

    /// The pass over a section within this one: `within` is its key and a dot.
    pub fn below<'b>(&'b mut self, within: &'static str, section: &'b Section) -> SectionReading<'b> {
        SectionReading {
            name: self.name,
            within,
            section,
            asked: Vec::new(),
            effective: Vec::new(),
            reading: self.reading,
        }
    }

    /// Where the section begins.
    pub fn at(&self) -> &'a Origin {
        &self.section.at
    }

    /// The whole name of a key.
    pub fn whole(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// What stands at `key`, if anything.
    pub fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        debug_assert!(self.reading.can_suggest(&self.whole(key)), "{key} is among the known keys");
        self.asked.push(key);
        let last = key.strip_prefix(self.within).unwrap_or(key);
        self.section.entries.iter().find(|entry| entry.key == last)
    }

    /// The place of `key`, or of the section if it is not there.
    pub fn place(&self, key: &str) -> Origin {
        let last = key.strip_prefix(self.within).unwrap_or(key);
        let entry = self.section.entries.iter().find(|entry| entry.key == last);
        entry.map_or(&self.section.at, |entry| &entry.at).clone()
    }

    /// The value of `key`. `None`: it is not there, or is wrong.
    pub fn optional<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let entry = self.entry(key)?;
        let value = T::read(&entry.value);
        match &value {
            Some(value) => self.says(key, value.literal(), entry.at.clone()),
            None => self.wrong(key, T::found(&entry.value), T::EXPECTED),
        }
        value
    }

    /// The value of `key`; it is a mistake if there is none.
    pub fn required<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let value = self.optional(key);
        if value.is_none() && !self.has(key) {
            self.wrong(key, "nothing".to_owned(), T::EXPECTED);
        }
        value
    }

    /// The value of `key`, or the default.
    pub fn setting<T: Value>(&mut self, key: &'static str, default: T) -> T {
        if let Some(value) = self.optional(key) {
            return value;
        }
        self.says(key, default.literal(), Origin::Default);
        default
    }

    /// The items of `key`; none by default.
    pub fn list<T: Item>(&mut self, key: &'static str) -> Vec<T> {
        let Some(entry) = self.entry(key) else {
            self.says(key, "[]".to_owned(), Origin::Default);
            return Vec::new();
        };
        let name = self.whole(key);
        let list = read_list(&name, &entry.at, &entry.value, &mut self.reading.mistakes);
        self.says(key, list_literal(&list), entry.at.clone());
        list
    }

    /// What `config print` shows of `key`.
    pub fn says(&mut self, key: &'static str, literal: String, origin: Origin) {
        self.effective.push(Effective { key, literal, origin });
    }

    /// The value of `key` is not what it should be.
    pub fn wrong(&mut self, key: &str, found: String, expected: &'static str) {
        let mistake = Mistake::Wrong { at: self.place(key), key: self.whole(key), found, expected };
        self.reading.mistakes.push(mistake);
    }

    /// The section itself is not what `key` should be.
    pub fn wrong_here(&mut self, key: &str, found: String, expected: &'static str) {
        let at = self.section.at.clone();
        self.reading.mistakes.push(Mistake::Wrong { at, key: self.whole(key), found, expected });
    }

    /// Whether `key` is there, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        let last = key.strip_prefix(self.within).unwrap_or(key);
        self.section.entries.iter().any(|entry| entry.key == last)
    }

    /// Whether there is a key that nobody has asked for yet.
    pub fn has_strangers(&self) -> bool {
        let asked = |entry: &Entry| self.asked.contains(&&*format!("{}{}", self.within, entry.key));
        !self.section.entries.iter().all(asked)
    }

    /// The keys that are there, for a message.
    pub fn keys(&self) -> String {
        match &self.section.entries[..] {
            [] => "nothing".to_owned(),
            entries => {
                let keys: Vec<String> = entries.iter().map(|entry| format!("`{}`", entry.key)).collect();
                keys.join(", ")
            }
        }
    }

    /// The value of `key` can't be used.
    pub fn refused(&mut self, key: &str, why: String) {
        let mistake = Mistake::Refused { at: self.place(key), key: self.whole(key), why };
        self.reading.mistakes.push(mistake);
    }

    /// What is printed of it. What nobody asked for is a mistake.
    pub fn finish(self) -> Vec<Effective> {
        for Entry { key, at, .. } in &self.section.entries {
            let key = format!("{}{key}", self.within);
            if !self.asked.contains(&&*key) {
                self.reading.stranger(at.clone(), format!("{}.{key}", self.name));
            }
        }
        self.effective
    }
}
