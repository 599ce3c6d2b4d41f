//! The agent's flow log, as the configuration asks for it.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use super::filters::FlowFilters;
use crate::config::{FlowLog as Config, LogTarget};
use crate::engine::Settle;
use crate::sink::log::{Choice, FlowLog, Limits, Reopener, Writer};
use crate::sink::proto::observer::GetFlowsRequest;

/// The words of one `--flow-log-include` or `--flow-log-exclude`.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Words {
    #[command(flatten)]
    filters: FlowFilters,
    #[arg(long)]
    node: Vec<String>,
}

/// Which flows the log is to have.
///
/// # Errors
/// When the words of a filter are not those of `observe`: wrong usage.
pub fn choice(config: Option<&Config>) -> anyhow::Result<Choice> {
    let Some(config) = config else {
        return Ok(Choice::default());
    };
    let read = |flag: &str, filters: &[String]| -> anyhow::Result<Vec<GetFlowsRequest>> {
        let each = filters.iter().map(|text| {
            let named =
                || format!("--flow-log-{flag} '{text}' (write filters as for `nodescope observe`)");
            let request = request(text).with_context(named)?;
            // What the words stand for may be wrong as well.
            Choice::new(std::slice::from_ref(&request), &[]).with_context(named)?;
            Ok(request)
        });
        each.collect()
    };
    let include = read("include", &config.include)?;
    let exclude = read("exclude", &config.exclude)?;
    Ok(Choice::new(&include, &exclude)?)
}

fn request(text: &str) -> anyhow::Result<GetFlowsRequest> {
    let words = shlex::split(text).context("a quote is not closed")?;
    if words.is_empty() {
        bail!("no filter");
    }
    let words = Words::try_parse_from(words).map_err(|error| {
        let said = error.render().to_string();
        let first = said.lines().next().unwrap_or_default();
        anyhow!("{}", first.trim_start_matches("error: ").to_owned())
    })?;
    let mut request = GetFlowsRequest::default();
    words.filters.of_nodes(&words.node).apply(&mut request);
    Ok(request)
}

/// Opens the log, if there is to be one, and has SIGHUP open its file anew.
///
/// # Errors
/// When it cannot be opened.
pub fn open(
    config: Option<&Config>,
    choice: Choice,
    settle: Settle,
) -> anyhow::Result<Option<(FlowLog, Writer)>> {
    let Some(config) = config else {
        return Ok(None);
    };
    let limits = Limits {
        size: config.max_size,
        files: config.max_files,
    };
    let path = match &config.target {
        LogTarget::Stdout => Path::new("-"),
        LogTarget::File(path) => path,
    };
    let (log, writer) = FlowLog::open(path, limits, choice, settle)?;
    if matches!(config.target, LogTarget::File(_)) {
        reopen_on_hangup(log.reopener())?;
    }
    Ok(Some((log, writer)))
}

fn reopen_on_hangup(log: Reopener) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() && log.reopen().await {
            tracing::info!("SIGHUP: the flow log is opened anew");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Tested = anyhow::Result<()>;

    fn asking(include: &[&str], exclude: &[&str]) -> Config {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Config {
            target: LogTarget::Stdout,
            max_size: 1 << 20,
            max_files: 1,
            include: owned(include),
            exclude: owned(exclude),
        }
    }

    #[test]
    fn filters_are_the_words_of_observe() -> Tested {
        use crate::sink::fixture::{masqueraded, ping};
        use crate::sink::observer::convert::response;
        let (tcp, icmp) = (response(&masqueraded()), response(&ping()));
        for (include, exclude, takes) in [
            (vec![], vec![], [true, true]),
            (vec!["--protocol tcp"], vec![], [true, false]),
            (
                vec!["--protocol tcp", "--protocol 'icmp'"],
                vec![],
                [true, true],
            ),
            (vec![], vec!["--snat"], [false, true]),
            (vec!["--protocol tcp"], vec!["--snat"], [false, false]),
            (vec![], vec!["--protocol tcp --snat=false"], [true, true]),
        ] {
            let choice = choice(Some(&asking(&include, &exclude)))?;
            let taken = [&tcp, &icmp].map(|record| choice.takes(record));
            assert_eq!(taken, takes, "{include:?} {exclude:?}");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_filter_is_named_in_one_line() {
        for (words, fault) in [
            ("--bogus 1", "unexpected argument '--bogus'"),
            ("--class nonsense", "invalid value 'nonsense'"),
            ("--ip 10.0.0.300", "10.0.0.300"),
            ("--pod 'a", "quote"),
            (" ", "no filter"),
        ] {
            let Err(error) = choice(Some(&asking(&[], &[words]))) else {
                panic!("`{words}` is taken for a filter");
            };
            let said = format!("{error:#}");
            let named = said.contains("--flow-log-exclude") && said.contains(words);
            assert!(named && said.contains(fault), "{said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
