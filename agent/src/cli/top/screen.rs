//! The screen: tabs, a list, one connection with its path, a line of what is in force.

use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, Tabs, Wrap};

use super::flows::{Flows, Known};
use super::keys::{Over, View};
use super::panes::{self, Line, Pane, short};
use crate::sink::observer::structs;

const HELP: &str = "\
1..5 Tab   another list
Up Down j k PgUp PgDn Home End   choose a line
Enter      the line in detail; of a pod: its connections
s          sort by the next column
r          sort the other way round
/          filter: words that a line has, in any column; Enter keeps it, Esc clears it
p Space    pause
?          these keys
q Esc      leave";

/// What lines are narrower than this cannot show.
const NARROW: u16 = 4;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame, flows: &Flows, view: &mut View) {
    let now = SystemTime::now();
    draw_at(frame, flows, view, now);
}

pub(super) fn draw_at(frame: &mut Frame, flows: &Flows, view: &mut View, now: SystemTime) {
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [head, body, foot] = rows.areas(frame.area());
    let lines = panes::lines(flows, view.pane, &view.filter, view.sort(), now);
    tabs(frame, head, flows, view, now);
    list(frame, body, view, &lines);
    status(frame, foot, flows, view, lines.len());
    match view.over.clone() {
        Some(Over::Help) => over(frame, body, " Keys ", vec![Text::raw(HELP)]),
        Some(Over::Detail(key)) => match flows.all.get(&key) {
            Some(known) => {
                let title = format!(" {} > {} ", known.ends.0, known.ends.1);
                over(frame, body, &title, detail(known));
            }
            None => view.over = None,
        },
        None => {}
    }
}

fn tabs(frame: &mut Frame, area: Rect, flows: &Flows, view: &View, now: SystemTime) {
    let titles = Pane::ALL
        .iter()
        .enumerate()
        .map(|(place, pane)| format!("{} {}", place + 1, pane.title()));
    let chosen = Pane::ALL.iter().position(|pane| *pane == view.pane);
    let tabs = Tabs::new(titles)
        .select(chosen)
        .divider(" ")
        .padding("", "")
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_widget(tabs, area);
    let mut bytes = 0.0;
    for known in flows.all.values() {
        bytes += known.rate(now).bytes;
    }
    let paused = if flows.paused { "PAUSED  " } else { "" };
    let sums = format!("{paused}agents: {}  {}B/s", view.agents, short(bytes));
    frame.render_widget(Paragraph::new(sums).right_aligned(), area);
}

fn list(frame: &mut Frame, area: Rect, view: &mut View, lines: &[Line]) {
    let columns = view.pane.columns();
    let (sorted, reversed) = view.sort();
    let header = columns.iter().enumerate().map(|(place, name)| {
        let arrow = match (place == sorted, reversed) {
            (true, false) => " v",
            (true, true) => " ^",
            (false, _) => "",
        };
        format!("{name}{arrow}")
    });
    let header: Vec<String> = header.collect();
    let page = usize::from(area.height.saturating_sub(1));
    view.place_lines(lines, page);
    let widths = widths(&header, lines, area.width);
    let rows = lines.iter().map(|line| {
        let style = match (line.bad, line.over) {
            (true, _) => Style::new().fg(Color::Red),
            (false, true) => Style::new().add_modifier(Modifier::DIM),
            (false, false) => Style::new(),
        };
        Row::new(line.cells.iter().map(String::as_str)).style(style)
    });
    let table = Table::new(rows, widths.iter().map(|width| Constraint::Length(*width)))
        .header(Row::new(header.iter().map(String::as_str)).style(Modifier::BOLD))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut view.table);
}

/// As wide as what is in them; where that is too much, the widest give way.
fn widths(header: &[String], lines: &[Line], room: u16) -> Vec<u16> {
    let width = |text: &str| u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    let mut widths: Vec<u16> = header.iter().map(|name| width(name)).collect();
    for line in lines {
        for (have, cell) in widths.iter_mut().zip(&line.cells) {
            *have = (*have).max(width(cell));
        }
    }
    let gaps = u16::try_from(widths.len().saturating_sub(1)).unwrap_or(0);
    loop {
        let sum: u32 = widths.iter().map(|width| u32::from(*width)).sum();
        let surplus = sum.saturating_sub(room.saturating_sub(gaps).into());
        let Some(widest) = widths.iter_mut().max() else {
            return widths;
        };
        if surplus == 0 || *widest <= NARROW {
            return widths;
        }
        *widest -= 1;
    }
}

