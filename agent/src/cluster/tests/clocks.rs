//! Clocks that are wrong: those of other nodes, whose kubelets say when a pod began and ended, and
//! the node's own.

use serde_json::json;

use super::{Api, Outcome, at, pod};
use crate::cluster::Overrides;

const IP: &str = "10.244.0.15";

#[test]
fn a_pod_that_began_in_the_future_or_long_ago_is_named() -> Outcome {
    for start in ["2099-12-31T00:00:00Z", "1970-01-01T00:00:00Z"] {
        let mut api = Api::new(Overrides::default());
        let mut one = pod("one", "node-0", IP);
        one["status"]["startTime"] = start.into();
        api.pod(one.clone(), at(2))?;
        assert_eq!(api.holder(IP, at(3))?, "one", "{start}");
        api.delete_pod(one, at(5))?;
        let mut two = pod("two", "node-0", IP);
        two["status"]["startTime"] = start.into();
        api.pod(two, at(6))?;
        assert_eq!(api.holder(IP, at(4))?, "one", "{start}");
        assert_eq!(api.holder(IP, at(7))?, "two", "{start}");
    }
    Ok(())
}

#[test]
fn a_pod_that_will_have_ended_has() -> Outcome {
    let mut api = Api::new(Overrides::default());
    let mut done = pod("done", "node-0", IP);
    done["status"]["phase"] = "Succeeded".into();
    let ended = json!({"exitCode": 0, "finishedAt": "2026-01-01T01:00:00Z"});
    done["status"]["containerStatuses"] = json!([{
        "name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
        "state": {"terminated": ended}
    }]);
    api.pod(done, at(10))?;
    api.pod(pod("next", "node-0", IP), at(12))?;
    assert_eq!(api.holder(IP, at(9))?, "done");
    assert_eq!(api.holder(IP, at(13))?, "next");
    Ok(())
}

#[test]
fn a_clock_that_is_set_back_gives_no_address_to_who_is_gone() -> Outcome {
    let mut api = Api::new(Overrides::default());
    let one = pod("one", "node-0", IP);
    api.pod(one.clone(), at(3000))?;
    api.delete_pod(one, at(3600))?;
    // An hour back.
    api.pod(pod("two", "node-0", IP), at(10))?;
    assert_eq!(api.holder(IP, at(11))?, "two");
    Ok(())
}
