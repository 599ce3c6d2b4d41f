//! Expectations, causes and ports, without any API.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::cluster::{Inventory, Local};
use crate::flow::{Event, Expected, Flow, Identity, NatCause, NatKind, NatSource, Tuple};
use crate::node::ModelKind;
use crate::sink::fixture;

use super::in_force::InForce;
use super::{Expectation, Translations, expect};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A pod of `node-0` to `to`, seen from there as `seen`.
fn flow(connection: u64, to: &str, seen: &str) -> Outcome<Flow> {
    let mut flow = fixture::masqueraded();
    let destination: SocketAddr = to.parse()?;
    let original = Tuple {
        source: "10.244.0.15:40000".parse()?,
        destination,
        ..flow.tuple
    };
    let translated = Tuple {
        source: seen.parse()?,
        ..original
    };
    flow.connection = connection;
    flow.event = Event::Update;
    flow.source = Identity::UnknownPod;
    flow.destination = Identity::World;
    flow.destination_service = None;
    flow.tuple = original;
    flow.nat.original = original;
    flow.nat.translated = translated;
    flow.nat.kind = if original == translated {
        NatKind::None
    } else {
        NatKind::Snat
    };
    flow.nat.cause = NatCause::None;
    flow.nat.expected = Expected::Unknown;
    flow.nat.source = Some(NatSource::Skb);
    flow.expectation = None;
    Ok(flow)
}

fn local() -> Outcome<Local> {
    let own = ["10.224.0.4".parse()?, "10.244.0.1".parse()?];
    Ok(Local::with_addresses("node-0", own))
}

fn in_force(ranges: &[&str], link_local: Option<bool>) -> Outcome<InForce> {
    let ranges: Result<Vec<_>, _> = ranges.iter().map(|range| range.parse()).collect();
    Ok(InForce::certain(Ok(crate::cluster::MasqueradeConfig {
        non_masquerade: ranges?,
        masq_link_local: link_local,
        source: "ConfigMap x".to_owned(),
    })))
}

fn expected(to: &str, config: &InForce) -> Outcome<Expectation> {
    let flow = flow(1, to, "10.244.0.15:40000")?;
    let found = expect(&flow, &Inventory::default(), &local()?, config);
    found.ok_or_else(|| "no pod opened it".into())
}

#[test]
fn ranges_link_local_own_addresses_and_ipv6() -> Outcome {
    let config = in_force(&["10.244.0.0/16"], Some(false))?;
    for (to, wanted, because) in [
        ("10.244.7.1:80", Expected::Kept, "10.244.0.0/16 is not"),
        ("10.1.2.3:80", Expected::Translated, "but 10.244.0.0/16"),
        ("169.254.169.254:80", Expected::Kept, "MasqLinkLocal"),
        (
            "168.63.129.16:80",
            Expected::Translated,
            "but 10.244.0.0/16",
        ),
        ("10.224.0.4:10250", Expected::Kept, "address of this node"),
        ("224.0.0.251:5353", Expected::Unknown, "group"),
        ("[2001:db8::1]:80", Expected::Unknown, "IPv6"),
    ] {
        let found = expected(to, &config)?;
        assert_eq!(found.expected, wanted, "{to}: {}", found.because);
        assert!(found.because.contains(because), "{to}: {}", found.because);
    }
    let config = in_force(&[], Some(true))?;
    let found = expected("169.254.169.254:80", &config)?;
    assert_eq!(found.expected, Expected::Translated);
    let config = in_force(&[], None)?;
    let found = expected("169.254.169.254:80", &config)?;
    assert_eq!(found.expected, Expected::Unknown);
    // Named by a range, link-local or not.
    let config = in_force(&["0.0.0.0/0"], Some(true))?;
    let found = expected("169.254.169.254:80", &config)?;
    assert_eq!(found.expected, Expected::Kept);
    Ok(())
}

#[test]
fn what_cannot_be_known_is_unknown_with_the_reason() -> Outcome {
    let empty = Inventory::default();
    for (model, because) in [
        (ModelKind::Cilium, "BPF"),
        (ModelKind::Kubenet, "--non-masquerade-cidr"),
        (ModelKind::Overlay, "--non-masquerade-cidr"),
    ] {
        let config = InForce::new(&empty, model);
        let found = expected("10.1.2.3:80", &config)?;
        assert_eq!(found.expected, Expected::Unknown);
        assert!(found.because.contains(because), "{}", found.because);
    }
    Ok(())
}

#[test]
fn what_no_pod_here_opened_is_not_judged() -> Outcome {
    let config = in_force(&[], Some(true))?;
    let mut from_outside = flow(1, "10.244.0.16:80", "10.1.2.3:40000")?;
    from_outside.source = Identity::World;
    let found = expect(&from_outside, &Inventory::default(), &local()?, &config);
    assert_eq!(found, None);
    let mut from_elsewhere = flow(1, "10.244.0.16:80", "10.244.0.15:40000")?;
    from_elsewhere.hops.clear();
    let found = expect(&from_elsewhere, &Inventory::default(), &local()?, &config);
    assert_eq!(found, None);
    Ok(())
}

fn ports(translations: &Translations) -> Vec<(String, usize)> {
    let all = translations.ports().into_iter();
    all.map(|one| (one.destination.to_string(), one.ports))
        .collect()
}

#[test]
fn ports_are_counted_once_and_given_back() -> Outcome {
    let translations = Translations::new(3);
    let inventory = Arc::new(Inventory::default());
    let local = local()?;
    let show = |mut flow: Flow| {
        translations.observe(&mut flow, &inventory, &local, ModelKind::Kubenet);
        flow
    };
    for _ in 0..2 {
        show(flow(1, "10.1.2.3:443", "10.224.0.4:40000")?);
        show(flow(2, "10.1.2.3:443", "10.224.0.4:40001")?);
    }
    show(flow(3, "10.224.1.2:80", "10.244.0.15:40000")?);
    let one = "10.1.2.3:443/TCP".to_owned();
    assert_eq!(ports(&translations), [(one.clone(), 2)]);
    // Full: what is left out is counted.
    show(flow(4, "10.1.2.3:443", "10.224.0.4:40002")?);
    assert_eq!((translations.open().len(), translations.left_out()), (3, 1));
    assert_eq!(ports(&translations), [(one.clone(), 2)]);
    let mut last = flow(1, "10.1.2.3:443", "10.224.0.4:40000")?;
    last.event = Event::Close;
    show(last);
    assert_eq!(ports(&translations), [(one, 1)]);
    let mut last = flow(2, "10.1.2.3:443", "10.224.0.4:40001")?;
    last.event = Event::Close;
    show(last.clone());
    show(last);
    assert!(ports(&translations).is_empty());
    Ok(())
}

#[test]
fn an_entry_that_was_not_seen_is_no_mismatch() -> Outcome {
    let mut flow = flow(1, "10.1.2.3:443", "10.244.0.15:40000")?;
    flow.nat.expected = Expected::Translated;
    assert!(flow.nat.is_mismatch());
    flow.nat.source = None;
    assert!(!flow.nat.is_mismatch());
    // Another port alone is no masquerade.
    flow.nat.source = Some(NatSource::Skb);
    flow.nat.expected = Expected::Kept;
    flow.nat.translated.source.set_port(1024);
    assert!(!flow.nat.is_mismatch());
    assert!(flow.nat.observed().contains("kept but for the port"));
    Ok(())
}
