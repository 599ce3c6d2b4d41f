//! Frames sent as they are, malformed ones too.

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER_PERMISSIVE;
use pnet_datalink::{Channel, Config};
use serde_json::json;

use super::paged;

/// Sends each of `frames` (hex) out of `interface`, `count` times; prints how many were sent. With
/// `linear` the kernel keeps all but so many bytes of each in pages.
pub(super) fn send(
    interface: &str,
    frames: &[String],
    count: u32,
    linear: Option<u16>,
) -> Result<()> {
    let frames = frames
        .iter()
        .map(|hex| {
            HEXLOWER_PERMISSIVE
                .decode(hex.as_bytes())
                .with_context(|| format!("frame '{hex}' is not hex"))
        })
        .collect::<Result<Vec<_>>>()?;
    if let Some(linear) = linear {
        let sent = paged::send_paged(interface, &frames, count, linear)?;
        println!("{}", json!({"sent": sent}));
        return Ok(());
    }
    let interfaces = pnet_datalink::interfaces();
    let Some(interface) = interfaces.iter().find(|found| found.name == interface) else {
        bail!("no interface '{interface}' here");
    };
    let config = Config {
        promiscuous: false,
        ..Config::default()
    };
    let Channel::Ethernet(mut sender, _) = pnet_datalink::channel(interface, config)? else {
        bail!("{} carries no Ethernet frames", interface.name);
    };
    let mut sent = 0;
    for _ in 0..count {
        for frame in &frames {
            sender
                .send_to(frame, None)
                .context("the interface takes no frame")?
                .with_context(|| format!("sending {} bytes", frame.len()))?;
            sent += 1;
        }
    }
    println!("{}", json!({"sent": sent}));
    Ok(())
}
