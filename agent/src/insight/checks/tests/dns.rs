use super::*;

/// The head of a DNS answer with this code to the conversation of [`question`].
fn answer(code: u8) -> crate::datapath::Head {
    let mut bytes = vec![0; 12];
    bytes[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    crate::datapath::Head {
        time_ns: 91_000_000_000,
        key: nodescope_ebpf::HopKey {
            a: nodescope_ebpf::mapped([10, 0, 0, 10]),
            b: nodescope_ebpf::mapped([10, 244, 0, 15]),
            a_port: 53,
            b_port: 40_000,
            protocol: 17,
            ..nodescope_ebpf::HopKey::default()
        },
        from_a: true,
        sequence: 0,
        length: 80,
        bytes,
    }
}

fn question() -> Flow {
    let mut flow = pod_to_pod();
    flow.tuple.protocol = Protocol::UDP;
    flow.tuple.destination = socket([10, 0, 0, 10], 53);
    flow.tcp = None;
    flow
}

#[test]
fn dns_is_judged_by_the_code_of_the_answer() {
    for (code, wanted, word) in [
        (0, Verdict::Pass, "NOERROR"),
        (3, Verdict::Pass, "NXDOMAIN"),
        (2, Verdict::Fail, "SERVFAIL"),
        (5, Verdict::Fail, "REFUSED"),
    ] {
        let mut known = Known::new(vec![question()]);
        known.dns.take(&answer(code));
        let found = known.check("dns-answers");
        assert_eq!(found.verdict, wanted, "{}", found.evidence);
        assert!(found.evidence.contains(word), "{}", found.evidence);
    }
    // Answered, but nobody read what: no evidence.
    assert_eq!(verdict("dns-answers", vec![question()]), Verdict::Unknown);
}

#[test]
fn questions_without_an_answer_fail() {
    let mut silent = question();
    silent.reply = Traffic::default();
    let mut known = Known::new(vec![question(), silent]);
    known.dns.take(&answer(0));
    let found = known.check("dns-answers");
    assert_eq!(found.verdict, Verdict::Fail);
    assert!(
        found
            .evidence
            .contains("of 2 conversations 1 without an answer"),
        "{}",
        found.evidence
    );
}
