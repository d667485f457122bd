//! The pods' network of a composed node image: a bridge per node and a route to every other node's.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::command::Cmd;
use crate::docker::Docker;

/// One node's place in the network.
struct Place {
    name: String,
    address: String,
    pods: String,
}

/// Sets the network up on every node. `kubectl` is a command with the cluster's kubeconfig.
pub(super) fn set_up(
    docker: &Docker,
    kubectl: impl Fn() -> anyhow::Result<Cmd>,
    work: &Path,
) -> anyhow::Result<()> {
    let nodes = kubectl()?.args(["get", "nodes", "--output=json"]).run()?;
    let places = places(&serde_json::from_str(&nodes).context("failed to read the nodes")?)?;
    for place in &places {
        let copy = |name: &str, content: &str, to: &str| {
            let file = work.join(name);
            fs::write(&file, content)?;
            docker.cmd(["cp", "--quiet"]).arg(&file).arg(format!("{}:{to}", place.name)).run()
        };
        copy("pod-routes", &routes(place, &places), "/etc/pod-routes")?;
        docker.cmd(["exec", &place.name, "systemctl", "restart", "pod-routes"]).run()?;
        // This file comes last, since the node becomes Ready with it.
        copy("10.conflist", &plugins(place).to_string(), "/etc/cni/net.d/10.conflist")?;
    }
    Ok(())
}

fn places(nodes: &Value) -> anyhow::Result<Vec<Place>> {
    let nodes = nodes["items"].as_array().context("there is no list of nodes")?;
    let place = |node: &Value| {
        let addresses = node["status"]["addresses"].as_array()?;
        let internal = addresses.iter().filter(|address| address["type"] == "InternalIP");
        // The network has IPv6 addresses too.
        let address =
            internal.filter_map(|address| address["address"].as_str()).find(|ip| !ip.contains(':'))?;
        Some(Place {
            name: node["metadata"]["name"].as_str()?.to_owned(),
            address: address.to_owned(),
            pods: node["spec"]["podCIDR"].as_str()?.to_owned(),
        })
    };
    let found: Option<Vec<_>> = nodes.iter().map(place).collect();
    found.context("a node has no address or no range of pod addresses yet")
}

/// The input of `ip -batch`.
fn routes(own: &Place, all: &[Place]) -> String {
    let others = all.iter().filter(|other| other.name != own.name);
    others.map(|other| format!("route replace {} via {}\n", other.pods, other.address)).collect()
}

fn plugins(place: &Place) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": place.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_gets_a_route_to_every_other() {
        let node = |name: &str, last: u8| {
            json!({
                "metadata": {"name": name},
                "spec": {"podCIDR": format!("10.244.{last}.0/24")},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": "fc00::2"},
                    {"type": "InternalIP", "address": format!("172.18.0.{last}")},
                ]},
            })
        };
        let places = places(&json!({"items": [node("a", 2), node("b", 3)]})).unwrap();
        assert_eq!(routes(&places[0], &places), "route replace 10.244.3.0/24 via 172.18.0.3\n");
        assert_eq!(routes(&places[1], &places), "route replace 10.244.2.0/24 via 172.18.0.2\n");
    }
}
