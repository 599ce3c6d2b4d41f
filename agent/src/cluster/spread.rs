//! Agents that start together, as in a roll-out of their DaemonSet, do not ask for the whole
//! cluster at one moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Each pod of the cluster widens the time over which lists are spread by so much: what a list
/// costs the API server grows with the cluster, and so does the number of agents.
const WIDTH_OF_A_POD: Duration = Duration::from_micros(100);
/// It is no wider than this: a name that comes later is a name that was missed.
const WIDEST: Duration = Duration::from_secs(10);
/// An API server that does not say how many pods there are within this is asked for the list.
const PATIENCE: Duration = Duration::from_secs(5);

/// When this agent may ask for lists that grow with the cluster.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Pods of the cluster, as far as known.
    pods: AtomicU64,
    first: OnceCell<Duration>,
}

impl Spread {
    /// How long the first lists wait: the same for all of this agent's. One that is alone in a
    /// small cluster waits for an answer of one object, and no more.
    pub(super) async fn first(&self, client: &Client) -> Duration {
        let pick = || async {
            if let Ok(Ok(pods)) = timeout(PATIENCE, count(client)).await {
                self.set_pods(pods);
            }
            self.again()
        };
        *self.first.get_or_init(pick).await
    }

    /// How long a list waits that has to be asked for anew.
    pub(super) fn again(&self) -> Duration {
        width(self.pods.load(Ordering::Relaxed)).mul_f64(fastrand::f64())
    }

    /// Takes over how many pods there are, or at least are.
    pub(super) fn set_pods(&self, pods: u64) {
        self.pods.fetch_max(pods, Ordering::Relaxed);
    }
}

fn width(pods: u64) -> Duration {
    let pods = u32::try_from(pods).unwrap_or(u32::MAX);
    WIDTH_OF_A_POD.saturating_mul(pods).min(WIDEST)
}

/// How many pods there are: a list of one says how many are left out.
async fn count(client: &Client) -> kube::Result<u64> {
    let pods: Api<Pod> = Api::all(client.clone());
    let list = pods.list_metadata(&ListParams::default().limit(1)).await?;
    let left = list.metadata.remaining_item_count.unwrap_or_default();
    Ok(u64::try_from(left).unwrap_or_default() + list.items.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_spread_wider_in_larger_clusters() {
        assert_eq!(width(0), Duration::ZERO);
        assert_eq!(width(30), Duration::from_millis(3));
        assert_eq!(width(50_000), Duration::from_secs(5));
        assert_eq!(width(u64::MAX), WIDEST);
        let spread = Spread::default();
        assert_eq!(spread.again(), Duration::ZERO);
        spread.set_pods(50_000);
        let all: Vec<Duration> = (0..1000).map(|_| spread.again()).collect();
        assert!(all.iter().all(|one| *one < Duration::from_secs(5)));
        let early = all.iter().filter(|one| **one < Duration::from_secs(1));
        // A fifth of 1,000, give or take eight standard deviations.
        assert!((100..300).contains(&early.count()));
    }
}
