//! A proxy: everything goes through it, but only to hosts that belong to the upstream.

use controlplane::{
    limits,
    upstream::{Failure, Proxy, UpstreamSettings},
};
use faults::{Fault, On, Place, Registry, To};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::rig::*;

/// Takes CONNECT, tells its heads, and answers with `answer`; connects only after a 200.
async fn proxy(answer: String) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (heads, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (heads, answer) = (heads.clone(), answer.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                heads.send(head).unwrap();
                // A client that has heard enough may be gone.
                let _gone = client.write_all(answer.as_bytes()).await;
                if answer.starts_with("HTTP/1.1 200") {
                    let mut server = TcpStream::connect(target).await.unwrap();
                    let _ended = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (url, seen)
}

fn through(url: &str) -> impl FnOnce(&mut UpstreamSettings) {
    let credentials = Some(("u".to_owned(), "p".into()));
    let proxy = Proxy { url: url.to_owned(), credentials };
    |all| all.proxy = Some(proxy)
}

#[tokio::test]
async fn everything_goes_through_it() {
    for registry in [Registry::start(), Registry::start_tls()] {
        registry.push_image(NAME, "latest", &[10]);
        let (url, mut seen) = proxy("HTTP/1.1 200 Connection established\r\n\r\n".into()).await;
        let upstream = client_with(&registry, |all| {
            through(&url)(all);
            if registry.url().starts_with("https") {
                all.ca_pem = Some(registry.ca_pem());
            }
        });
        assert!(pull(&upstream, "latest").await.unwrap().is_some());
        let head = seen.recv().await.unwrap();
        assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", registry.addr())), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic dTpw\r\n"), "{head}");
        let strangers = registry.seen();
        assert!(strangers.iter().all(|seen| seen.header("proxy-authorization").is_none()));
    }
}

#[tokio::test]
async fn a_list_of_hosts_takes_the_place_of_addresses() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, 1000);
    registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
    let (url, mut seen) = proxy("HTTP/1.1 200 OK\r\n\r\n".into()).await;
    let upstream = client_with(&registry, through(&url));
    assert_eq!(refused(&upstream, &digest, 0, None).await, Failure::AddressRefused);
    seen.recv().await.unwrap();
    assert!(seen.try_recv().is_err(), "the proxy was not asked for the stranger");
    let named = registry.foreign_url().trim_start_matches("http://").to_owned();
    let upstream = client_with(&registry, |all| {
        through(&url)(all);
        all.proxy_hosts = vec![named];
    });
    assert!(fetch(&upstream, &digest, 0, None).await.bytes == bytes);
}

#[tokio::test]
async fn a_proxy_that_refuses_or_talks_nonsense_is_no_connection() {
    let registry = Registry::start();
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(limits::PROXY_HEAD_BYTES));
    for answer in ["HTTP/1.1 407 No\r\n\r\n", "SSH-2.0-nonsense\r\n\r\n", &endless] {
        let (url, _seen) = proxy(answer.to_owned()).await;
        let failure = pull(&client_with(&registry, through(&url)), "latest").await.unwrap_err();
        assert!(is_unreachable(&failure), "{failure}");
    }
}
