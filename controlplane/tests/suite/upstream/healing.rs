//! Whatever went wrong: the next question after it is answered, by the same client.

use std::time::{Duration, Instant};

use control::Memory;
use faults::{Auth, Fault, On, Place, Registry, To};

use super::rig::*;

#[tokio::test]
async fn nothing_stays_poisoned() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[10]);
    let (digest, bytes) = blob(&registry, 300_000);
    registry.require(Auth::bearer());
    let upstream = client_with(&registry, |all| {
        all.timeouts.connect = Duration::from_millis(200);
        all.timeouts.first_byte = Duration::from_millis(200);
        all.timeouts.stall = Duration::from_millis(200);
        all.timeouts.budget_wait = Duration::from_millis(150);
        all.timeouts.breaker = Duration::from_millis(100);
    });
    let faults = [
        Fault::ResetBeforeHead,
        Fault::StallBeforeHead,
        Fault::Reset { at: 0 },
        Fault::Reset { at: 150_000 },
        Fault::Reset { at: 299_000 },
        Fault::Stall { at: 150_000 },
        Fault::Truncated { at: 150_000 },
        Fault::TruncatedAsAnnounced { at: 150_000 },
        Fault::WrongBytes,
        Fault::ExtraBytes { bytes: 100 },
        Fault::Huge { bytes: 64 << 20 },
        Fault::Gzip,
        Fault::Status(401),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Redirect(To::Itself),
        Fault::Redirect(To::Foreign),
        Fault::RangeIgnored,
        Fault::RangeShifted { by: 5 },
        Fault::AnotherTotal { by: 5 },
    ];
    for fault in faults {
        for place in [Place::Own, Place::Foreign] {
            if place == Place::Foreign {
                registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
            }
            registry.script(On::any("/v2/").at(place), fault.clone());
            let _whatever = pull(&upstream, "latest").await;
            if let Ok(Some(fetched)) =
                upstream.blob(&repository(), &digest, 1000, None, Memory::counted()).await
            {
                body(fetched).await;
            }
            registry.heal();
            // At most as long as the breaker and a pause may take.
            let begun = Instant::now();
            loop {
                let pulled = pull(&upstream, "latest").await;
                let fetched = upstream.blob(&repository(), &digest, 0, None, Memory::counted()).await;
                if let (Ok(Some(_)), Ok(Some(fetched))) = (&pulled, fetched)
                    && body(fetched).await.bytes == bytes
                {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(30), "{fault:?} at {place:?}: {pulled:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    let strangers = registry.seen();
    let mut strangers = strangers.iter().filter(|seen| seen.place == Place::Foreign);
    assert!(strangers.all(|seen| seen.header("authorization").is_none()));
}
