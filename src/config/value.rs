//! The values a setting can have: how each is written, and how it is printed so that it reads back.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use controlplane::MissingReferences;
use dataplane::IoChoice;
use tracing_subscriber::filter::LevelFilter;

use super::{mistake::Origin, raw::Section};

/// What stood in one place, before anybody asked what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// A string of the file, a variable or an argument.
    Text(String),
    /// A whole number of the file.
    Number(u64),
    /// `true` or `false` of the file.
    Switch(bool),
    /// A list of the file, each item with its place.
    List {
        /// As it stands there.
        literal: String,
        /// What is in it.
        items: Vec<(Origin, Written)>,
    },
    /// A table of the file, where a value may be one.
    Section {
        /// As it stands there; of a table with a header, the header.
        literal: String,
        /// What is in it.
        section: Section,
    },
    /// A list of the file that has nothing but tables, at least one.
    Sections {
        /// As it stands there; of tables with headers, the first header.
        literal: String,
        /// The tables.
        sections: Vec<Section>,
    },
    /// Anything else of the file, as it stands there: no setting takes it.
    Other(String),
}

impl Written {
    /// As an operator would recognise it in a message: one line, at most 80 characters. Of tables and lists only what they
    /// are, and of an address not who asks there: somebody may have written a password.
    pub fn found(&self) -> String {
        let whole = match self {
            Written::Text(text) => quoted(&without_user(text)),
            Written::Number(number) => number.to_string(),
            Written::Switch(on) => on.to_string(),
            // A header shows nothing of what is below it.
            Written::Section { literal, .. } if literal.starts_with('[') => literal.clone(),
            Written::Sections { literal, .. } if literal.starts_with("[[") => literal.clone(),
            Written::Section { .. } => "a table".to_owned(),
            Written::Sections { .. } => "a list of tables".to_owned(),
            Written::List { .. } => "a list".to_owned(),
            Written::Other(literal) => literal.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        match whole.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &whole[..end]),
            None => whole,
        }
    }
}

/// `https://user:password@host` as `https://***@host`.
fn without_user(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map(|(scheme, _)| scheme);
            let scheme = scheme.filter(|scheme| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            format!("{}***@{host}", scheme.map_or_else(String::new, |scheme| format!("{scheme}://")))
        }
        None => text.to_owned(),
    }
}

/// A type that a setting can have.
pub trait Value: Sized {
    /// Completes "expected …".
    const EXPECTED: &'static str;
    /// `None` if it is not one.
    fn read(written: &Written) -> Option<Self>;
    /// A TOML literal that [`Value::read`] takes for the same value.
    fn literal(&self) -> String;
    /// What a message shows of something that is not one.
    fn found(written: &Written) -> String {
        written.found()
    }
}

/// A type of which a setting can have several. A variable or an argument has them with commas between them, so none
/// holds a comma.
pub trait Item: Value {
    /// Completes "expected …" where something else than a list stands.
    const EXPECTED_LIST: &'static str;
}

/// The items of a list, each at its place. `None`: it is none.
pub fn items(at: &Origin, written: &Written) -> Option<Vec<(Origin, Written)>> {
    match written {
        Written::List { items, .. } => Some(items.clone()),
        Written::Text(text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(items.map(|item| (at.clone(), Written::Text(item.to_owned()))).collect())
        }
        Written::Number(_)
        | Written::Switch(_)
        | Written::Section { .. }
        | Written::Sections { .. }
        | Written::Other(_) => None,
    }
}

/// A list as TOML writes it.
pub fn list_literal<T: Value>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::literal).collect();
    format!("[{}]", items.join(", "))
}

