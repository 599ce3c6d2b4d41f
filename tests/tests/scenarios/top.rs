//! The live view, on a terminal.

use std::process::Command;

use anyhow::{Context, Result};
use nodescope_tests::lab::binary;
use nodescope_tests::terminal::Terminal;

use crate::common::{agent, lab};

#[test]
fn top_shows_what_happens_now() -> Result<()> {
    let Some(lab) = lab("top")? else {
        return Ok(());
    };
    let mut first = agent(&lab, 0)?;
    let (web, vm) = (lab.pod("web")?, lab.topology().vm.ip().to_string());
    let _ping = lab.spawn(
        &web.netns(),
        ["ping", "-q", "-c", "6000", "-i", "0.02", &vm],
    )?;
    let server = format!("unix://{}", first.socket().display());
    let program = binary("NODESCOPE_BIN", "nodescope")?;
    let argv = [program.as_str(), "top", "--server", &server];
    let mut top = Terminal::start(&argv, (30, 160))?;
    let name = format!("default/{}", web.name());
    top.wait("the pod's echoes", |text| {
        text.contains(&name) && text.contains("ICMPv4") && text.contains(&vm)
    })?;
    assert!(top.is_full_screen());

    // The other lists.
    top.press("2")?;
    top.wait("the pod", |text| {
        text.contains("CONNECTIONS") && text.contains(&name)
    })?;
    top.press("3")?;
    let outside = lab.topology().nodes[0].ip.to_string();
    top.wait("its translation", |text| {
        text.contains("masquerade") && text.contains(&outside)
    })?;

    // As it is typed: the first word leaves the line, the second one none.
    top.press("1/icmp")?;
    top.wait("the echoes alone", |text| {
        text.contains("/icmp_") && text.contains(&vm)
    })?;
    top.press(" nothing")?;
    top.wait("no line", |text| text.contains("0 lines"))?;
    top.press("\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f\r")?;

    // In detail, and on a smaller screen.
    top.wait("the echoes again", |text| text.contains(&vm))?;
    top.press("j\r")?;
    let veth = web.host_interface().to_owned();
    top.wait("the path", |text| {
        [&veth, "cbr0", "eth0"]
            .iter()
            .all(|hop| text.contains(*hop))
    })?;
    top.resize(12, 60)?;
    top.wait("the smaller one", |text| {
        let lines: Vec<&str> = text.lines().collect();
        lines.len() == 12 && lines[11].contains("records") && text.contains("1 Connections")
    })?;
    top.press("\x1b")?;
    top.resize(30, 160)?;

    // An agent that goes is told of, and found again when it is back.
    first.kill9()?;
    top.wait("the news", |text| text.contains("asking again"))?;
    let before = records(&top.text());
    let _second = agent(&lab, 0)?;
    top.wait("records of the next agent", |text| {
        !text.contains("asking again") && records(text) > before
    })?;
    top.press("q")?;
    let status = top.end()?;
    assert!(status.success(), "{status}: {}", top.text());
    assert!(!top.is_full_screen());
    Ok(())
}

/// How many records came, by the last line.
fn records(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.lines().last()?.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "records")?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

#[test]
fn top_wants_a_terminal() -> Result<()> {
    let output = Command::new(binary("NODESCOPE_BIN", "nodescope")?)
        .args(["top", "--server", "unix:///nowhere"])
        .output()
        .context("running nodescope")?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("needs a terminal"), "{said}");
    Ok(())
}
