//! The ip-masq-agent: its configuration, its ConfigMaps, its rules.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use anyhow::{Result, ensure};

use super::model::Model;
use super::topology::Topology;
use super::{Lab, objects};

/// Name and key of the ConfigMap for users, and of the one that AKS writes.
const CONFIG_MAPS: [(&str, &str); 2] = [
    ("azure-ip-masq-agent-config", "ip-masq-agent"),
    (
        "azure-ip-masq-agent-config-reconciled",
        "ip-masq-agent-reconciled",
    ),
];

/// Link-local addresses (RFC 3927), the metadata service among them.
const LINK_LOCAL: &str = "169.254.0.0/16";

/// What is masqueraded on the way out of a node, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasqConfig {
    /// Destinations that see the pod's own address.
    pub non_masquerade: Vec<Ipv4Net>,
    /// Whether link-local destinations see the node's address.
    pub masq_link_local: bool,
}

impl MasqConfig {
    /// What a cluster starts with: Azure CNI keeps pods' addresses in the VNet, overlay among
    /// pods, kubenet has no ip-masq-agent configuration.
    pub fn of(topology: &Topology) -> Option<Self> {
        let kept = match topology.model {
            Model::Kubenet => return None,
            Model::AzureCni => topology.vnet,
            Model::Overlay => topology.pod_range,
        };
        Some(Self {
            non_masquerade: vec![kept],
            masq_link_local: true,
        })
    }

    /// As the ConfigMaps hold it.
    pub fn yaml(&self) -> String {
        let mut text = "NonMasqueradeCIDRs:".to_owned();
        if self.non_masquerade.is_empty() {
            text += " []";
        }
        for cidr in &self.non_masquerade {
            text += &format!("\n  - {cidr}");
        }
        format!("{text}\nMasqLinkLocal: {}\n", self.masq_link_local)
    }

    /// The chain IP-MASQ-AGENT, as the ip-masq-agent writes it.
    pub fn rules(&self) -> Vec<String> {
        let mut kept: Vec<String> = Vec::new();
        if !self.masq_link_local {
            kept.push(LINK_LOCAL.to_owned());
        }
        kept.extend(self.non_masquerade.iter().map(Ipv4Net::to_string));
        let mut rules = vec![
            "-N IP-MASQ-AGENT".to_owned(),
            "-A POSTROUTING -m comment --comment \"ip-masq-agent: ensure nat POSTROUTING directs \
             all non-LOCAL destination traffic to our custom IP-MASQ-AGENT chain\" \
             -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT"
                .to_owned(),
        ];
        rules.extend(kept.iter().map(|cidr| {
            format!(
                "-A IP-MASQ-AGENT -d {cidr} -m comment --comment \"ip-masq-agent: local traffic \
                 is not subject to MASQUERADE\" -m addrtype ! --dst-type LOCAL -j RETURN"
            )
        }));
        rules.push(
            "-A IP-MASQ-AGENT -m comment --comment \"ip-masq-agent: outbound traffic is subject \
             to MASQUERADE (must be last in chain)\" -m addrtype ! --dst-type LOCAL -j MASQUERADE"
                .to_owned(),
        );
        rules
    }

    /// Both ConfigMaps.
    pub fn config_maps(&self) -> Vec<Value> {
        let labels = json!({
            "addonmanager.kubernetes.io/mode": "Reconcile",
            "component": "ip-masq-agent",
            "kubernetes.io/cluster-service": "true",
        });
        CONFIG_MAPS
            .iter()
            .map(|(name, key)| {
                json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": objects::metadata(Some("kube-system"), name, labels.clone()),
                    "data": {*key: self.yaml()},
                })
            })
            .collect()
    }
}

impl Lab {
    /// Writes the masquerade configuration into both ConfigMaps; with `applied` the nodes'
    /// rules follow, without they stay as they are, as when nobody restarted the agent.
    pub fn set_masq_config(&self, config: &MasqConfig, applied: bool) -> Result<()> {
        ensure!(
            self.topology.model != Model::Kubenet,
            "kubenet has no ip-masq-agent rules: choose azure-cni or overlay"
        );
        for map in config.config_maps() {
            self.apply(|| map)?;
        }
        if applied {
            self.lock().masq = Some(config.clone());
            self.sync_services()?;
        }
        Ok(())
    }

    /// The masquerade configuration that the nodes' rules follow; none with kubenet.
    pub fn masq_config(&self) -> Option<MasqConfig> {
        self.lock().masq.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_returns_before_the_last_rule_masquerades() {
        let mut config = MasqConfig::of(&Topology::overlay()).unwrap();
        let rules = config.rules();
        assert!(rules[2].contains("-d 10.244.0.0/16") && rules[2].ends_with("-j RETURN"));
        assert!(rules.last().unwrap().ends_with("-j MASQUERADE"));
        assert_eq!(rules.len(), 4);
        config.masq_link_local = false;
        assert!(config.rules()[2].contains("-d 169.254.0.0/16"));
    }

    #[test]
    fn the_config_maps_hold_yaml() {
        let config = MasqConfig::of(&Topology::azure_cni()).unwrap();
        let value: Value = serde_yaml_ng::from_str(&config.yaml()).unwrap();
        let wanted = json!({"NonMasqueradeCIDRs": ["10.220.0.0/16"], "MasqLinkLocal": true});
        assert_eq!(value, wanted);
    }
}
