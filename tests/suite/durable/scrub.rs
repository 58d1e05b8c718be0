//! The scrub of a running server: an operator sees what is lost and what belongs to nobody before a client does,
//! in the metrics and in the log; a push mends both.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::harness::{Launch, legs, noise, setting, sha256, wait_for};

legs! {
    fn what_is_lost_and_what_is_nobodys_is_counted_until_it_is_pushed(leg) {
        let (kept, lost, orphan) = (noise(870, 5000), noise(871, 5000), noise(872, 5000));
        let hex = |bytes: &[u8]| sha256(bytes).to_string().replace("sha256:", "");
        let launch = Launch::on(leg).set(setting::SCRUB_INTERVAL, "100ms");
        let server = launch.expects_log(&hex(&lost)).expects_log(&hex(&orphan)).start();
        let mut client = server.client();
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        client.push_blob("durable/scrub", &kept);
        let gone = server.blob_file(client.push_blob("durable/scrub", &lost));
        let found = || {
            let metrics = server.metrics();
            ["lost_blobs", "orphan_files"].map(|name| metrics.sum(&format!("gantry_store_{name}"), &[]))
        };
        let scrubbed = || server.metric("gantry_store_scrubbed_timestamp_seconds");
        wait_for("a first look", || scrubbed() >= began as f64);
        assert_eq!(found(), [0.0, 0.0]);
        let warnings = || server.health()["warnings"].as_array().expect("a list").len();
        let before = warnings();

        fs::remove_file(&gone).unwrap();
        let nobodys = server.blob_file(sha256(&orphan));
        fs::write(&nobodys, &orphan).unwrap();
        wait_for("both are counted", || found() == [1.0, 1.0]);
        // An operator is told; clients are served as ever.
        assert_eq!(warnings(), before + 1);
        let health = client.get("/healthz").expect(200).json();
        let told = health["warnings"].as_array().expect("a list").last().expect("one").to_string();
        assert!(told.contains("blobs whose whole file the last scrub missed: 1"), "{told}");
        assert_eq!(health["writes"]["allowed"], true);
        client.get("/readyz").expect(200);
        let logged = |level: &str, hex: &str| {
            let level = format!("\"level\":\"{level}\"");
            server.log().iter().any(|line| line.contains(&level) && line.contains(hex))
        };
        wait_for("an alarm", || logged("ERROR", &hex(&lost)));
        wait_for("a warning", || logged("WARN", &hex(&orphan)));
        assert_eq!(fs::read(&nobodys).unwrap(), orphan, "it only looks");
        client.get(format!("/v2/durable/scrub/blobs/{}", sha256(&orphan))).refused(404, "BLOB_UNKNOWN");

        client.push_blob("durable/scrub", &lost);
        client.push_blob("durable/scrub", &orphan);
        wait_for("all is well", || found() == [0.0, 0.0]);
        assert_eq!(warnings(), before);
        for bytes in [&kept, &lost, &orphan] {
            client.assert_blob("durable/scrub", sha256(bytes), bytes);
        }
    }
}
