//! What the mirror counts stands among the metrics, for each upstream.

use controlplane::upstream::Policy;

use super::registry::{Fault, Registry};
use super::rig::{Rig, always_look};

#[tokio::test]
async fn each_way_to_an_answer_is_counted() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig =
        Rig::hub(&registry, Policy { negative_ttl: std::time::Duration::from_secs(60), ..always_look() });
    rig.pull("app", "1").await;
    rig.pull("app", "1").await;
    rig.size("app", image.layer).await;
    assert!(rig.manifest("app", "2").await.unwrap().is_none());
    assert!(rig.manifest("app", "2").await.unwrap().is_none());
    registry.fail("", Fault::Cut);
    rig.pull("app", "1").await;
    let text = rig.plane.metrics();
    for line in [
        "gantry_mirror_manifests_total{upstream=\"docker.io\",from=\"upstream\"} 1",
        "gantry_mirror_manifests_total{upstream=\"docker.io\",from=\"kept\"} 1",
        "gantry_mirror_manifests_total{upstream=\"docker.io\",from=\"stale\"} 1",
        "gantry_mirror_revalidations_total{upstream=\"docker.io\",found=\"same\"} 1",
        "gantry_mirror_revalidations_total{upstream=\"docker.io\",found=\"failed\"} 1",
        "gantry_mirror_links_total{upstream=\"docker.io\",by=\"manifest\"} 1",
        "gantry_mirror_absences_total{upstream=\"docker.io\"} 1",
        // The client's own.
        "gantry_upstream_requests_total{upstream=\"docker.io\"} 4",
        "gantry_upstream_failures_total{upstream=\"docker.io\",why=\"unreachable\"} 1",
        "gantry_upstream_credentials_rejected_total{upstream=\"docker.io\"} 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("budget_left{"), "it told of none");
}
