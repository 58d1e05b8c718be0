//! Distribution, the registry that most others descend from: version 3 as `registry`, Debian's 2 as `docker-registry`.

use super::{Kind, recipe::Recipe, words::Words};

const FILE: &str = include_str!("../../peers/distribution.toml");

/// With the given program, `log` and `proxy=http://HOST:PORT`. As a proxy it asks the upstream before it is ready.
pub fn recipe(program: &str, words: &Words) -> Result<Recipe, String> {
    let mut recipe = Recipe::parse(FILE, "bench/peers/distribution.toml")?;
    recipe.name = words.name_without_proxy();
    for first in [&mut recipe.command, &mut recipe.version].into_iter().filter_map(|words| words.first_mut())
    {
        *first = program.to_owned();
    }
    // Its variables go before its file.
    if words.access_log {
        recipe.env.insert("REGISTRY_LOG_ACCESSLOG_DISABLED".to_owned(), "false".to_owned());
    }
    if let Some(upstream) = &words.proxy {
        recipe.env.insert("REGISTRY_PROXY_REMOTEURL".to_owned(), upstream.clone());
        recipe.kind = Kind::Proxy;
    }
    Ok(recipe)
}