/// `text` as a TOML basic string.
pub fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an IP address and a port, such as \"127.0.0.1:5000\" or \"[::1]:5000\"";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn literal(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Text(text) if !text.is_empty() && !text.contains('\0') => Some(Path::new(text).into()),
            _ => None,
        }
    }

    fn literal(&self) -> String {
        quoted(&self.display().to_string())
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "on or off (true and false do as well)";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Switch(on) => Some(*on),
            Written::Text(text) => match text.as_str() {
                "on" | "true" => Some(true),
                "off" | "false" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    fn literal(&self) -> String {
        self.to_string()
    }
}

/// A whole number; a variable or an argument has it as text.
pub fn number(written: &Written) -> Option<u64> {
    match written {
        Written::Number(number) => Some(*number),
        Written::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// How many cores serve, 1 to 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores(usize);

impl Cores {
    /// As many as this process may run on.
    pub fn available() -> Cores {
        Cores(std::thread::available_parallelism().map_or(1, |n| n.get().min(1024)))
    }

    /// 1 to 1024.
    pub fn get(self) -> usize {
        self.0
    }
}

impl Value for Cores {
    const EXPECTED: &'static str = "a whole number from 1 to 1024";

    fn read(written: &Written) -> Option<Self> {
        let cores = usize::try_from(number(written)?).ok()?;
        (1..=1024).contains(&cores).then_some(Cores(cores))
    }

    fn literal(&self) -> String {
        self.0.to_string()
    }
}

impl Value for NonZeroU32 {
    const EXPECTED: &'static str = "a whole number from 1 to 4294967295";

    fn read(written: &Written) -> Option<Self> {
        NonZeroU32::new(number(written)?.try_into().ok()?)
    }

    fn literal(&self) -> String {
        self.to_string()
    }
}

impl Value for usize {
    const EXPECTED: &'static str = "a whole number, 0 or more";

    fn read(written: &Written) -> Option<Self> {
        number(written)?.try_into().ok()
    }

    fn literal(&self) -> String {
        self.to_string()
    }
}

/// Largest first, so that printing takes the shortest form.
const DURATION_UNITS_MS: [(&str, u64); 5] =
    [("d", 24 * 3_600_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Value for Duration {
    const EXPECTED: &'static str =
        "a duration from 1ms to 365d, such as \"250ms\", \"10s\", \"5m\" or \"24h\"";

    fn read(written: &Written) -> Option<Self> {
        let Written::Text(text) = written else { return None };
        let (count, unit) = split_unit(text)?;
        let (_, unit_ms) = DURATION_UNITS_MS.iter().find(|(name, _)| *name == unit)?;
        let ms = count.checked_mul(*unit_ms)?;
        (1..=365 * 24 * 3_600_000).contains(&ms).then(|| Duration::from_millis(ms))
    }

    fn literal(&self) -> String {
        // Read from whole milliseconds, at most 365 days of them; defaults are whole seconds.
        let ms = self.as_millis();
        let (unit, unit_ms) = DURATION_UNITS_MS
            .into_iter()
            .find(|(_, unit_ms)| ms.is_multiple_of(u128::from(*unit_ms)))
            .unwrap_or(("ms", 1));
        format!("\"{}{unit}\"", ms / u128::from(unit_ms))
    }
}

/// A size in bytes, at most what a file can have (2^63 - 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// Powers of two first and largest first, so that printing takes the shortest of them.
const SIZE_UNITS_BYTES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl Value for Bytes {
    const EXPECTED: &'static str = "a size such as \"100GiB\", \"256MiB\" or a whole number of bytes";

    fn read(written: &Written) -> Option<Self> {
        let bytes = match (number(written), written) {
            (Some(bytes), _) => bytes,
            (None, Written::Text(text)) => {
                let (count, unit) = split_unit(text)?;
                let (_, unit_bytes) = SIZE_UNITS_BYTES.iter().find(|(name, _)| *name == unit)?;
                count.checked_mul(*unit_bytes)?
            }
            (None, _) => return None,
        };
        i64::try_from(bytes).is_ok().then_some(Bytes(bytes))
    }

    fn literal(&self) -> String {
        let fits =
            |(_, unit_bytes): &(&str, u64)| self.0 >= *unit_bytes && self.0.is_multiple_of(*unit_bytes);
        match SIZE_UNITS_BYTES.into_iter().find(fits) {
            Some(("B", _)) | None => self.0.to_string(),
            Some((unit, unit_bytes)) => format!("\"{}{unit}\"", self.0 / unit_bytes),
        }
    }
}

/// A whole number of percent, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

impl Value for Percent {
    const EXPECTED: &'static str = "a whole number of percent, 1 to 100";

    fn read(written: &Written) -> Option<Self> {
        let percent = u8::try_from(number(written)?).ok()?;
        (1..=100).contains(&percent).then_some(Percent(percent))
    }

    fn literal(&self) -> String {
        self.0.to_string()
    }
}

/// A bound in bytes; `None` where another setting gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesOrAuto(pub Option<u64>);

impl Value for BytesOrAuto {
    const EXPECTED: &'static str = "a size such as \"100GiB\", or \"auto\"";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Text(text) if text == "auto" => Some(BytesOrAuto(None)),
            _ => Bytes::read(written).map(|bytes| BytesOrAuto(Some(bytes.0))),
        }
    }

    fn literal(&self) -> String {
        self.0.map_or_else(|| quoted("auto"), |bytes| Bytes(bytes).literal())
    }
}

/// `"24h"` → (24, "h"). The digits and the unit touch.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    Some((count.parse().ok()?, unit))
}

/// A setting that is one word of a few.
macro_rules! words {
    ($type:ty, $expected:literal, $($word:literal => $value:path),+ $(,)?) => {
        impl Value for $type {
            const EXPECTED: &'static str = $expected;

            fn read(written: &Written) -> Option<Self> {
                match written {
                    Written::Text(text) => match text.as_str() {
                        $($word => Some($value),)+
                        _ => None,
                    },
                    _ => None,
                }
            }

            fn literal(&self) -> String {
                match *self {
                    $($value => concat!('"', $word, '"').to_owned(),)+
                }
            }
        }
    };
}

pub(super) use words;

words!(IoChoice, "\"auto\", \"uring\" or \"epoll\"",
    "auto" => IoChoice::Auto, "uring" => IoChoice::Uring, "epoll" => IoChoice::Epoll);

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

words!(LogFormat, "\"text\" or \"json\"", "text" => LogFormat::Text, "json" => LogFormat::Json);

words!(MissingReferences, "\"reject\", \"children\" or \"any\"",
    "reject" => MissingReferences::Reject,
    "children" => MissingReferences::Children,
    "any" => MissingReferences::Any);

impl Value for LevelFilter {
    const EXPECTED: &'static str = "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Text(text) => match text.as_str() {
                "error" => Some(LevelFilter::ERROR),
                "warn" => Some(LevelFilter::WARN),
                "info" => Some(LevelFilter::INFO),
                "debug" => Some(LevelFilter::DEBUG),
                "trace" => Some(LevelFilter::TRACE),
                _ => None,
            },
            _ => None,
        }
    }

    fn literal(&self) -> String {
        quoted(&self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(written: &str) -> Written {
        Written::Text(written.to_owned())
    }

    #[test]
    fn durations_need_a_unit_and_have_bounds() {
        for (written, ms) in [
            ("1ms", 1),
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("365d", 31_536_000_000),
        ] {
            assert_eq!(Duration::read(&text(written)), Some(Duration::from_millis(ms)), "{written}");
        }
        for wrong in [
            "",
            "10",
            "s",
            "0s",
            "0ms",
            "366d",
            "-1s",
            "+1s",
            "1.5s",
            "10 s",
            "10S",
            "10sec",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(Duration::read(&text(wrong)), None, "{wrong}");
        }
        assert_eq!(Duration::read(&Written::Number(10)), None);
    }

    #[test]
    fn sizes_are_numbers_or_have_a_unit() {
        for (written, bytes) in [
            ("100GiB", 100 << 30),
            ("256MiB", 256 << 20),
            ("1kB", 1000),
            ("1KiB", 1024),
            ("0", 0),
            ("77B", 77),
            ("77", 77),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(Bytes::read(&text(written)), Some(Bytes(bytes)), "{written}");
        }
        for wrong in [
            "",
            "GiB",
            "1.5GiB",
            "100 GiB",
            "100gib",
            "-1",
            "9223372036854775808",
            "16777216TiB",
            "8388608TiB",
        ] {
            assert_eq!(Bytes::read(&text(wrong)), None, "{wrong}");
        }
        assert_eq!(Bytes::read(&Written::Number(1024)), Some(Bytes(1024)));
    }

    #[test]
    fn every_literal_reads_back() {
        fn round<T: Value + PartialEq + std::fmt::Debug>(value: T) {
            let document = format!("x = {}", value.literal());
            let parsed = toml::de::DeTable::parse(&document).unwrap();
            let place = crate::config::raw::Place { path: Path::new("x.toml"), text: &document };
            let written = place.written(parsed.get_ref().get("x").unwrap());
            assert_eq!(T::read(&written).as_ref(), Some(&value), "{document}");
        }
        for ms in [1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 5_400_000, 86_400_000, 31_536_000_000] {
            round(Duration::from_millis(ms));
        }
        for bytes in [0, 1, 1000, 1023, 1024, 1025, 3 << 20, 5 << 30, 7 << 40, (1 << 62) + 1, i64::MAX as u64]
        {
            round(Bytes(bytes));
        }
        for path in [
            "a",
            "/var/lib/gantry",
            "with \"quotes\" and \\",
            "tab\there",
            "line\nbreak",
            "\u{1b}[0m",
            "ü\u{85}",
        ] {
            round(PathBuf::from(path));
        }
        for address in ["127.0.0.1:5000", "[::1]:5000", "0.0.0.0:0"] {
            round(address.parse::<SocketAddr>().unwrap());
        }
        for on in [true, false] {
            round(on);
        }
        for level in
            [LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE]
        {
            round(level);
        }
        for io in [IoChoice::Auto, IoChoice::Uring, IoChoice::Epoll] {
            round(io);
        }
        for format in [LogFormat::Text, LogFormat::Json] {
            round(format);
        }
        for rule in [MissingReferences::Reject, MissingReferences::Children, MissingReferences::Any] {
            round(rule);
        }
        for bound in [None, Some(0), Some(5 << 30)] {
            round(BytesOrAuto(bound));
        }
        round(Percent(33));
        round(Cores(1024));
        round(NonZeroU32::MAX);
        round(0usize);
    }

    #[test]
    fn what_was_found_stays_short() {
        let found = text(&"ü".repeat(500)).found();
        assert_eq!(found.chars().count(), 81);
        assert!(found.ends_with('…'));
        assert_eq!(Written::Other("[1,\n  2]".to_owned()).found(), "[1, 2]");
    }
}
