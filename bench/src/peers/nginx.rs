//! nginx as the measure of a static file server, and as a caching proxy for the herd.

use std::fmt::Write as _;

use super::{Kind, recipe::Recipe, words::Words};

/// `nginx`, `nginx:log`, `nginx:proxy=http://HOST:PORT`.
pub fn recipe(words: &Words) -> Recipe {
    let root = rustix::process::geteuid().is_root();
    let mut config = String::new();
    // A server of root gives its workers to another user, who may not read the data directory.
    if root {
        config.push_str("user root root;\nworker_rlimit_nofile 65536;\n");
    }
    let access_log = if words.access_log { "access.log" } else { "off" };
    // Its relative paths begin at the prefix, `-p`.
    let _ = write!(
        config,
        "worker_processes {{threads}};\n\
         daemon off;\n\
         pid nginx.pid;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n\
           default_type application/octet-stream;\n\
           access_log {access_log};\n\
           sendfile on;\n\
           tcp_nopush on;\n\
           open_file_cache max=10000 inactive=60s;\n\
           keepalive_requests 1000000000;\n\
           client_body_temp_path body;\n\
           proxy_temp_path proxy;\n\
           fastcgi_temp_path fastcgi;\n\
           uwsgi_temp_path uwsgi;\n\
           scgi_temp_path scgi;\n"
    );
    let (location, name) = match &words.proxy {
        None => ("root data;".to_owned(), words.spec.clone()),
        Some(upstream) => {
            config
                .push_str("proxy_cache_path data/cache levels=1:2 keys_zone=blobs:16m use_temp_path=off;\n");
            // By default a waiter gives up the lock after 5 seconds and asks upstream too.
            let location = format!(
                "proxy_pass {upstream};\n\
                 proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\";\n\
                 proxy_cache blobs;\n\
                 proxy_cache_valid 200 1h;\n\
                 proxy_cache_lock on;\n\
                 proxy_cache_lock_age 10m;\n\
                 proxy_cache_lock_timeout 10m;\n"
            );
            (location, words.name_without_proxy())
        }
    };
    let _ = writeln!(config, "server {{ listen 127.0.0.1:{{port}}; location / {{ {location} }} }}\n}}");
    let command = ["nginx", "-e", "stderr", "-p", "{dir}", "-c", "{dir}/nginx.conf"];
    Recipe {
        name,
        command: command.map(str::to_owned).to_vec(),
        env: Default::default(),
        ready: "/".to_owned(),
        blob: match words.proxy {
            None => "/blobs/{digest}".to_owned(),
            Some(_) => "/v2/{repository}/blobs/{digest}".to_owned(),
        },
        kind: if words.proxy.is_some() { Kind::Proxy } else { Kind::Files },
        place: "{data}/blobs/{digest}".to_owned(),
        version: vec!["nginx".to_owned(), "-v".to_owned()],
        files: [("nginx.conf".to_owned(), config)].into(),
    }
}
