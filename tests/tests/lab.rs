//! The lab itself: does the cluster that it builds behave as a kubenet cluster does?

use std::time::Instant;

use nodescope_tests::lab::{self, Lab};

#[test]
fn a_cluster_comes_up() {
    if !lab::is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let start = Instant::now();
    let lab = Lab::builder("up").start().unwrap();
    eprintln!("up after {:?}", start.elapsed());
    let web = lab.pod("web").unwrap();
    for ip in ["10.244.0.16", "10.244.1.15", "10.224.1.2", "10.1.2.3", "168.63.129.16"] {
        let out = web.run(["ping", "-c1", "-W1", ip]).unwrap().success().unwrap();
        eprintln!("{out}");
    }
    for url in ["http://10.224.1.2:8080/", "http://api.default.svc.cluster.local/", "http://web2.default.svc.cluster.local/", "http://web.default.svc.cluster.local"] {
        let out = web.run_lab(["http-get", url, "--dns", "10.0.0.10"]).unwrap().success().unwrap();
        eprintln!("{out}");
    }
    let start = Instant::now();
    drop(lab);
    eprintln!("down after {:?}", start.elapsed());
}
