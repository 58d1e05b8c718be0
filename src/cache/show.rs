//! How what a registry says of its cache is shown to people.

use std::{cmp::Reverse, fmt::Write as _};

use serde_json::Value;

use super::args::Sort;

/// The best of a list of any length, in order: no more is kept than is shown, twice.
pub struct Shown {
    sort: Sort,
    limit: usize,
    rows: Vec<Value>,
    /// How many there were.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Shown {
    /// `limit`: 0 shows all.
    pub fn new(sort: Sort, limit: usize) -> Shown {
        let limit = if limit == 0 { usize::MAX } else { limit };
        Shown { sort, limit, rows: Vec::new(), count: 0, bytes: 0 }
    }

    /// One more.
    pub fn push(&mut self, row: Value) {
        self.count += 1;
        self.bytes += number(&row["size_bytes"]);
        self.rows.push(row);
        if self.rows.len() / 2 > self.limit.max(512) {
            self.settle();
        }
    }

    /// Those that are shown.
    pub fn into_rows(mut self) -> Vec<Value> {
        self.settle();
        self.rows
    }

    fn settle(&mut self) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let digest = |row: &Value| text(&row["digest"]);
        match self.sort {
            Sort::Size => {
                self.rows.sort_by_cached_key(|row| (Reverse(number(&row["size_bytes"])), digest(row)))
            }
            Sort::Came => {
                self.rows.sort_by_cached_key(|row| (Reverse(number(&row["came_unix"])), digest(row)))
            }
            Sort::Uses => self.rows.sort_by_cached_key(|row| (Reverse(number(&row["uses"])), digest(row))),
            Sort::Digest => self.rows.sort_by_cached_key(digest),
            Sort::Repository => {
                self.rows.sort_by_cached_key(|row| (text(&row["repositories"][0]), digest(row)));
            }
        }
        self.rows.truncate(self.limit);
    }
}

/// A table, a line each.
pub fn blobs(rows: &[Value], now_unix: u64) -> String {
    let mut cells =
        vec![["DIGEST", "SIZE", "STATE", "PINNED", "USES", "AGE", "REPOSITORIES"].map(str::to_owned)];
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let named: Vec<&str> =
            row["repositories"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let age = match number(&row["came_unix"]) {
            0 => "-".to_owned(),
            came_unix => age(now_unix.saturating_sub(came_unix)),
        };
        let pinned = if row["pinned"] == true { "yes" } else { "-" };
        cells.push([
            text("digest"),
            size(number(&row["size_bytes"])),
            text("state"),
            pinned.to_owned(),
            number(&row["uses"]).to_string(),
            age,
            if named.is_empty() { "-".to_owned() } else { named.join(" ") },
        ]);
    }
    table(&cells)
}

/// The numbers of the cache.
pub fn stat(stat: &Value) -> String {
    let of = |key: &str| number(&stat[key]);
    let percent = of("used_bytes") * 100 / of("budget_bytes").max(1);
    let mut out = format!(
        "budget    {}, {} in use ({percent} %)\nblobs     {}, {}\npinned    {}, {}\nfilling   {}\nevicted   {} \
         since the start\npurged    {} since the start\n",
        size(of("budget_bytes")),
        size(of("used_bytes")),
        of("blobs"),
        size(of("blobs_bytes")),
        of("pinned"),
        size(of("pinned_bytes")),
        of("filling"),
        of("evictions"),
        of("purges"),
    );
    let mut cells = vec![
        ["UPSTREAM", "HITS", "MISSES", "SHARED", "RUNNING", "FETCHED", "SERVED", "EVICTED"]
            .map(str::to_owned),
    ];
    for upstream in stat["upstreams"].as_array().into_iter().flatten() {
        let of = |key: &str| number(&upstream[key]);
        cells.push([
            upstream["ns"].as_str().unwrap_or_default().to_owned(),
            of("hits").to_string(),
            of("misses").to_string(),
            of("coalesced").to_string(),
            of("running").to_string(),
            size(of("fetched_bytes")),
            size(of("served_bytes")),
            of("evictions").to_string(),
        ]);
    }
    let _all = write!(out, "\n{}", table(&cells));
    out
}

/// What is pinned, and by whom.
pub fn pins(pins: &Value) -> String {
    let mut out = String::new();
    for pin in pins["pins"].as_array().into_iter().flatten() {
        let from = if pin["from"] == "configuration" { "  (cache.pin)" } else { "" };
        let _all = writeln!(out, "{}{from}", pin["pattern"].as_str().unwrap_or_default());
    }
    if out.is_empty() { "nothing is pinned\n".to_owned() } else { out }
}

