//! What is wrong with what an operator wrote, where it stands, and what he may have meant.

use std::{fmt, path::PathBuf};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody wrote one.
    Default,
    /// A line of the file, counted from 1.
    Line {
        /// The file, as it was named.
        path: PathBuf,
        /// Its line.
        line: usize,
    },
    /// A variable of the environment, by its whole name.
    Variable(String),
    /// An argument, with its dashes.
    Argument(String),
}

impl Origin {
    /// Orders places as they stand in the file; others come last.
    pub(super) fn line(&self) -> usize {
        match self {
            Origin::Line { line, .. } => *line,
            Origin::Default | Origin::Variable(_) | Origin::Argument(_) => usize::MAX,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Line { path, line } => write!(f, "{}:{line}", path.display().to_string().escape_debug()),
            Origin::Variable(name) | Origin::Argument(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The file can't be read.
    Unreadable {
        /// The file, as it was named.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The file is not TOML.
    Syntax {
        /// The line.
        at: Origin,
        /// The parser's words.
        why: String,
    },
    /// There is no such key or table.
    Unknown {
        /// The line.
        at: Origin,
        /// `"key"` or `"table"`.
        what: &'static str,
        /// Its name, dotted.
        name: String,
        /// What may have been meant, dotted.
        nearest: Option<String>,
        /// What could stand there.
        known: Vec<String>,
    },
    /// The value is not one that the key takes.
    Wrong {
        /// The line, variable or argument.
        at: Origin,
        /// The key, dotted; empty where `at` says it all.
        key: String,
        /// What stands there.
        found: String,
        /// What could.
        expected: &'static str,
    },
    /// Something that there can be one of is there for the second time.
    Twice {
        /// The line of the second.
        at: Origin,
        /// The key, dotted.
        key: String,
        /// What stands there.
        found: String,
        /// Where the first is.
        first: Origin,
    },
    /// The value is of the right form and can't be used all the same.
    Refused {
        /// The line.
        at: Origin,
        /// The key, dotted.
        key: String,
        /// Why not, without a word of what is secret.
        why: String,
    },
}

impl Mistake {
    /// Orders mistakes by where they stand in the file; others come last, in the order they were found.
    pub(super) fn line(&self) -> usize {
        match self {
            Mistake::Unreadable { .. } => 0,
            Mistake::Syntax { at, .. }
            | Mistake::Unknown { at, .. }
            | Mistake::Wrong { at, .. }
            | Mistake::Twice { at, .. }
            | Mistake::Refused { at, .. } => at.line(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mistake::Unreadable { path, why } => {
                write!(f, "{}: cannot be read: {why}", path.display().to_string().escape_debug())
            }
            Mistake::Syntax { at, why } => write!(f, "{at}: not valid TOML: {why}"),
            Mistake::Unknown { at, what, name, nearest, known } => {
                write!(f, "{at}: unknown {what} `{}`; ", name.escape_debug())?;
                match nearest {
                    Some(nearest) => write!(f, "did you mean `{nearest}`?"),
                    None => write!(f, "known here: {}", known.join(", ")),
                }
            }
            Mistake::Wrong { at, key, found, expected } => {
                write!(f, "{at}: ")?;
                if matches!(at, Origin::Line { .. }) {
                    write!(f, "`{key}`: ")?;
                }
                write!(f, "found {found}, expected {expected}")
            }
            Mistake::Twice { at, key, found, first } => {
                write!(f, "{at}: `{key}`: found {found}, which is taken by {first}, expected another one")
            }
            Mistake::Refused { at, key, why } => write!(f, "{at}: `{key}`: {why}"),
        }
    }
}

impl std::error::Error for Mistake {}
