//! Outputs and helps held against what they were: `snapshots/` has them all.
//! `INSTA_UPDATE=always cargo test -p nodescope --lib` writes them anew.

use clap::CommandFactory as _;

use super::page::{Page, Style};

/// A text as it was last time.
pub fn same(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A page as it is piped, on a terminal of 80 columns, and with colours.
pub fn same_pages(name: &str, fill: impl Fn(&mut Page)) {
    for (kind, style) in [
        ("piped", Style::default()),
        (
            "narrow",
            Style {
                width: Some(80),
                ..Style::default()
            },
        ),
        (
            "coloured",
            Style {
                colour: true,
                ..Style::default()
            },
        ),
    ] {
        let mut page = Page::new(style);
        fill(&mut page);
        let widest = page.text().lines().map(|line| line.chars().count()).max();
        if kind == "narrow" {
            assert!(
                widest <= Some(80),
                "{name}: {widest:?} columns:\n{}",
                page.text()
            );
        }
        same(&format!("{name}-{kind}"), page.text());
    }
}

#[test]
fn helps() {
    let root = super::Cli::command().term_width(100);
    same("help", &root.clone().render_long_help().to_string());
    for command in root.get_subcommands() {
        let name = command.get_name();
        let mut command = command
            .clone()
            .term_width(100)
            .bin_name(format!("nodescope {name}"))
            // What the environment of the test says is none of the help's.
            .mut_args(|arg| arg.hide_env_values(true));
        same(
            &format!("help-{name}"),
            &command.render_long_help().to_string(),
        );
    }
}

#[test]
fn as_a_plugin_the_help_is_kubectls() {
    let mut command = super::command(Some("/usr/bin/kubectl-nodescope".as_ref())).term_width(100);
    command.build();
    let Some(drops) = command.find_subcommand_mut("drops") else {
        panic!("no command drops");
    };
    let help = drops.render_long_help().to_string();
    assert!(help.contains("Usage: kubectl nodescope drops"), "{help}");
    assert!(
        help.contains("  kubectl nodescope drops --pod web"),
        "{help}"
    );
    let plain = super::command(Some("nodescope".as_ref()))
        .render_help()
        .to_string();
    assert!(plain.contains("Usage: nodescope"), "{plain}");
}
