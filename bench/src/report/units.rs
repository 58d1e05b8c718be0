//! Numbers as people read them: three figures that mean something, and a unit.

/// A size in powers of two: `64 KiB`, `1 GiB`. Cases are named with this too.
pub fn size(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A rate in powers of ten: `1.25 GB/s`.
pub fn bytes_per_s(rate: f64) -> String {
    scaled(rate, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s", "TB/s"])
}

/// A time: `9.04 µs`, `1.5 ms`, `12 s`.
pub fn micros(us: f64) -> String {
    scaled(us, 1000.0, &["µs", "ms", "s"])
}

/// A number of things, or of things a second: `950`, `12.3k`, `1.2M`.
pub fn count(number: f64) -> String {
    // A thousand is still read without its unit.
    if number.abs() < 10_000.0 {
        return digits(number);
    }
    scaled(number, 1000.0, &["", "k", "M", "G"]).replace(' ', "")
}

/// How many times the first peer's: `0.72×`, with as many decimals in every row.
pub fn ratio(ratio: f64) -> String {
    let decimals = match ratio.abs() {
        0.0..0.0995 => 3,
        0.0..9.995 => 2,
        0.0..99.95 => 1,
        _ => 0,
    };
    format!("{ratio:.decimals$}×")
}

/// One of a scenario's figures, whose name ends with its unit; a name without a known one is a plain number.
pub fn figure(name: &str, value: f64) -> String {
    match unit(name) {
        Some("bytes") => scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"]),
        Some("bytes_per_s") => bytes_per_s(value),
        Some("us") => micros(value),
        Some("ms") => micros(value * 1e3),
        Some("s") => micros(value * 1e6),
        Some("ratio") => ratio(value),
        _ => count(value),
    }
}

/// A figure's name as a column's head: without the unit that its values have.
pub fn figure_name(name: &str) -> String {
    let bare = unit(name).and_then(|unit| name.strip_suffix(unit)).unwrap_or(name);
    let bare = bare.trim_end_matches('_');
    if bare.is_empty() { name.to_owned() } else { bare.replace('_', " ") }
}

fn unit(name: &str) -> Option<&'static str> {
    let ends =
        |unit: &&str| name == *unit || name.strip_suffix(*unit).is_some_and(|rest| rest.ends_with('_'));
    // `flushes_per_s` is a number of flushes, no time.
    let units = ["bytes_per_s", "bytes", "us", "ms", "ratio", "s"];
    units.into_iter().find(ends).filter(|unit| *unit != "s" || !name.ends_with("per_s"))
}

/// Three figures: `9.04`, `14.5`, `318`, `1200`; no zeros at the end of a fraction.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        0.0..0.0995 => 4,
        0.0..9.995 => 2,
        0.0..99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut rest = units;
    // 999.6 would be rounded to a fourth figure.
    while let [_, next, ..] = rest
        && value.abs() >= step - 0.5
        && !next.is_empty()
    {
        value /= step;
        rest = &rest[1..];
    }
    format!("{} {}", digits(value), rest.first().copied().unwrap_or_default()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_figures_and_a_unit() {
        let cases = [
            (size(0), "0 B"),
            (size(4096), "4 KiB"),
            (size(1 << 30), "1 GiB"),
            (size(1_000_000), "977 KiB"),
            (bytes_per_s(1.2549e9), "1.25 GB/s"),
            (bytes_per_s(999.7e6), "1 GB/s"),
            (micros(9.041), "9.04 µs"),
            (micros(0.05), "0.05 µs"),
            (micros(1500.0), "1.5 ms"),
            (micros(12e6), "12 s"),
            (micros(400e6), "400 s"),
            (count(950.0), "950"),
            (count(9041.2), "9041"),
            (count(12345.0), "12.3k"),
            (count(1.2e6), "1.2M"),
            (ratio(0.7249), "0.72×"),
            (ratio(0.999), "1.00×"),
            (ratio(158.2), "158×"),
            (ratio(0.003), "0.003×"),
        ];
        for (text, expect) in cases {
            assert_eq!(text, expect);
        }
    }

    #[test]
    fn a_figure_has_the_unit_of_its_name() {
        let cases = [
            ("pss_bytes", 2048.0, "pss", "2 KiB"),
            ("first_client_us", 2500.0, "first client", "2.5 ms"),
            ("flushes_per_ack", 0.25, "flushes per ack", "0.25"),
            ("flushes_per_s", 61.0, "flushes per s", "61"),
            ("read_bytes_per_s", 2e9, "read", "2 GB/s"),
            ("wait_s", 2.0, "wait", "2 s"),
            ("upstream_gets", 1.0, "upstream gets", "1"),
            ("follower_cpu_per_hit", 1.25, "follower cpu per hit", "1.25"),
            ("stalls", 3.0, "stalls", "3"),
        ];
        for (name, value, head, expect) in cases {
            assert_eq!((figure_name(name).as_str(), figure(name, value).as_str()), (head, expect), "{name}");
        }
    }
}
