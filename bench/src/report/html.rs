//! The report as one HTML file that needs nothing else: no script, no link, plots inside. It can be mailed and printed.

use std::fmt::{Display, Write as _};

use super::{
    about, goals,
    grid::{self, Grid},
    plot::{self, Plot},
    units,
};
use crate::result::{Case, Outcome, Round};

const STYLE: &str = "\
:root{color-scheme:light}\
body{font:16px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:72rem;margin:0 auto;padding:1rem}\
h1{font-size:1.6rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:0}dt{color:#555}\
dd{margin:0;overflow-wrap:anywhere}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}\
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #888}tbody th{font-weight:600}\
.ratio{color:#555;font-size:.85em}.note{border-left:.3rem solid #d55e00;padding:.2rem .7rem;background:#fdf3ea}\
figure{margin:1rem 0}figcaption{color:#333;font-size:.9rem}svg{max-width:100%;height:auto}\
details{font-size:.9rem;margin:.4rem 0}summary{cursor:pointer;color:#555}\
@media print{body{font-size:10pt;padding:0;max-width:none}.wide{overflow:visible}table{font-size:8pt}\
section,figure{break-inside:avoid}}";

/// All of it. An error if a plot cannot be drawn.
pub fn render(outcome: &Outcome) -> Result<String, String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>gantry-bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>gantry-bench</h1>\n<dl>\n"
    );
    for (name, value) in about(&outcome.about) {
        let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", Escaped(&name), Escaped(&value));
    }
    page.push_str("</dl>\n<p>Medians of the rounds; in brackets the ratio to the first peer's.</p>\n");
    if let Some(goals) = goals::grid(&outcome.goals) {
        table(&goals, &mut page);
    }
    let overview: Vec<Plot> = plot::throughput(outcome)?.into_iter().chain(plot::cost(outcome)?).collect();
    overview.iter().for_each(|plot| figure(plot, &mut page));
    for case in &outcome.cases {
        page.push_str("<section>\n");
        table(&grid::of(case), &mut page);
        rounds(case, &mut page);
        if let Some(plot) = plot::latency(outcome, case)? {
            figure(&plot, &mut page);
        }
        page.push_str("</section>\n");
    }
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

fn table(grid: &Grid, page: &mut String) {
    let _ = write!(page, "<h2>{}</h2>\n<div class=\"wide\"><table>\n<thead><tr>", Escaped(&grid.title));
    for head in &grid.heads {
        let _ = write!(page, "<th scope=\"col\">{}</th>", Escaped(head));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &grid.rows {
        page.push_str("<tr>");
        for (position, cell) in row.iter().enumerate() {
            let text = Escaped(&cell.text);
            let ratio =
                cell.ratio.map(|ratio| format!(" <span class=\"ratio\">({})</span>", units::ratio(ratio)));
            let ratio = ratio.unwrap_or_default();
            let _ = match position {
                0 => write!(page, "<th scope=\"row\">{text}</th>"),
                _ => write!(page, "<td>{text}{ratio}</td>"),
            };
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
    for note in &grid.notes {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", Escaped(note));
    }
}

/// Round by round, for those who want to see how much a median hides.
fn rounds(case: &Case, page: &mut String) {
    let most = case.peers.iter().map(|peer| peer.rounds.len()).max().unwrap_or_default();
    if most < 2 {
        return;
    }
    page.push_str("<details><summary>each round: req/s, CPU/request, p99</summary><div class=\"wide\"><table>\n<tbody>\n");
    for peer in &case.peers {
        let _ = write!(page, "<tr><th scope=\"row\">{}</th>", Escaped(&peer.peer));
        for position in 0..most {
            let text = peer.rounds.get(position).map(summary).unwrap_or_default();
            let _ = write!(page, "<td>{}</td>", Escaped(&text));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div></details>\n");
}

fn summary(round: &Round) -> String {
    let rate = units::count(round.requests_per_s());
    format!("{rate}, {}, {}", units::micros(round.cpu_us_per_request()), units::micros(round.latency.p99_us))
}

fn figure(plot: &Plot, page: &mut String) {
    let caption = Escaped(&plot.caption);
    let _ = writeln!(page, "<figure>\n<figcaption>{caption}</figcaption>\n{}\n</figure>", plot.svg);
}

/// Text between tags or in a quoted attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    /// Asserts that every tag is closed in order and that every `&` begins an entity.
    fn assert_balanced(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = page;
        while let Some((text, tail)) = rest.split_once('<') {
            assert!(
                text.split('&').skip(1).all(|entity| entity[..entity.len().min(8)].contains(';')),
                "{text}"
            );
            let (tag, tail) = tail.split_once('>').expect("a tag ends");
            rest = tail;
            let name = tag.split(|c: char| c.is_whitespace()).next().unwrap();
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "before {tail:.80}"),
                None if tag.ends_with('/') || ["!DOCTYPE", "meta"].contains(&name) => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn tags_are_balanced_and_text_is_escaped() {
        let page = render(&outcome()).unwrap();
        assert_balanced(&page);
        assert!(!page.contains("nginx<") && !page.contains("<short>") && !page.contains("'a<b>'"));
        assert!(page.contains("<th scope=\"row\">nginx&lt;&amp;&gt;</th>"), "{page}");
        assert!(page.contains("20 µs <span class=\"ratio\">(2.00×)</span>"));
    }

    #[test]
    fn it_needs_nothing_but_itself() {
        let page = render(&outcome()).unwrap();
        for outside in ["<script", "<link", "<img", "href=", "src=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg").count(), 3 + 2, "a distribution for each case, and two overviews");
    }

    #[test]
    fn nothing_measured_is_still_a_page() {
        let empty = Outcome { about: Default::default(), cases: Vec::new(), goals: Vec::new() };
        assert_balanced(&render(&empty).unwrap());
    }
}
