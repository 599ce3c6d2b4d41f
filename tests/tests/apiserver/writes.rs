//! Writes over HTTP, with the rules that guard them.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::ResourceExt;
use serde_json::json;

use crate::support::{client, cluster, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_made_changed_and_deleted() {
    let server = cluster();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "kube-system");
    let mut map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).unwrap();
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    assert_eq!(code(maps.create(&PostParams::default(), &map).await), 409);

    map.metadata.resource_version = made.resource_version();
    map.data = Some([("a".to_owned(), "2".to_owned())].into());
    let changed = maps
        .replace("m", &PostParams::default(), &map)
        .await
        .unwrap();
    assert_ne!(changed.resource_version(), made.resource_version());
    assert_eq!(changed.uid(), made.uid());
    assert_eq!(
        code(maps.replace("m", &PostParams::default(), &map).await),
        409,
        "stale"
    );

    let patch = Patch::Merge(json!({"data": {"a": null, "b": "3"}}));
    let patched = maps
        .patch("m", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(
        patched.data.unwrap(),
        [("b".to_owned(), "3".to_owned())].into()
    );
    let apply = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap"}));
    assert_eq!(
        code(maps.patch("m", &PatchParams::apply("test"), &apply).await),
        415
    );
    assert_eq!(
        code(
            maps.create(
                &PostParams {
                    dry_run: true,
                    ..PostParams::default()
                },
                &map
            )
            .await
        ),
        400
    );

    maps.delete("m", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(maps.get("m").await), 404);
    assert_eq!(code(maps.delete("m", &DeleteParams::default()).await), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_status_has_its_own_path() {
    let server = cluster();
    let pods: Api<Pod> = Api::default_namespaced(client(&server).await);
    let patch = Patch::Strategic(json!({
        "metadata": {"labels": {"tier": "front"}},
        "spec": {"containers": [{"name": "c", "image": "web:2"}]},
        "status": {"phase": "Failed"},
    }));
    let main = pods
        .patch("web-1", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let container = &main.spec.as_ref().unwrap().containers[0];
    assert_eq!(
        (main.labels().len(), container.image.as_deref()),
        (2, Some("web:2"))
    );
    assert_eq!(main.status.unwrap().phase.as_deref(), Some("Running"));
    let patch = Patch::Merge(json!({"spec": {"nodeName": "x"}, "status": {"phase": "Failed"}}));
    let status = pods
        .patch_status("web-1", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(status.status.unwrap().phase.as_deref(), Some("Failed"));
    assert_eq!(status.spec.unwrap().node_name.as_deref(), Some("node-1"));

    pods.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("app=web"),
    )
    .await
    .unwrap();
    assert!(
        pods.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(
        server
            .store()
            .get("pods", "kube-system", "coredns")
            .is_some()
    );
}
