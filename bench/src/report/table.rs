//! Tables for a terminal.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use super::grid::Grid;

const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A case with its title above and its notes below, lines ended.
pub fn render(grid: &Grid) -> String {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(&grid.heads);
    for row in &grid.rows {
        table.add_row(row.iter().map(|cell| Cell::new(cell.with_ratio())));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let notes: String = grid.notes.iter().map(|note| format!("  ! {note}\n")).collect();
    format!("{}\n{}\n{notes}", grid.title, table.trim_fmt())
}

#[cfg(test)]
mod tests {
    use crate::report::{grid, tests::outcome};

    #[test]
    fn the_ratio_stands_beside_the_figure() {
        let text = super::render(&grid::of(&outcome().cases[0]));
        let row = text.lines().find(|line| line.contains("nginx<&>") && !line.contains('!')).unwrap();
        assert!(row.contains("20 µs (2.00×)"), "{text}");
        assert!(
            text.starts_with("blobs: 4 KiB, 16 connections\n") && text.contains("  ! gantry: the client")
        );
    }
}
