//! Names in a lab: namespaces, interfaces, hardware addresses, pods.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

/// What every network namespace of every lab starts with.
pub const NAMESPACE_PREFIX: &str = "ns-lab";

/// The alphabet of generated Kubernetes names (apimachinery, `util/rand`): no vowels and no
/// look-alikes, so that no word comes out.
const KUBE_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Checks a lab's name: 1 to 32 lower-case letters and digits.
///
/// No hyphen: `ns-lab<name>-` must not be the beginning of another lab's namespaces.
pub fn check_lab_name(name: &str) -> Result<()> {
    let plain = name
        .bytes()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.is_empty() || name.len() > 32 || !plain {
        bail!("lab name '{name}': give 1 to 32 lower-case letters and digits");
    }
    Ok(())
}

/// The prefix of the namespaces of lab `lab`: `ns-lab<lab>-`.
pub fn namespace_prefix(lab: &str) -> String {
    format!("{NAMESPACE_PREFIX}{lab}-")
}

/// The namespace of `role` (`node0`, `fabric`, `pod-web`…) in lab `lab`.
pub fn namespace(lab: &str, role: &str) -> String {
    format!("{}{role}", namespace_prefix(lab))
}

/// A host-side interface name, `prefix` and `digits` hex digits made from `seed`: the same
/// seed gives the same name, as a CNI plugin that hashes the pod's name.
pub fn host_interface(prefix: &str, digits: usize, seed: &str) -> String {
    let hex = format!("{:016x}", fnv1a(seed));
    format!("{prefix}{}", &hex[..digits.min(hex.len())])
}

/// The hardware address that CNI plugins derive from a pod's IPv4 address: `0a:58` and its
/// four bytes (containernetworking, `utils/hwaddr`).
pub fn pod_mac(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The hardware address of a machine in the VNet, under the vendor prefix that Azure's
/// virtual interfaces have (00:0d:3a).
pub fn machine_mac(ip: Ipv4Addr) -> String {
    let [_, b, c, d] = ip.octets();
    format!("00:0d:3a:{b:02x}:{c:02x}:{d:02x}")
}

/// A pod-template hash as the Deployment controller writes it, made from `seed`.
pub fn template_hash(seed: &str) -> String {
    kube_suffix(seed, 10)
}

/// `length` characters of the alphabet of generated Kubernetes names, made from `seed`.
pub fn kube_suffix(seed: &str, length: usize) -> String {
    let mut hash = fnv1a(seed);
    (0..length)
        .map(|_| {
            hash = hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = (hash >> 33) as usize % KUBE_ALPHABET.len();
            char::from(KUBE_ALPHABET[index])
        })
        .collect()
}

/// A UUID-shaped string made from `seed`.
pub fn uid(seed: &str) -> String {
    let (a, b) = (fnv1a(seed), fnv1a(&format!("{seed}/uid")));
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// A node port made from `seed`, of the range that Kubernetes takes them from by default
/// (30000 to 32767).
pub fn node_port(seed: &str) -> u16 {
    let offset = fnv1a(seed) % 2768;
    u16::try_from(30_000 + offset).unwrap_or(30_000)
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): a stable hash, unlike the standard library's.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_shape_of_the_real_ones() {
        let name = host_interface("veth", 8, "default/web");
        assert_eq!(name.len(), 12);
        assert_eq!(name, host_interface("veth", 8, "default/web"));
        assert_ne!(name, host_interface("veth", 8, "default/web2"));
        assert_eq!(pod_mac(Ipv4Addr::new(10, 244, 0, 15)), "0a:58:0a:f4:00:0f");
        assert_eq!(uid("x").len(), 36);
        assert_eq!(kube_suffix("web", 5).len(), 5);
    }

    #[test]
    fn a_hyphen_in_a_lab_name_is_refused() {
        assert!(check_lab_name("a-b").is_err());
        assert!(check_lab_name("").is_err());
        assert!(check_lab_name("snat12345").is_ok());
    }
}
