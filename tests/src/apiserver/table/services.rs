//! The columns of services, Endpoints and EndpointSlices.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::age;
use super::{Column, Printer, joined, labels, or_none, text, wide};
use crate::apiserver::object;

pub(super) const PRINTER: Printer = Printer {
    columns: &SERVICE,
    cells: service,
};
pub(super) const ENDPOINTS: Printer = Printer {
    columns: &ENDPOINTS_COLUMNS,
    cells: endpoints,
};
pub(super) const ENDPOINT_SLICES: Printer = Printer {
    columns: &SLICE,
    cells: slice,
};

const SERVICE: [Column; 7] = [
    text("Name"),
    text("Type"),
    text("Cluster-IP"),
    text("External-IP"),
    text("Port(s)"),
    text("Age"),
    wide("Selector"),
];

const ENDPOINTS_COLUMNS: [Column; 3] = [text("Name"), text("Endpoints"), text("Age")];

const SLICE: [Column; 5] = [
    text("Name"),
    text("AddressType"),
    text("Ports"),
    text("Endpoints"),
    text("Age"),
];

fn service(service: &Value, now: Timestamp) -> Vec<Value> {
    let cluster_ip = match object::list(service, "/spec/clusterIPs").first() {
        Some(first) => first.as_str().unwrap_or_default(),
        None => object::text(service, "/spec/clusterIP"),
    };
    let ports = object::list(service, "/spec/ports").iter().map(|port| {
        let (number, protocol) = (
            object::number(port, "/port"),
            object::text(port, "/protocol"),
        );
        match object::number(port, "/nodePort") {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    });
    vec![
        json!(object::name(service)),
        json!(object::text(service, "/spec/type")),
        or_none(cluster_ip),
        external_ip(service),
        joined(ports),
        json!(age(service, now)),
        labels(service, "/spec/selector"),
    ]
}

fn external_ip(service: &Value) -> Value {
    let given: Vec<&str> = object::list(service, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match object::text(service, "/spec/type") {
        "ExternalName" => or_none(object::text(service, "/spec/externalName")),
        "LoadBalancer" => {
            let ingress = object::list(service, "/status/loadBalancer/ingress");
            let balanced = ingress.iter().map(|i| match object::text(i, "/ip") {
                "" => object::text(i, "/hostname"),
                ip => ip,
            });
            let all: Vec<&str> = balanced.chain(given).collect();
            if all.is_empty() {
                json!("<pending>")
            } else {
                json!(all.join(","))
            }
        }
        _ => or_none(&given.join(",")),
    }
}

/// Items that one cell shows before "+ n more...".
const SHOWN: usize = 3;

fn shortened(items: &[String]) -> Value {
    match items.len().checked_sub(SHOWN) {
        None | Some(0) => or_none(&items.join(",")),
        Some(more) => json!(format!("{} + {more} more...", items[..SHOWN].join(","))),
    }
}

fn endpoints(endpoints: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in object::list(endpoints, "/subsets") {
        let ports = object::list(subset, "/ports");
        for address in object::list(subset, "/addresses") {
            let ip = object::text(address, "/ip");
            let brackets = ip.contains(':');
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(
                ports
                    .iter()
                    .map(|port| match (object::number(port, "/port"), brackets) {
                        (port, true) => format!("[{ip}]:{port}"),
                        (port, false) => format!("{ip}:{port}"),
                    }),
            );
        }
    }
    vec![
        json!(object::name(endpoints)),
        shortened(&all),
        json!(age(endpoints, now)),
    ]
}

fn slice(slice: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = object::list(slice, "/ports")
        .iter()
        .map(|port| match object::number(port, "/port") {
            0 => "*".to_owned(),
            port => port.to_string(),
        })
        .collect();
    let addresses: Vec<String> = object::list(slice, "/endpoints")
        .iter()
        .flat_map(|endpoint| object::list(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let unset = |list: &[String]| match list.is_empty() {
        true => json!("<unset>"),
        false => shortened(list),
    };
    vec![
        json!(object::name(slice)),
        json!(object::text(slice, "/addressType")),
        unset(&ports),
        unset(&addresses),
        json!(age(slice, now)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_balancer_and_its_ports() {
        let mut object = json!({
            "metadata": {"name": "web"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.9", "selector": {"app": "web"},
                     "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"},
                               {"port": 53, "protocol": "UDP"}]},
        });
        let row = service(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(
            (&row[3], &row[4]),
            (&json!("<pending>"), &json!("80:30080/TCP,53/UDP"))
        );
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "20.1.1.1"}]}});
        let row = service(&object, Timestamp::UNIX_EPOCH);
        assert_eq!((&row[3], &row[6]), (&json!("20.1.1.1"), &json!("app=web")));
    }

    #[test]
    fn long_lists_are_shortened() {
        let addresses: Vec<Value> = (1..=5)
            .map(|n| json!({"addresses": [format!("10.0.0.{n}")]}))
            .collect();
        let object = json!({"addressType": "IPv4", "ports": [], "endpoints": addresses});
        let row = slice(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[2], "<unset>");
        assert_eq!(row[3], "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more...");
    }
}
