//! ConfigMaps of the masquerade agents, good and bad.

use serde_json::{Value, json};

use super::super::masquerade::{self, Masquerade, MasqueradeConfig};
use super::super::table::Change;
use super::super::tables::{Tables, Update};
use super::super::{CONFIG_MAPS, Overrides, trim};
use super::{Outcome, at};

fn config_map(name: &str, data: Value) -> Outcome<masquerade::MasqueradeRecord> {
    let object = json!({"metadata": {"name": name, "namespace": "kube-system"}, "data": data});
    Ok(trim::masquerade(serde_json::from_value(object)?))
}

/// Tables whose three lists are complete, with these ConfigMaps in them.
fn listed(overrides: Overrides, maps: &[(usize, Value)]) -> Outcome<Tables> {
    let mut tables = Tables::new(overrides);
    for (which, name) in CONFIG_MAPS.into_iter().enumerate() {
        tables.apply(Update::Masquerade(which, Change::Begin), at(1));
        for (_, data) in maps.iter().filter(|(of, _)| *of == which) {
            let record = config_map(name, data.clone())?;
            tables.apply(Update::Masquerade(which, Change::Listed(record)), at(1));
        }
        tables.apply(Update::Masquerade(which, Change::Complete), at(1));
    }
    Ok(tables)
}

fn said(maps: &[(usize, Value)]) -> Outcome<Masquerade> {
    let mut tables = listed(Overrides::default(), maps)?;
    Ok(tables.build().masquerade().clone())
}

fn file(text: &str) -> Value {
    json!({"ip-masq-agent": text})
}

fn configured(maps: &[(usize, Value)]) -> Outcome<MasqueradeConfig> {
    match said(maps)? {
        Masquerade::Configured(config) => Ok(config),
        other => Err(format!("{other:?}").into()),
    }
}

#[test]
fn both_config_maps_are_united() -> Outcome {
    let user = file("nonMasqueradeCIDRs:\n- 10.1.0.0/16\n- 10.244.0.0/16\nresyncInterval: 60s\n");
    let kept = json!({"ip-masq-agent-reconciled":
        "NonMasqueradeCIDRs: [10.244.0.0/16]\nMasqLinkLocal: true"});
    let config = configured(&[(0, user), (1, kept)])?;
    let ranges: Vec<String> = config
        .non_masquerade
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ranges, ["10.1.0.0/16", "10.244.0.0/16"]);
    assert_eq!(config.masq_link_local, Some(true));
    assert_eq!(
        config.source,
        "ConfigMap azure-ip-masq-agent-config and azure-ip-masq-agent-config-reconciled"
    );
    Ok(())
}

#[test]
fn json_upstreams_key_and_nothing_at_all() -> Outcome {
    let config = configured(&[(
        2,
        json!({"config": "{\"nonMasqueradeCIDRs\": [\"10.0.0.0/8\"]}"}),
    )])?;
    assert_eq!(config.source, "ConfigMap ip-masq-agent");
    assert_eq!(config.masq_link_local, Some(false));
    for empty in ["", "# nothing\n", "{}", "nonMasqueradeCIDRs:\n"] {
        let config = configured(&[(0, file(empty))])?;
        assert!(config.non_masquerade.is_empty(), "{empty:?}");
    }
    assert_eq!(said(&[])?, Masquerade::Absent);
    Ok(())
}

#[test]
fn one_mistake_makes_all_of_it_unknown_and_is_named() -> Outcome {
    let many: Vec<String> = (0..65).map(|n| format!("- 10.{n}.0.0/16")).collect();
    let many = format!("nonMasqueradeCIDRs:\n{}", many.join("\n"));
    for (text, wanted) in [
        ("nonMasqueradeCIDRs: [10.0.0.0/8", "no YAML"),
        ("\tnonMasqueradeCIDRs:", "no YAML"),
        ("- 10.0.0.0/8", "not keys and values"),
        ("just words", "not keys and values"),
        ("nonMasqueradeCIDRs: 10.0.0.0/8", "is no list"),
        ("nonMasqueradeCIDRs: [10.0.0.0/33]", "`10.0.0.0/33`"),
        ("nonMasqueradeCIDRs: [10.0.0.0]", "`10.0.0.0`"),
        ("nonMasqueradeCIDRs: [10.0.0.1/8]", "write 10.0.0.0/8"),
        ("nonMasqueradeCIDRs: [8]", "is no text"),
        ("nonMasqueradeCIDRs: [[a]]", "is no text"),
        ("masqLinkLocal: maybe", "neither true nor false"),
        (many.as_str(), "65 ranges"),
    ] {
        let good = file("nonMasqueradeCIDRs: [10.244.0.0/16]");
        match said(&[(0, file(text)), (1, good)])? {
            Masquerade::Unknown(why) => {
                assert!(why.contains(wanted), "{text:?}: {why}");
                assert!(
                    why.starts_with("ConfigMap azure-ip-masq-agent-config, ip-masq-agent: ")
                        && !why.contains('\n'),
                    "{why}"
                );
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
    match said(&[(0, json!({"other": "x"}))])? {
        Masquerade::Unknown(why) => assert!(why.contains("no key `ip-masq-agent`"), "{why}"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn nothing_is_concluded_before_all_are_listed() -> Outcome {
    let mut tables = Tables::new(Overrides::default());
    tables.apply(Update::Masquerade(0, Change::Begin), at(1));
    tables.apply(Update::Masquerade(0, Change::Complete), at(1));
    let inventory = tables.build();
    let Masquerade::Unknown(why) = inventory.masquerade() else {
        panic!("{:?}", inventory.masquerade())
    };
    assert!(why.contains("--non-masquerade-cidr"), "{why}");
    assert!(!inventory.is_complete());
    Ok(())
}

#[test]
fn an_edit_shows_and_the_flag_wins() -> Outcome {
    let mut tables = listed(Overrides::default(), &[(0, file("masqLinkLocal: true"))])?;
    assert!(tables.is_changed());
    let record = config_map(CONFIG_MAPS[0], file("masqLinkLocal: no way"))?;
    tables.build();
    assert!(!tables.is_changed());
    tables.apply(Update::Masquerade(0, Change::Applied(record)), at(2));
    assert!(tables.is_changed());
    let inventory = tables.build();
    assert!(matches!(inventory.masquerade(), Masquerade::Unknown(_)));

    let overrides = Overrides {
        non_masquerade: vec!["10.0.0.0/8".parse()?],
        ..Overrides::default()
    };
    let mut tables = listed(overrides, &[(0, file("masqLinkLocal: true"))])?;
    let inventory = tables.build();
    let Masquerade::Configured(config) = inventory.masquerade() else {
        panic!("{:?}", inventory.masquerade())
    };
    assert_eq!(config.source, "--non-masquerade-cidr");
    assert_eq!(config.masq_link_local, Some(true));
    assert_eq!(config.non_masquerade.len(), 1);
    Ok(())
}
