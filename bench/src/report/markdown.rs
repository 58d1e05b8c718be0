//! The report as Markdown with GitHub's tables.

use std::fmt::Write as _;

use super::{
    about, goals,
    grid::{self, Grid},
};
use crate::result::Outcome;

/// All of it: where it was measured, then a table for each case.
pub fn render(outcome: &Outcome) -> String {
    let mut text = "# gantry-bench\n\n".to_owned();
    for (name, value) in about(&outcome.about) {
        let _ = writeln!(text, "- {name}: {}", escape(&value));
    }
    text.push_str("\nMedians of the rounds; in brackets the ratio to the first peer's.\n");
    if let Some(goals) = goals::grid(&outcome.goals) {
        table(&goals, &mut text);
    }
    for case in &outcome.cases {
        table(&grid::of(case), &mut text);
    }
    text
}

fn table(grid: &Grid, text: &mut String) {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let _ = write!(text, "\n## {}\n\n", escape(&grid.title));
    text.push_str(&row(grid.heads.iter().map(|head| escape(head)).collect()));
    text.push_str(&format!("|---|{}\n", "--:|".repeat(grid.heads.len().saturating_sub(1))));
    for cells in &grid.rows {
        text.push_str(&row(cells.iter().map(|cell| escape(&cell.with_ratio())).collect()));
    }
    for note in &grid.notes {
        let _ = write!(text, "\n> {}\n", escape(note));
    }
}

/// What would end a cell, begin a tag or be taken for emphasis.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => escaped.push(' '),
            '|' | '<' | '>' | '*' | '_' | '`' | '\\' | '[' | ']' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use crate::report::tests::outcome;

    #[test]
    fn every_row_has_the_columns_of_its_head() {
        let text = super::render(&outcome());
        assert!(text.contains("- kernel: Linux 6.1") && text.contains("- commit: 0123456789ab+"), "{text}");
        assert!(
            text.contains("## blobs: 4 KiB, 16 connections") && text.contains("| 20 µs (2.00×) |"),
            "{text}"
        );
        assert!(text.contains(r"nginx\<&\>") && text.contains(r"cut \<short\> \| or so"), "{text}");
        for table in text.split("\n## ").skip(1) {
            let bars = |line: &str| line.replace(r"\|", "").matches('|').count();
            let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
            assert!(rows.len() >= 3 && rows.iter().all(|row| bars(row) == bars(rows[0])), "{table}");
        }
    }
}