fn status(frame: &mut Frame, area: Rect, flows: &Flows, view: &View, lines: usize) {
    let filter = match (view.typing, view.filter.as_str()) {
        (true, filter) => Some(format!("/{filter}_")),
        (false, "") => None,
        (false, filter) => Some(format!("/{filter}  (Esc clears)")),
    };
    let keys = "? keys  / filter  s sort  Enter detail  p pause  q leave";
    let left: Vec<Span> = match (filter, view.news.as_deref()) {
        (None, None) => vec![Span::raw(keys)],
        (filter, news) => {
            let filter = filter.map(|filter| Span::raw(filter + "  "));
            let news = news.map(|news| Span::styled(news, Style::new().fg(Color::Yellow)));
            filter.into_iter().chain(news).collect()
        }
    };
    let right = format!("{lines} lines  {} records", flows.records);
    let [left_area, right_area] = Layout::horizontal([
        Constraint::Min(1),
        Constraint::Length(u16::try_from(right.len() + 1).unwrap_or(u16::MAX)),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(Text::from(left)), left_area);
    frame.render_widget(Paragraph::new(right).right_aligned(), right_area);
}

fn over(frame: &mut Frame, area: Rect, title: &str, lines: Vec<Text<'_>>) {
    let lines: Vec<Text> = lines
        .into_iter()
        .flat_map(|line| {
            let whole: String = line
                .spans
                .iter()
                .map(|span| span.content.as_ref())
                .collect();
            let style = line.style;
            whole
                .lines()
                .map(|part| Text::styled(part.to_owned(), style))
                .collect::<Vec<_>>()
        })
        .collect();
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(Span::styled(
        title.to_owned(),
        Style::new().add_modifier(Modifier::BOLD),
    ));
    let text = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block);
    frame.render_widget(text, area);
}

/// A connection and its way through the node.
fn detail(known: &Known) -> Vec<Text<'static>> {
    let mut lines = vec![
        format!("node        {}", known.node),
        format!(
            "connection  {}  {}",
            known.word(&["connection"]),
            known.event
        ),
        format!("class       {}  {}", known.class, known.protocol),
        format!(
            "total       {}B in {} packets",
            short(known.totals.bytes),
            short(known.totals.packets)
        ),
    ];
    if known.fields.contains_key("tcp") {
        let rtt = known.number(&["tcp", "handshake_rtt_seconds"]);
        let rtt = rtt.map_or("-".to_owned(), |rtt| format!("{:.3}ms", rtt * 1e3));
        lines.push(format!(
            "tcp         {}  handshake {rtt}  retransmits {}",
            known.word(&["tcp", "state"]),
            known.number(&["tcp", "retransmits"]).unwrap_or_default()
        ));
    }
    let nat = |name: &str| known.word(&["nat", name]).to_owned();
    lines.push(format!(
        "nat         {}  cause {}  expected {}",
        nat("kind"),
        nat("cause"),
        nat("expected")
    ));
    lines.push(format!(
        "remote sees {}:{}",
        known.word(&["remote_sees", "ip"]),
        known.number(&["remote_sees", "port"]).unwrap_or_default()
    ));
    if known.fields.contains_key("drop") {
        lines.push(format!("dropped     {}", known.word(&["drop", "reason"])));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<18} {:<8} {:<8} {:>12} {:>12}  {}",
        "HOP", "ROLE", "WAY", "THERE", "BACK", "TUPLE"
    ));
    for hop in structs::list(&known.fields, &["hops"]) {
        let Some(hop) = structs::fields(hop) else {
            continue;
        };
        let word = |name: &str| structs::text(hop, &[name]).unwrap_or("-").to_owned();
        let count = |name: &str| {
            structs::number(hop, &[name]).map_or("-".to_owned(), |number| format!("{number}"))
        };
        let tuple = hop.get("tuple").and_then(structs::fields);
        let tuple = tuple.map_or(String::new(), |tuple| {
            let word = |name: &str| structs::text(tuple, &[name]).unwrap_or("?").to_owned();
            let port = |name: &str| structs::number(tuple, &[name]).unwrap_or_default();
            format!(
                "{}:{} > {}:{}",
                word("src"),
                port("sport"),
                word("dst"),
                port("dport")
            )
        });
        lines.push(format!(
            "{:<18} {:<8} {:<8} {:>12} {:>12}  {tuple}",
            word("interface"),
            word("role"),
            word("direction"),
            count("packets"),
            count("reply_packets")
        ));
    }
    lines.into_iter().map(Text::raw).collect()
}
