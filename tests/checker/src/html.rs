//! Draws a failing history as one page that needs nothing else: a lane for each client, from left to right in
//! the order of events, with the order that the checker found and the place where it breaks.

use crate::register::{Access, Register, State};
use crate::{Answer, Call, End, Failure, History, Model as _, Operation};
use std::collections::BTreeMap;

/// How wide the place between two events is, in pixels: a short operation's label fits.
const EVENT_WIDTH: usize = 110;
/// How high a row of bars is, in pixels.
const ROW_HEIGHT: usize = 34;
/// How much of a key or value is shown in a label, in characters; all of it stands in the bar's tooltip.
const SHOWN_MAX: usize = 24;

const STYLE: &str = "
body { font: 14px/1.5 system-ui, sans-serif; margin: 24px; color: #1c2330; background: #fff; }
h1 { font-size: 20px; margin: 0 0 4px; }
h2 { font-size: 15px; margin: 20px 0 4px; }
code { font: 13px ui-monospace, monospace; background: #f0f2f5; padding: 1px 4px; border-radius: 3px; }
.chart { position: relative; overflow-x: auto; border: 1px solid #d5dae2; border-radius: 6px; }
.lanes { position: relative; }
.lane { position: relative; border-bottom: 1px solid #e6e9ee; }
.lane > strong { position: sticky; left: 0; z-index: 2; display: inline-block; width: 84px; padding: 6px 8px;
  background: #fffd; font-weight: 600; }
.bar { position: absolute; height: 26px; line-height: 26px; padding: 0 6px; box-sizing: border-box;
  overflow: hidden; white-space: nowrap; text-overflow: ellipsis; border-radius: 4px;
  border: 1px solid #a9b2c0; background: #e9ecf1; }
.bar i { font-style: normal; font-weight: 700; margin-right: 5px; }
.bar.prefix { background: #d3efdb; border-color: #4e9d68; }
.bar.stuck { background: #f8c9c5; border: 2px solid #c0281c; line-height: 24px; }
.bar.candidate { background: #fde6c4; border-color: #cf8a1d; }
.open { border-style: dashed; border-right: none; border-radius: 4px 0 0 4px; }
.break { position: absolute; top: 0; bottom: 0; width: 0; border-left: 2px dashed #c0281c; z-index: 1; }
.key span { display: inline-block; margin-right: 18px; }
.key span::before { content: ''; display: inline-block; width: 12px; height: 12px; margin-right: 5px;
  border: 1px solid #8892a0; background: var(--colour); vertical-align: -1px; }
li.stuck { color: #a51d12; }
";

/// The page of `history`'s failure, which must be its own: shrink the history first where it is large.
pub fn page(history: &History, failure: &Failure) -> String {
    let drawing = Drawing::of(history, failure);
    let key = escape(&shown(&failure.key));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>Not linearizable: {key}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>Not linearizable: key <code>{key}</code></h1>\n"
    );
    page += &drawing.summary();
    page += &drawing.chart();
    page += &drawing.order();
    page += "</body>\n</html>\n";
    page
}

/// What is drawn: the calls that concern the failing key.
struct Drawing<'h> {
    history: &'h History,
    failure: &'h Failure,
    calls: Vec<Call<'h>>,
    /// The calls of the key, by their places in `calls`, and where they are drawn.
    bars: BTreeMap<usize, Bar>,
}

struct Bar {
    process: u64,
    /// Columns: the first event of the key is at 0.
    from: usize,
    /// `None` for one that is open to the end of time.
    to: Option<usize>,
}

impl<'h> Drawing<'h> {
    fn of(history: &'h History, failure: &'h Failure) -> Self {
        let calls = history.calls();
        let concerns = |call: &Call<'_>| match (call.operation.key(), call.end) {
            (Some(key), _) => key == failure.key,
            (None, End::Answered(Answer::Items(items))) => items.iter().any(|item| item.key == failure.key),
            (None, _) => false,
        };
        let places: Vec<usize> = (0..calls.len()).filter(|&place| concerns(&calls[place])).collect();
        let mut events: Vec<usize> = places
            .iter()
            .flat_map(|&place| [Some(calls[place].invoked), calls[place].completed])
            .flatten()
            .collect();
        events.sort_unstable();
        let column = |event: usize| events.partition_point(|&other| other < event);
        let bar = |&place: &usize| {
            let call = &calls[place];
            let ends = if call.end == End::Unknown { None } else { call.completed };
            let process = history.entries()[call.invoked].process;
            (place, Bar { process, from: column(call.invoked), to: ends.map(column) })
        };
        let bars = places.iter().map(bar).collect();
        Self { history, failure, calls, bars }
    }

    fn summary(&self) -> String {
        let core = &self.failure.core;
        let reached = self.states().pop();
        let states = reached.iter().chain(core.states.iter().skip(usize::from(reached.is_some())));
        let states: Vec<String> =
            states.map(|state| format!("<code>{}</code>", escape(&state_text(state)))).collect();
        format!(
            "<p>No order of these operations explains their answers. {} of {} can be put into one (green, \
             numbered); then {} would have to take effect before its answer came, and does not fit (red). \
             Other operations that could come next do not fit either (orange). Dashed ones have an unknown \
             outcome: they may take effect at any later time, or never.</p>\n\
             <p>The key could then be: {}</p>\n",
            core.prefix.len(),
            self.bars.len(),
            format_args!("<code>{}</code>", escape(&self.label(core.stuck))),
            states.join(", or ")
        )
    }

    fn chart(&self) -> String {
        let columns = 2 + self.bars.values().map(|bar| bar.to.unwrap_or(bar.from)).max().unwrap_or(0);
        let x = |column: usize| 100 + column * EVENT_WIDTH;
        let mut lanes: BTreeMap<u64, Vec<(usize, &Bar)>> = BTreeMap::new();
        for (&place, bar) in &self.bars {
            lanes.entry(bar.process).or_default().push((place, bar));
        }
        let mut chart =
            format!("<div class=\"chart\"><div class=\"lanes\" style=\"width:{}px\">\n", x(columns));
        if let Some(column) = self.bars.get(&self.failure.core.stuck).and_then(|bar| bar.to) {
            chart += &format!("<div class=\"break\" style=\"left:{}px\"></div>\n", x(column));
        }
        for (process, bars) in lanes {
            // The end of each row so far; an open bar leaves no room behind it.
            let mut rows: Vec<usize> = Vec::new();
            let mut drawn = String::new();
            for (place, bar) in bars {
                let end = bar.to.unwrap_or(usize::MAX);
                let row = rows.iter().position(|&taken| taken <= bar.from).unwrap_or_else(|| {
                    rows.push(0);
                    rows.len() - 1
                });
                rows[row] = end;
                let (left, right) = (x(bar.from), x(bar.to.unwrap_or(columns)));
                let style =
                    format!("left:{left}px;top:{}px;width:{}px", 4 + row * ROW_HEIGHT, right - left - 4);
                drawn += &self.bar(place, bar, &style);
            }
            let height = rows.len() * ROW_HEIGHT;
            chart += &format!(
                "<div class=\"lane\" style=\"height:{height}px\"><strong>client {process}</strong>\n\
                 {drawn}</div>\n"
            );
        }
        chart + "</div></div>\n"
    }

    fn bar(&self, place: usize, bar: &Bar, style: &str) -> String {
        let core = &self.failure.core;
        let order = core.prefix.iter().position(|&other| other == place);
        let class = match order {
            Some(_) => "prefix",
            None if place == core.stuck => "stuck",
            None if core.candidates.contains(&place) => "candidate",
            None => "other",
        };
        let open = if bar.to.is_none() { " open" } else { "" };
        let number = order.map_or(String::new(), |order| format!("<i>{}</i>", order + 1));
        let (title, label) = (escape(&self.tooltip(place)), escape(&self.label(place)));
        format!(
            "<div class=\"bar {class}{open}\" style=\"{style}\" title=\"{title}\">{number}{label}</div>\n"
        )
    }

    fn order(&self) -> String {
        let core = &self.failure.core;
        let item = |class: &str, place: usize, then: &str| {
            let process = self.bars.get(&place).map_or(0, |bar| bar.process);
            let (label, then) = (escape(&self.label(place)), escape(then));
            format!("<li{class}>client {process}: <code>{label}</code>{then}</li>\n")
        };
        let mut order = String::from("<h2>The longest order that fits</h2>\n<ol>\n");
        for (&place, state) in core.prefix.iter().zip(self.states()) {
            order += &item("", place, &format!(", then the key is {}", state_text(&state)));
        }
        order += &item(" class=\"stuck\"", core.stuck, " does not fit");
        order
            + "</ol>\n<p class=\"key\"><span style=\"--colour:#d3efdb\">in the order</span>\
               <span style=\"--colour:#f8c9c5\">does not fit, and cannot wait</span>\
               <span style=\"--colour:#fde6c4\">does not fit now</span>\
               <span style=\"--colour:#e9ecf1\">later, unknown or failed</span></p>\n"
    }

    /// The state after each operation of the order, with all values and versions.
    fn states(&self) -> Vec<State> {
        let register = Register::literal();
        let key = &self.failure.key;
        let mut states: Vec<State> = Vec::new();
        for &place in &self.failure.core.prefix {
            let state = states.last().cloned().unwrap_or_else(|| register.initial());
            let write = Access::of(self.calls[place].operation).filter(|(its, _)| its == key);
            // A read leaves it as it is, and the checker has held the answers against it.
            let next = write.and_then(|(_, access)| register.step(&state, &access, None));
            states.push(next.unwrap_or(state));
        }
        states
    }

    /// The operation and its answer, in short.
    fn label(&self, place: usize) -> String {
        let call = &self.calls[place];
        format!("{} {}", operation_text(call.operation, SHOWN_MAX), self.end_text(&call.end, SHOWN_MAX))
    }

    /// The same in full, with where and when.
    fn tooltip(&self, place: usize) -> String {
        let call = &self.calls[place];
        let entries = self.history.entries();
        let node =
            |place: Option<usize>| place.and_then(|place| entries[place].node.as_deref()).unwrap_or("?");
        let from_ns = entries[call.invoked].time_ns;
        let to =
            call.completed.map_or("the end".to_owned(), |place| format!("{} ns", entries[place].time_ns));
        format!(
            "{} {}\nfrom {from_ns} ns to {to}, at {}",
            operation_text(call.operation, usize::MAX),
            self.end_text(&call.end, usize::MAX),
            node(call.completed.or(Some(call.invoked)))
        )
    }

    fn end_text(&self, end: &End<'_>, length_max: usize) -> String {
        match end {
            End::Failed => "✗ no effect".to_owned(),
            End::Unknown => "→ ?".to_owned(),
            End::Answered(Answer::Value { value, version }) => {
                format!("→ {}{}", cut(&shown(value), length_max), at_version(*version))
            }
            End::Answered(Answer::Absent) => "→ absent".to_owned(),
            End::Answered(Answer::Written { version }) => format!("→ done{}", at_version(*version)),
            End::Answered(Answer::Mismatch { actual }) => format!("→ mismatch{}", at_version(*actual)),
            End::Answered(Answer::Deleted { found: Some(false) }) => "→ not found".to_owned(),
            End::Answered(Answer::Deleted { .. }) => "→ deleted".to_owned(),
            End::Answered(Answer::Items(items)) => {
                let items = items.iter().filter(|item| item.key == self.failure.key);
                let texts = items.map(|item| {
                    format!("{}{}", cut(&shown(&item.value), length_max), at_version(item.version))
                });
                format!("→ {}", texts.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

fn operation_text(operation: &Operation, length_max: usize) -> String {
    let short = |value: &[u8]| cut(&shown(value), length_max);
    match operation {
        Operation::Get { .. } => "get".to_owned(),
        Operation::Put { value, .. } => format!("put {}", short(value)),
        Operation::Append { value, .. } => format!("append {}", short(value)),
        Operation::CompareAndSet { expect, value, .. } => format!("cas v{expect} {}", short(value)),
        Operation::Delete { .. } => "delete".to_owned(),
        Operation::Scan { prefix } => format!("scan {}", short(prefix)),
    }
}

fn state_text(state: &State) -> String {
    match state {
        State::Absent => "absent".to_owned(),
        State::Present { value: Some(value), version } => {
            format!("{} at version {version}", cut(&shown(value), SHOWN_MAX))
        }
        State::Present { value: None, version } => format!("a value that nobody read, at version {version}"),
    }
}

fn at_version(version: Option<u64>) -> String {
    version.map_or(String::new(), |version| format!(" v{version}"))
}

/// Bytes as text: what is not UTF-8 is escaped, and nothing has a sign of its own.
fn shown(bytes: &[u8]) -> String {
    if bytes.is_empty() { "∅".to_owned() } else { bytes.utf8_chunks().map(chunk).collect() }
}

fn chunk(chunk: std::str::Utf8Chunk<'_>) -> String {
    let escaped = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
    let plain = chunk.valid().chars().map(|it| if it.is_control() { '·' } else { it }).collect::<String>();
    plain + &escaped.collect::<String>()
}

/// The end of a long text, for values that grow differ there, behind an ellipsis.
fn cut(text: &str, length_max: usize) -> String {
    let length = text.chars().count();
    if length <= length_max {
        return text.to_owned();
    }
    let end: String = text.chars().skip(length - length_max + 1).collect();
    format!("…{end}")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            _ => escaped.push(it),
        }
    }
    escaped
}
