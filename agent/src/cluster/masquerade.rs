//! What the ConfigMaps of the masquerade agents say: which destinations pods reach under their
//! own address.
//!
//! Read as azure-ip-masq-agent-v2 and the upstream ip-masq-agent read them: every file (key)
//! that begins with `ip-masq`, keys of the YAML in any case, ranges united, booleans or-ed, a
//! text with one mistake refused as a whole.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_yaml_ng::{Mapping, Value};

use crate::flow::ObjectName;

/// The ConfigMaps, all in [`NAMESPACE`]: AKS's for users, the one that AKS keeps, upstream's.
pub const CONFIG_MAPS: [&str; 3] = [
    "azure-ip-masq-agent-config",
    "azure-ip-masq-agent-config-reconciled",
    "ip-masq-agent",
];

/// Where the ConfigMaps are.
pub const NAMESPACE: &str = "kube-system";

/// Keys that the agents take for files of theirs begin so (ip-masq-agent-v2,
/// `configFilePrefix`).
const KEY_PREFIX: &str = "ip-masq";
/// The key of upstream's ConfigMap (`--from-file=config` in its manual).
const UPSTREAM_KEY: &str = "config";
/// More ranges in one file the agents refuse (`MasqConfig.validate`).
const MAX_RANGES: usize = 64;

/// Which destinations keep the pod's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MasqueradeConfig {
    /// Ranges that pods reach under their own address; sorted.
    pub non_masquerade: Vec<IpNet>,
    /// Whether the address is translated towards 169.254.0.0/16; `None`: nothing says.
    pub masq_link_local: Option<bool>,
    /// Who says so, for people: names of ConfigMaps, a flag, or a default.
    pub source: String,
}

/// What is known of the masquerade configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// It says this.
    Configured(MasqueradeConfig),
    /// The API has none of the ConfigMaps.
    Absent,
    /// It cannot be told, and why: nothing may be concluded.
    Unknown(String),
}

impl Default for Masquerade {
    fn default() -> Self {
        Self::Unknown(
            "the ConfigMaps of the masquerade agent were not read (no API, no answer yet, or not \
             permitted to read them): give --non-masquerade-cidr"
                .to_owned(),
        )
    }
}

/// What one ConfigMap says; `None` without a file for the agent.
pub(super) type Parsed = Result<Option<Rules>, String>;

/// What files of the agent say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    ranges: Vec<IpNet>,
    link_local: bool,
}

/// One ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MasqueradeRecord {
    pub(super) name: ObjectName,
    pub(super) rules: Parsed,
}

/// Reads the files in a ConfigMap.
pub(super) fn parse(name: &str, data: &BTreeMap<String, String>) -> Parsed {
    let upstream = name == CONFIG_MAPS[2];
    let mut found = None;
    for (key, text) in data {
        if key.starts_with(KEY_PREFIX) || (upstream && key == UPSTREAM_KEY) {
            let rules = parse_file(text).map_err(|why| format!("ConfigMap {name}, {key}: {why}"));
            found.get_or_insert_with(Rules::default).join(&rules?);
        }
    }
    Ok(found)
}

impl Rules {
    fn join(&mut self, other: &Self) {
        self.ranges.extend(&other.ranges);
        self.ranges.sort_unstable();
        self.ranges.dedup();
        self.link_local |= other.link_local;
    }
}

