//! The client of one upstream, against a registry that fails and lies as it is told; a module per behaviour.

mod addresses;
mod blobs;
mod breaker;
mod broken_bodies;
mod budget;
mod check;
mod credentials;
mod defaults;
mod healing;
mod http2;
mod lists;
mod manifests;
mod proxy;
mod redirects;
mod rig;
mod sizes;
mod timeouts;
mod tls;
mod tokens;