/// How far an image is, in one line of at most so many characters.
pub fn progress(warm: &Value, width: usize) -> String {
    const BAR: usize = 24;
    let (bytes, blobs) = (&warm["bytes"], &warm["blobs"]);
    let (done, total) = (number(&bytes["done"]), number(&bytes["total"]));
    let filled = (u128::from(done) * BAR as u128 / u128::from(total.max(1))) as usize;
    let bar = "#".repeat(filled.min(BAR)) + &"-".repeat(BAR - filled.min(BAR));
    let what = match warm["state"].as_str() {
        Some("waiting") => "waits for its turn".to_owned(),
        _ if total == 0 => "looks at its manifests".to_owned(),
        _ => format!(
            "{} of {}, {} of {} blobs",
            size(done),
            size(total),
            number(&blobs["done"]),
            number(&blobs["total"])
        ),
    };
    let line = format!("{} [{bar}] {what}", warm["image"].as_str().unwrap_or_default());
    line.chars().take(width).collect()
}

/// What became of an image, a line, and one for each thing that could not be had.
pub fn warmed(warm: &Value) -> String {
    let blobs = &warm["blobs"];
    let mut out = format!(
        "{}: {}, {} of {} blobs here, {} of them fetched, {} in all\n",
        warm["image"].as_str().unwrap_or_default(),
        warm["state"].as_str().unwrap_or_default(),
        number(&blobs["done"]),
        number(&blobs["total"]),
        number(&blobs["fetched"]),
        size(number(&warm["bytes"]["total"])),
    );
    for problem in warm["problems"].as_array().into_iter().flatten() {
        let text = |key: &str| problem[key].as_str().unwrap_or_default();
        let _all = writeln!(out, "  {}: {}", text("what"), text("why"));
    }
    match number(&warm["problems_more"]) {
        0 => {}
        more => drop(writeln!(out, "  and {more} more")),
    }
    out
}

/// A number that is not there is none.
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// `12.3 MiB`
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `3d`
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Columns as wide as their widest cell; the last one ends where it ends.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _all = if at + 1 == N { writeln!(out, "{cell}") } else { write!(out, "{cell:width$}  ") };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_largest_are_kept_and_all_are_counted() {
        let mut shown = Shown::new(Sort::Size, 3);
        for number in 0..10_000_u64 {
            let bytes = number * 7919 % 10_007;
            shown.push(json!({ "digest": format!("sha256:{number:05}"), "size_bytes": bytes }));
            assert!(shown.rows.len() <= 2 * 512 + 2, "no more is kept than is needed");
        }
        assert_eq!(shown.count, 10_000);
        let sizes: Vec<u64> = shown.into_rows().iter().map(|row| number(&row["size_bytes"])).collect();
        assert_eq!(sizes.len(), 3);
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[0] > 10_000, "{sizes:?}");
    }

    #[test]
    fn sizes_and_ages_are_short() {
        let all =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB")];
        all.iter().for_each(|(bytes, text)| assert_eq!(size(*bytes), *text));
        assert_eq!(size((1 << 20) - 1), "1.0 MiB", "never 1024.0 KiB");
        let all = [(59, "59s"), (60, "1m"), (7200, "2h"), (86_400 * 9, "9d")];
        all.iter().for_each(|(seconds, text)| assert_eq!(age(*seconds), *text));
    }

    #[test]
    fn a_list_is_a_table() {
        let rows = [json!({
            "digest": "sha256:ab", "size_bytes": 2048, "state": "cached", "pinned": true, "uses": 3,
            "came_unix": 1000, "repositories": ["docker.io/a", "docker.io/b"],
        })];
        assert_eq!(
            blobs(&rows, 1060),
            "DIGEST     SIZE     STATE   PINNED  USES  AGE  REPOSITORIES\n\
             sha256:ab  2.0 KiB  cached  yes     3     1m   docker.io/a docker.io/b\n"
        );
    }

    #[test]
    fn progress_fits_its_line() {
        let warm = json!({
            "image": "busybox", "state": "running", "bytes": { "done": 1024, "total": 2048 },
            "blobs": { "done": 1, "total": 3 },
        });
        assert_eq!(
            progress(&warm, 200),
            "busybox [############------------] 1.0 KiB of 2.0 KiB, 1 of 3 blobs"
        );
        assert_eq!(progress(&warm, 10), "busybox [#");
        assert!(progress(&json!({ "image": "a", "state": "waiting" }), 80).contains("waits"));
    }
}