fn parse_file(text: &str) -> Result<Rules, String> {
    let value: Value = serde_yaml_ng::from_str(text)
        .map_err(|error| format!("no YAML ({}); mend its text", first_line(&error)))?;
    let mut rules = Rules::default();
    let mapping = match value {
        Value::Null => return Ok(rules),
        Value::Mapping(mapping) => mapping,
        _ => return Err("not keys and values: write `nonMasqueradeCIDRs:` and a list".to_owned()),
    };
    for (key, value) in known(&mapping) {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("nonmasqueradecidrs", Value::Sequence(list)) => {
                if list.len() > MAX_RANGES {
                    let count = list.len();
                    return Err(format!(
                        "{count} ranges in nonMasqueradeCIDRs: the agent takes {MAX_RANGES} at most"
                    ));
                }
                for entry in list {
                    rules.ranges.push(range(entry)?);
                }
            }
            ("nonmasqueradecidrs", _) => {
                return Err("nonMasqueradeCIDRs is no list: write one `- CIDR` a line".to_owned());
            }
            ("masqlinklocal", Value::Bool(yes)) => rules.link_local = *yes,
            ("masqlinklocal", _) => {
                return Err("masqLinkLocal is neither true nor false".to_owned());
            }
            // The interval of the agent has no bearing on what is translated in the end.
            _ => {}
        }
    }
    rules.ranges.sort_unstable();
    rules.ranges.dedup();
    Ok(rules)
}

/// Keys in lower case: Go's JSON reads `NonMasqueradeCIDRs` and `nonMasqueradeCIDRs` alike.
fn known(mapping: &Mapping) -> impl Iterator<Item = (String, &Value)> {
    mapping
        .iter()
        .filter_map(|(key, value)| Some((key.as_str()?.to_lowercase(), value)))
}

fn range(value: &Value) -> Result<IpNet, String> {
    let Some(text) = value.as_str() else {
        return Err(format!(
            "an entry of nonMasqueradeCIDRs is no text but {value:?}"
        ));
    };
    let net: IpNet = text
        .parse()
        .map_err(|_| format!("`{text}` in nonMasqueradeCIDRs is no CIDR: write 10.0.0.0/8"))?;
    if net.trunc() != net {
        return Err(format!(
            "`{text}` in nonMasqueradeCIDRs has host bits set: write {}",
            net.trunc()
        ));
    }
    Ok(net)
}

fn first_line(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The configuration in force: what the flags say, else the union of the ConfigMaps.
///
/// `listed`: whether the API has told of all of them.
pub(super) fn unite<'a>(
    flags: &[IpNet],
    records: impl Iterator<Item = &'a MasqueradeRecord>,
    listed: bool,
) -> Masquerade {
    let read = union(records, listed);
    if flags.is_empty() {
        return read;
    }
    // The flag gives ranges only.
    let masq_link_local = match read {
        Masquerade::Configured(config) => config.masq_link_local,
        Masquerade::Absent | Masquerade::Unknown(_) => None,
    };
    let mut non_masquerade = flags.to_vec();
    non_masquerade.sort_unstable();
    Masquerade::Configured(MasqueradeConfig {
        non_masquerade,
        masq_link_local,
        source: "--non-masquerade-cidr".to_owned(),
    })
}

fn union<'a>(records: impl Iterator<Item = &'a MasqueradeRecord>, listed: bool) -> Masquerade {
    if !listed {
        return Masquerade::default();
    }
    let (mut all, mut names, mut without) = (Rules::default(), Vec::new(), Vec::new());
    let mut records: Vec<_> = records.collect();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    for record in records {
        match &record.rules {
            Err(why) => return Masquerade::Unknown(why.clone()),
            Ok(None) => without.push(record.name.name.as_str()),
            Ok(Some(rules)) => {
                names.push(record.name.name.as_str());
                all.join(rules);
            }
        }
    }
    match (names.is_empty(), without.is_empty()) {
        (true, true) => Masquerade::Absent,
        (true, false) => Masquerade::Unknown(format!(
            "ConfigMap {}: no key `ip-masq-agent` in it: the masquerade agent falls back to ranges \
             of its own; add the key or give --non-masquerade-cidr",
            without.join(", ")
        )),
        (false, _) => Masquerade::Configured(MasqueradeConfig {
            non_masquerade: all.ranges,
            masq_link_local: Some(all.link_local),
            source: format!("ConfigMap {}", names.join(" and ")),
        }),
    }
}
