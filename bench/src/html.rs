//! A report as one page that needs nothing but itself: no scripts, no network, light or dark as the reader likes.

use crate::plot::{COLOURS, Plot};
use crate::report::{Fact, Table};

/// The page's looks; as many colours as [`COLOURS`] says.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --faint: #66707d; --rule: #d5dae0; --paper: #fff;
  --c0: #1769c0; --c1: #d1570b; --c2: #15803d; --c3: #a3218e; --c4: #b1261f; --c5: #0e7c86; --c6: #7a5c00; --c7: #5b4fc9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --faint: #98a2b0; --rule: #343b46; --paper: #14181e;
  --c0: #6db0f7; --c1: #f59a5a; --c2: #62c98a; --c3: #e07fd2; --c4: #f28b84; --c5: #5cc6cf; --c6: #d3b84c; --c7: #a9a1f5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: var(--faint); } dd { margin: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); gap: 1rem; } figure { margin: 0; }
svg { width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--faint); } svg .title { fill: var(--ink); font-size: 14px; font-weight: 600; }
svg .grid { stroke: var(--rule); } polyline { fill: none; stroke-width: 2; } g line { stroke-width: 1.5; opacity: .6; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 1rem; padding-left: 4rem; } figcaption span::before { content: \"\\25CF\"; margin-right: .3rem; }
figure p { margin: .3rem 0 1rem; padding-left: 4rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
";

/// What is on the page, from its top down.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// What was measured, and on what.
    pub(crate) facts: Vec<Fact>,
    pub(crate) plots: Vec<Plot>,
    /// Each under its heading.
    pub(crate) tables: Vec<(String, Table)>,
}

impl Page {
    /// The whole page.
    pub(crate) fn html(&self) -> String {
        let title = escape(&self.title);
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{title}</title>\n<style>{}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<dl>\n",
            style()
        );
        for (name, fact) in &self.facts {
            page += &format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(fact));
        }
        page += "</dl>\n<div class=\"plots\">\n";
        self.plots.iter().for_each(|plot| page += &figure(plot));
        page += "</div>\n";
        for (heading, rows) in &self.tables {
            page += &format!("<h2>{}</h2>\n{}", escape(heading), table(rows));
        }
        page + "</body>\n</html>\n"
    }
}

/// The page's looks, with each colour for lines, points and the dots before their names.
fn style() -> String {
    let colour = |index| {
        format!(
            ".c{index} {{ stroke: var(--c{index}); }} .c{index} circle {{ fill: var(--c{index}); }} span.c{index}::before {{ color: var(--c{index}); }}\n"
        )
    };
    STYLE.to_owned() + &(0..COLOURS).map(colour).collect::<String>()
}

fn figure(plot: &Plot) -> String {
    let mut figure = format!("<figure>\n{}<figcaption>", plot.svg());
    for (index, line) in plot.lines.iter().enumerate() {
        figure += &format!("<span class=\"c{}\">{}</span>", index % COLOURS, escape(&line.name));
    }
    figure += "</figcaption>\n";
    if let Some(sentence) = &plot.sentence {
        figure += &format!("<p>{}</p>\n", escape(sentence));
    }
    figure + "</figure>\n"
}

fn table(table: &Table) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let mut row = String::from("<tr>");
        cells.for_each(|cell| row += &format!("<{tag}>{}</{tag}>", escape(cell)));
        row + "</tr>\n"
    };
    let mut html = String::from("<div class=\"table\">\n<table>\n<thead>\n");
    html += &cells("th", &mut table.columns());
    html += "</thead>\n<tbody>\n";
    for row in table.rows() {
        html += &cells("td", &mut row.iter().map(String::as_str));
    }
    html + "</tbody>\n</table>\n</div>\n"
}

/// Text as it stands between tags and in attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Line, Point};

    /// What is wrong with a page: elements that are not closed in their order, or bare signs in text.
    fn fault(page: &str) -> Option<String> {
        let body = page.strip_prefix("<!DOCTYPE html>\n")?;
        let mut open = Vec::new();
        let mut rest = body;
        while let Some(start) = rest.find('<') {
            let text = &rest[..start];
            let escapes = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
            let bare = escapes.iter().fold(text.to_owned(), |text, escape| text.replace(escape, ""));
            if open.last() != Some(&"style") && bare.contains(['&', '>']) {
                return Some(format!("bare signs in {text:?}"));
            }
            let end = start + rest[start..].find('>')?;
            let tag = &rest[start + 1..end];
            if tag.matches('"').count() % 2 == 1 {
                return Some(format!("an attribute without an end in {tag:?}"));
            }
            let name = tag.trim_start_matches('/').split([' ', '/']).next()?;
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) if open.pop() != Some(name) => return Some(format!("</{name}> closes another")),
                (false, false) => open.push(name),
                _ => {}
            }
            rest = &rest[end + 1..];
        }
        (!open.is_empty()).then(|| format!("{open:?} are left open"))
    }

    fn page() -> Page {
        let point = Point { at: 64, median: 1.0, min: 0.5, max: 2.0 };
        let lines = vec![Line { name: "<b>\"x\" & 'y'".into(), points: vec![point] }];
        let plot = Plot::new("put, p99 < 1 ms".into(), "keys & more", lines);
        let mut rows = Table::new(vec![("NAME", 4), ("OPS/S", 5)]);
        rows.add(vec!["a<script>".into(), "1".into()]);
        Page {
            title: "flotilla & <others>".into(),
            facts: vec![("disk".into(), "</dd><script src=\"http://evil\">".into())],
            plots: vec![Plot { sentence: Some("a < b".into()), ..plot }],
            tables: vec![("a > b".into(), rows)],
        }
    }

    /// The page is well formed whatever the words on it are, and loads nothing.
    #[test]
    fn pages_are_well_formed() {
        let html = page().html();
        assert_eq!(fault(&html), None, "{html}");
        for never in ["<script", "<link", "<img", "@import", "url("] {
            assert!(!html.contains(never), "{never} in {html}");
        }
        assert!(html.contains("&lt;script src=&quot;http://evil&quot;&gt;"), "words stay words");
        assert!(html.contains("<p>a &lt; b</p>"), "the plot's sentence");
        assert!(html.contains("<polyline") && html.contains("<td>a&lt;script&gt;</td>"));
    }

    /// The check itself finds what is not well formed.
    #[test]
    fn faults_are_found() {
        for bad in ["<p>", "<p></q>", "<p>a & b</p>", "<p>a > b</p>", "<p class=\"a></p>"] {
            assert!(fault(&format!("<!DOCTYPE html>\n{bad}")).is_some(), "{bad}");
        }
        assert_eq!(fault("<!DOCTYPE html>\n<p>a &amp; b<br/></p>"), None);
    }

    /// What has a meaning in HTML loses it.
    #[test]
    fn escapes() {
        assert_eq!(escape("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
        assert_eq!(escape("größer"), "größer");
    }
}
