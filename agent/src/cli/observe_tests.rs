//! What the flags of `observe` ask for.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn parse(line: &str) -> Result<Args, clap::Error> {
    let words = ["observe"].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args)
}

#[test]
fn how_many_flows() -> Result<(), clap::Error> {
    for (line, number, first, follow) in [
        ("", 20, false, false),
        ("--last 7", 7, false, false),
        ("--first 7", 7, true, false),
        ("--all", u64::MAX, false, false),
        ("--follow", 0, false, true),
        ("-f --last 7", 7, false, true),
        ("--since 5m", 0, false, false),
        ("--until 2030-01-02T03:04:05Z", 20, false, false),
    ] {
        let request = parse(line)?.request();
        let got = (request.number, request.first, request.follow);
        assert_eq!(got, (number, first, follow), "{line}");
        assert_eq!(request.since.is_some(), line.contains("--since"));
        assert_eq!(request.until.is_some(), line.contains("--until"));
    }
    Ok(())
}

#[test]
fn what_excludes_each_other() {
    for line in [
        "--last 1 --first 1",
        "--last 1 --all",
        "--first 1 --follow",
        "--input-file x --follow",
        "--since soon",
        "--last many",
        "-o yaml",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn what_several_agents_sent_is_trimmed_to_the_number() -> Result<(), clap::Error> {
    for (line, wanted) in [
        ("--last 2", &[3, 4][..]),
        ("--first 2", &[1, 2]),
        ("--all", &[1, 2, 3, 4]),
        ("--since 5m", &[1, 2, 3, 4]),
        ("--since 5m --last 1", &[4]),
    ] {
        let mut flows = vec![1, 2, 3, 4];
        parse(line)?.trim(&mut flows);
        assert_eq!(flows, wanted, "{line}");
    }
    Ok(())
}
