use std::time::{Duration, SystemTime};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::flows::Flows;
use super::keys::{Action, View};
use super::panes::{Pane, lines, short};
use super::screen;
use crate::flow::Event;
use crate::sink::fixture::{at, masqueraded, traffic};
use crate::sink::observer::convert;

type Tested = anyhow::Result<()>;

/// A connection that was told of twice, five seconds apart.
fn flows() -> Flows {
    let mut flows = Flows::default();
    let mut flow = masqueraded();
    flow.time = at(100);
    flows.take(&convert::response(&flow));
    flow.time = at(105);
    flow.event = Event::Update;
    flow.forward = traffic(50);
    flows.take(&convert::response(&flow));
    flows
}

fn now() -> SystemTime {
    at(106)
}

fn screen(flows: &Flows, view: &mut View, width: u16, height: u16) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| screen::draw_at(frame, flows, view, now()))?;
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(usize::from(width));
    let text = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
    Ok(text.map(|row| row.trim_end().to_owned() + "\n").collect())
}

fn press(view: &mut View, flows: &mut Flows, keys: &str) -> Action {
    let mut last = Action::Stay;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            key => KeyCode::Char(key),
        };
        last = view.press(KeyEvent::new(code, KeyModifiers::NONE), flows);
    }
    last
}

#[test]
fn a_rate_is_what_came_since_the_record_before() {
    let flows = flows();
    let Some(known) = flows.all.values().next() else {
        panic!("nothing is known");
    };
    assert_eq!(flows.all.len(), 1);
    let carried = super::flows::Rate {
        bytes: known.number(&["forward", "bytes"]).unwrap_or_default()
            + known.number(&["reply", "bytes"]).unwrap_or_default(),
        packets: 0.0,
    };
    assert_eq!(known.rate(now()).bytes, carried.bytes / 5.0);
    // Nothing has been told of it for long.
    assert_eq!(known.rate(at(200)).bytes, 0.0);
}

#[test]
fn every_list_is_drawn_at_any_size() -> Tested {
    let mut flows = flows();
    let mut view = View::new(1);
    for pane in Pane::ALL {
        view.pane = pane;
        for size in [(120, 24), (80, 10), (20, 5), (1, 1)] {
            screen(&flows, &mut view, size.0, size.1)?;
        }
    }
    press(&mut view, &mut flows, "1");
    let wide = screen(&flows, &mut view, 160, 10)?;
    assert!(wide.contains("BYTES/S v"), "{wide}");
    assert!(wide.contains("1 lines  2 records"), "{wide}");
    press(&mut view, &mut flows, "3");
    let nat = screen(&flows, &mut view, 160, 10)?;
    assert!(nat.contains("snat") && nat.contains("masquerade"), "{nat}");
    Ok(())
}

#[test]
fn the_filter_is_in_force_as_it_is_typed() -> Tested {
    let mut flows = flows();
    let mut view = View::new(1);
    press(&mut view, &mut flows, "/tcp");
    assert!(screen(&flows, &mut view, 100, 8)?.contains("1 lines"));
    press(&mut view, &mut flows, "q");
    let none = screen(&flows, &mut view, 100, 8)?;
    assert!(
        none.contains("/tcpq_") && none.contains("0 lines"),
        "{none}"
    );
    assert_eq!(press(&mut view, &mut flows, "\x1b"), Action::Stay);
    assert!(screen(&flows, &mut view, 100, 8)?.contains("1 lines"));
    assert_eq!(press(&mut view, &mut flows, "q"), Action::Leave);
    Ok(())
}

#[test]
fn a_connection_has_its_path() -> Tested {
    let mut flows = flows();
    let mut view = View::new(1);
    screen(&flows, &mut view, 100, 20)?;
    press(&mut view, &mut flows, "j\n");
    let detail = screen(&flows, &mut view, 100, 20)?;
    for word in ["remote sees", "veth0", "eth0", "uplink", "cause masquerade"] {
        assert!(detail.contains(word), "{word}: {detail}");
    }
    press(&mut view, &mut flows, "\x1b?");
    assert!(screen(&flows, &mut view, 100, 20)?.contains("pause"));
    Ok(())
}

#[test]
fn while_paused_nothing_changes() {
    let mut flows = flows();
    let mut view = View::new(1);
    press(&mut view, &mut flows, "p");
    let mut other = masqueraded();
    other.connection += 1;
    flows.take(&convert::response(&other));
    flows.forget(now() + Duration::from_secs(100_000));
    assert_eq!(flows.all.len(), 1);
    press(&mut view, &mut flows, "p");
    flows.forget(now() + Duration::from_secs(100_000));
    assert_eq!(flows.all.len(), 0);
}

#[test]
fn numbers_come_first_the_largest_before() {
    let mut flows = flows();
    let mut small = masqueraded();
    small.connection += 1;
    small.time = at(105);
    small.forward = traffic(1);
    small.reply = traffic(0);
    flows.take(&convert::response(&small));
    let bytes = |reversed| -> Vec<String> {
        let lines = lines(&flows, Pane::Connections, "", (2, reversed), now());
        lines
            .into_iter()
            .map(|line| line.cells[2].clone())
            .collect()
    };
    let (mut down, up) = (bytes(false), bytes(true));
    down.reverse();
    assert_eq!(down, up);
    assert_eq!(up[0], "100");
    assert_eq!(
        [0.0, 7.0, 0.25, 999.0, 1_000.0, 12_345.0, 9.99e6].map(short),
        ["0", "7", "0.2", "999", "1.0k", "12k", "10M"]
    );
}
