use super::*;

#[test]
fn what_runs_out_fails_before_it_is_gone() -> Result<(), Box<dyn std::error::Error>> {
    let mut known = Known::new(Vec::new());
    for (entries, wanted) in [(10, Verdict::Pass), (90, Verdict::Fail)] {
        known.conntrack = Ok(Conntrack {
            entries,
            limit: 100,
        });
        assert_eq!(known.verdict("conntrack-headroom"), wanted);
    }
    let towards = |ports| InUse {
        destination: Destination {
            address: socket([10, 1, 2, 3], 443),
            protocol: Protocol::TCP,
            from: IpAddr::from([10, 224, 0, 4]),
        },
        ports,
        pods: vec![("default/web".into(), 7)],
    };
    for (ports, wanted) in [(7, Verdict::Pass), (60_000, Verdict::Fail)] {
        known.ports = Some(towards(ports));
        let found = known.check("snat-port-headroom");
        assert_eq!(found.verdict, wanted);
        assert!(found.evidence.contains("default/web"), "{}", found.evidence);
    }
    // Seven that are known, of nobody knows how many: no pass.
    known.ports = Some(towards(7));
    known.more_ports = true;
    let found = known.check("snat-port-headroom");
    assert_eq!(found.verdict, Verdict::Unknown);
    assert!(
        found.evidence.contains("at least 7 ports"),
        "{}",
        found.evidence
    );
    known.ports = Some(towards(60_000));
    assert_eq!(known.verdict("snat-port-headroom"), Verdict::Fail);
    // Full is what is asked for.
    known.ports = Some(towards(700));
    known.more_ports = false;
    assert_eq!(known.verdict("snat-port-headroom"), Verdict::Pass);
    known.full_percent = 1;
    assert_eq!(known.verdict("snat-port-headroom"), Verdict::Fail);
    known.full_percent = FULL_PERCENT;
    known.inventory = Inventory::new(Overrides {
        pod_cidrs: vec!["10.244.0.0/24".parse()?],
        ..Overrides::default()
    });
    let found = known.check("pod-cidr-headroom");
    assert_eq!(found.verdict, Verdict::Pass);
    assert!(found.evidence.starts_with("0 of 254"), "{}", found.evidence);
    Ok(())
}

#[test]
fn conntrack_is_read_or_the_file_named() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("nf_conntrack_count"), "12\n")?;
    let missing = Conntrack::read_from(directory.path());
    assert!(missing.is_err_and(|why| why.contains("nf_conntrack_max")));
    std::fs::write(directory.path().join("nf_conntrack_max"), "262144\n")?;
    let read = Conntrack::read_from(directory.path())?;
    assert_eq!((read.entries, read.limit), (12, 262_144));
    Ok(())
}
