//! Where translations come from, decided at the start of the agent.

use crate::config::NatSource;
use crate::engine::Engine;
use crate::node::conntrack;

/// Follows conntrack's events when that is asked for, or when packets cannot be read.
///
/// # Errors
/// When they are asked for by name and are not to be had.
pub fn choose(engine: &mut Engine, wanted: NatSource) -> anyhow::Result<()> {
    let unread = engine.datapath().nat_off().map(str::to_owned);
    let why = match (wanted, unread) {
        (NatSource::Off, _) => {
            tracing::info!("translations are not looked for (--nat-source off)");
            return Ok(());
        }
        (NatSource::Auto | NatSource::Skb, None) => return Ok(()),
        (NatSource::Skb, Some(why)) => {
            tracing::warn!(
                "translations are not known: they cannot be read from packets ({why}), and \
                 --nat-source skb allows nothing else"
            );
            return Ok(());
        }
        (NatSource::Auto, Some(why)) => format!("they cannot be read from packets: {why}"),
        (NatSource::Netlink, _) => "--nat-source netlink".to_owned(),
    };
    match conntrack::conntrack() {
        Ok(followed) => {
            tracing::info!("translations come from conntrack's events ({why})");
            if !conntrack::has_events() {
                tracing::warn!(
                    "net.netfilter.nf_conntrack_events is 0: translations of short connections \
                     are missed; set it to 1"
                );
            }
            engine.follow(followed);
        }
        Err(error) if wanted == NatSource::Netlink => return Err(error.into()),
        Err(error) => tracing::warn!("translations are not known: {why}, and {error}"),
    }
    Ok(())
}
