//! What is not connected to: private addresses unless they are allowed, some never; by name, by literal, by redirect.

use controlplane::upstream::{AllowPrivate, Failure, Network, Upstream, UpstreamSettings};
use faults::{Fault, On, Registry, To};

use super::rig::*;

#[tokio::test]
async fn loopback_has_to_be_allowed() {
    let registry = Registry::start_tls();
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{}", registry.addr().port());
        let mut settings = UpstreamSettings::new("docker.io", url);
        settings.ca_pem = Some(registry.ca_pem());
        let upstream = Upstream::new(settings.clone()).unwrap();
        assert_eq!(pull(&upstream, "latest").await, Err(Failure::AddressRefused), "{host}");
        settings.allow_private_addresses =
            AllowPrivate::Networks(vec![Network::parse("10.0.0.0/8").unwrap()]);
        let upstream = Upstream::new(settings.clone()).unwrap();
        assert_eq!(pull(&upstream, "latest").await, Err(Failure::AddressRefused), "{host}");
        settings.allow_private_addresses =
            AllowPrivate::Networks(vec![Network::parse("127.0.0.0/8").unwrap()]);
        let upstream = Upstream::new(settings).unwrap();
        assert_eq!(pull(&upstream, "latest").await, Ok(None), "{host}");
    }
    assert_eq!(registry.seen().len(), 2, "nobody was connected to before that");
}

#[tokio::test]
async fn a_redirect_leads_to_no_address_that_is_refused() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, 1000);
    let own = Network::parse("127.0.0.1").unwrap();
    let upstream =
        client_with(&registry, |all| all.allow_private_addresses = AllowPrivate::Networks(vec![own]));
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/",
        "http://[::ffff:169.254.169.254]/",
        "http://0.0.0.0:1/",
        "http://127.0.0.2:1/",
        "http://10.0.0.1/",
        "http://2852039166/",
    ] {
        registry.script(On::get("/blobs/"), Fault::Redirect(To::Url(url.into())));
        let failure = refused(&upstream, &digest, 0, None).await;
        assert_eq!(failure, Failure::AddressRefused, "{url}");
        registry.heal();
    }
    assert!(fetch(&upstream, &digest, 0, None).await.broken.is_none());
}
