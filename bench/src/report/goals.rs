//! What was to be reached, laid out as one table.

use super::{
    grid::{Cell, Grid},
    units,
};
use crate::result::{Bound, Goal};

/// A row for each; `None` if the command was about something else.
pub fn grid(goals: &[Goal]) -> Option<Grid> {
    if goals.is_empty() {
        return None;
    }
    let heads = ["goal", "measure", "must", "aim", "measured", "reached", "note"].map(str::to_owned);
    Some(Grid {
        title: "What is to be reached".to_owned(),
        heads: heads.to_vec(),
        rows: goals.iter().map(row).collect(),
        notes: Vec::new(),
    })
}

fn row(goal: &Goal) -> Vec<Cell> {
    let value = |value: f64| units::figure(&goal.unit, value);
    let bound = |bound: Option<Bound>| match bound {
        None => "–".to_owned(),
        Some(Bound::AtMost(at)) => format!("≤ {}", value(at)),
        Some(Bound::Below(at)) => format!("< {}", value(at)),
        Some(Bound::AtLeast(at)) => format!("≥ {}", value(at)),
    };
    let cells = [
        goal.id.clone(),
        goal.measure.clone(),
        bound(goal.must),
        bound(goal.aim),
        goal.measured.map_or_else(|| "–".to_owned(), value),
        goal.verdict().to_owned(),
        goal.note.clone(),
    ];
    cells.map(|text| Cell { text, ratio: None }).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_holds() {
        let goal = |measured, must| Goal {
            id: "S1".to_owned(),
            measure: "memory".to_owned(),
            unit: "bytes".to_owned(),
            must: Some(must),
            aim: Some(Bound::Below(1024.0)),
            measured,
            note: String::new(),
        };
        let cases = [
            (Some(1000.0), Bound::AtMost(2048.0), ["≤ 2 KiB", "< 1 KiB", "1000 B", "aim"]),
            (Some(1024.0), Bound::AtMost(2048.0), ["≤ 2 KiB", "< 1 KiB", "1 KiB", "must"]),
            (Some(1000.0), Bound::AtLeast(2048.0), ["≥ 2 KiB", "< 1 KiB", "1000 B", "missed"]),
            (None, Bound::AtMost(2048.0), ["≤ 2 KiB", "< 1 KiB", "–", "–"]),
        ];
        for (measured, must, expect) in cases {
            let grid = grid(&[goal(measured, must)]).unwrap();
            let texts: Vec<&str> = grid.rows[0][2..6].iter().map(|cell| cell.text.as_str()).collect();
            assert_eq!(texts, expect);
        }
        assert!(grid(&[]).is_none());
    }
}
