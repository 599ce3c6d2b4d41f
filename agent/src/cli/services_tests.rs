use super::super::snapshot::{same, same_pages};
use super::*;
use crate::sink::proto::node::ServiceTraffic;

fn list(node: &str, kept: u64, lost: u64, agrees: &str) -> ListServicesResponse {
    ListServicesResponse {
        node: node.to_owned(),
        services: vec![ServiceReport {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            r#type: "LoadBalancer".to_owned(),
            policy: "Local".to_owned(),
            seen: Some(ServiceTraffic {
                external_kept: kept,
                external_lost: lost,
                ..ServiceTraffic::default()
            }),
            agrees: agrees.to_owned(),
            ..ServiceReport::default()
        }],
    }
}

#[test]
fn nodes_are_summed_and_one_that_disagrees_is_heard() {
    let quiet = join(vec![list("a", 0, 0, "unknown"), list("b", 0, 0, "unknown")]);
    assert_eq!(
        (quiet[0].client_ip(), quiet[0].agrees()),
        ("unseen", "unknown")
    );
    let kept = join(vec![list("a", 2, 0, "yes"), list("b", 0, 0, "unknown")]);
    assert_eq!((kept[0].client_ip(), kept[0].agrees()), ("kept", "yes"));
    let mixed = join(vec![list("a", 2, 0, "yes"), list("b", 0, 1, "no")]);
    assert_eq!((mixed[0].client_ip(), mixed[0].agrees()), ("mixed", "no"));
    let value = json(&mixed[0]);
    assert_eq!(value["external_kept"], 2);
    assert_eq!(value["nodes"][1]["external_lost"], 1);
    let mut page = Page::new(Style::default());
    table(&mut page, &mixed, false);
    let text = page.text();
    assert!(text.starts_with("NAMESPACE  NAME"), "{text}");
    assert!(text.contains("2/1"), "{text}");
}

#[test]
fn pages_as_they_were() {
    let mut lists = vec![list("node-0", 2, 0, "yes"), list("node-1", 0, 1, "no")];
    lists[1].services[0].evidence = vec!["203.0.113.7 came as 10.224.0.5".to_owned()];
    lists[1].services[0].health = Some(crate::sink::proto::node::HealthAnswer {
        status: 200,
        local_endpoints: Some(1),
    });
    let services = join(lists);
    same_pages("services", |page| table(page, &services, false));
    let mut page = Page::new(Style::default());
    table(&mut page, &services, true);
    same("services-wide", page.text());
    same("services-json", &json(&services[0]).to_string());
    same(
        "services-compact",
        &compact(&services[0]).unwrap_or_default(),
    );
}
